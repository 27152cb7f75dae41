//go:build linux

// Package api runs the real binary's HTTP API before real PostgreSQL servers,
// and Debian's HAProxy before both, as a user would.
package api

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is interrex, in a directory that every user may enter: as root it goes
// on as the user postgres.
var binary string

func TestMain(m *testing.M) {
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "api:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "ixbin"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	binary = filepath.Join(dir, "interrex")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/interrex-ha/interrex/cmd/interrex").CombinedOutput()
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("build interrex: %w\n%s", err, out)
	}
	return dir, nil
}
