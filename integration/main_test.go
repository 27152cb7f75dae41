// Package integration breaks real clusters that the real binary runs, as users
// run it: interrex up in a process, an agent for each node in its own,
// PostgreSQL beside them. Tests wait for what the log says, never for time.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// binary is the interrex under test, in a directory that every user may enter:
// as root, interrex goes on as the user postgres.
var binary string

func TestMain(m *testing.M) {
	// What is started must not inherit an ignored SIGHUP (the tests may run under
	// nohup): a signal that is taken here is set to its default in a child.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// build compiles interrex; with INTERREX_TEST_RACE=1 with the race detector.
func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "ixbin"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	binary = filepath.Join(dir, "interrex")
	args := []string{"build", "-buildvcs=false", "-o", binary}
	cgo := "CGO_ENABLED=0"
	if os.Getenv("INTERREX_TEST_RACE") == "1" {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.Command("go", append(args, "github.com/interrex-ha/interrex/cmd/interrex")...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("build interrex: %w\n%s", err, out)
	}
	return dir, nil
}
