package ssh_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/internal/sshdtest"
)

// TestReasons: the other host's refusals are the same errors as this host's, and
// what cannot be looked at is not taken for absent.
func TestReasons(t *testing.T) {
	w := sshdtest.New(t, login(t))
	r := opened(t, at(t, w, w.Serve(t).Port))
	ctx := t.Context()
	dir := t.TempDir() // the way to it is barred to other accounts
	made, err := r.Run(ctx, executors.Command{Path: "mktemp", Args: []string{"-d"}})
	if err != nil {
		t.Fatal(err)
	}
	own := strings.TrimSpace(string(made.Stdout))
	defer func() { _, _ = r.Run(context.Background(), executors.Command{Path: "rm", Args: []string{"-rf", own}}) }()
	barred := filepath.Join(own, "barred")
	if _, err := r.Run(ctx, executors.Command{Path: "sh", Args: []string{"-c", `mkdir "$1" && echo x >"$1/f" && echo x >"$1.f" && chmod 0 "$1" "$1.f"`, "sh", barred}}); err != nil {
		t.Fatal(err)
	}
	read := func(path string) error { _, err := r.ReadFile(ctx, path); return err }
	stat := func(path string) error { _, err := r.Stat(ctx, path); return err }
	write := func(path string) error { return r.WriteFile(ctx, path, []byte("x"), 0o600) }
	remove := func(path string) error { return r.Remove(ctx, path) }
	for _, c := range []struct {
		what string
		do   func(string) error
		path string
		want error
	}{
		{"read", read, barred + ".f", fs.ErrPermission},
		{"read", read, barred + "/f", fs.ErrPermission},
		{"stat", stat, barred + "/f", fs.ErrPermission},
		{"remove", remove, barred + "/f", fs.ErrPermission},
		{"remove", remove, barred + "/absent", fs.ErrPermission},
		{"read", read, own, syscall.EISDIR},
		{"write", write, own, syscall.EISDIR},
		{"remove", remove, own, syscall.EISDIR},
		{"read", read, barred + ".f/below", syscall.ENOTDIR},
		{"write", write, barred + ".f/below", syscall.ENOTDIR},
		{"write", write, own + "/absent/f", fs.ErrNotExist},
		{"write", write, "/proc/f", nil},
		{"read", read, own + "/absent", fs.ErrNotExist},
		{"stat", stat, own + "/absent/below", fs.ErrNotExist},
	} {
		err := c.do(c.path)
		if err == nil || !strings.Contains(err.Error(), c.path) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s %s: %v, expected %v", c.what, c.path, err, c.want)
		}
	}
	if _, err := r.Stat(ctx, dir); os.Geteuid() == 0 && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("stat of another account's directory: %v", err)
	}
	if err := r.WriteFile(ctx, own+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Rename(ctx, own+"/f", "/dev/shm/interrex-test"); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("to another file system: %v, expected %v", err, syscall.EXDEV)
	}
	if err := r.Rename(ctx, own+"/f", own+"/absent/f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a directory that is not there: %v", err)
	}
}

// TestStatIsTheSame compares with what the system says of the same files.
func TestStatIsTheSame(t *testing.T) {
	w := sshdtest.New(t, login(t))
	r := opened(t, at(t, w, w.Serve(t).Port))
	for _, path := range []string{"/etc/passwd", "/tmp", "/dev/null", "/bin/sh", "/usr/bin/passwd", w.Key, w.ClientConfig, "/proc/self/mounts"} {
		want, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Stat(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got.Name() != want.Name() || got.Size() != want.Size() || got.Mode() != want.Mode() || got.IsDir() != want.IsDir() {
			t.Errorf("%s: %s %d %s, expected %s %d %s", path, got.Name(), got.Size(), got.Mode(), want.Name(), want.Size(), want.Mode())
		}
		if path != "/tmp" && !strings.HasPrefix(path, "/proc") && !got.ModTime().Equal(want.ModTime()) {
			t.Errorf("%s: %s, expected %s", path, got.ModTime(), want.ModTime())
		}
	}
}
