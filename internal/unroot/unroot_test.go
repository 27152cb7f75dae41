package unroot_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/interrex-ha/interrex/internal/unroot"
)

func TestMain(m *testing.M) { unroot.Main(m) }

func TestTestsDoNotRunAsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Fatal("the tests run as root, expected another account")
	}
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatalf("the temporary directory cannot be written: %v", err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), "x"), nil, 0o600); err != nil && os.Getppid() != 1 {
		t.Errorf("HOME cannot be written: %v", err)
	}
}

func TestAccountIsUnprivileged(t *testing.T) {
	uid, _, _, err := unroot.Account()
	if err != nil {
		t.Fatal(err)
	}
	if uid != uint32(os.Geteuid()) {
		t.Errorf("uid %d, expected the caller's own %d", uid, os.Geteuid())
	}
}
