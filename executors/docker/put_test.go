package docker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/executors/docker"
)

// TestSharedStorage: what two containers mount is named, whichever part of it;
// what a container has for itself is not.
func TestSharedStorage(t *testing.T) {
	c := engine(t)
	dir := t.TempDir()
	for _, sub := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	one := beginOn(t, c, []string{filepath.Join(dir, "a") + ":/data", filepath.Join(dir, "b") + ":/own"})
	two := beginOn(t, c, []string{dir + ":/all"})
	r := docker.New(docker.Options{Container: one})
	t.Cleanup(func() { _ = r.Close() })
	for path, shared := range map[string]bool{"/data/pg": true, "/data": true, "/own/x": true, "/etc/pg": false, "/database": false} {
		others, err := r.SharedWith(t.Context(), path)
		if err != nil || (len(others) > 0) != shared {
			t.Errorf("%s: shared with %q, %v; expected %t", path, others, err, shared)
		}
	}
	if err := docker.New(docker.Options{Container: two}).Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if others, err := r.SharedWith(t.Context(), "/data"); err != nil || len(others) != 0 {
		t.Errorf("with one that does not run: %q, %v", others, err)
	}
}

// TestPutIntoStopped: a file goes into a container that has ended, volumes
// included, only beside what is expected there, and never into one that runs.
func TestPutIntoStopped(t *testing.T) {
	c := engine(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("15\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := docker.New(docker.Options{Container: beginOn(t, c, []string{dir + ":/data"})})
	t.Cleanup(func() { _ = r.Close() })
	if err := r.PutIntoStopped(t.Context(), "/data/standby.signal", "PG_VERSION", nil); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("into one that runs: %v", err)
	}
	if err := r.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.PutIntoStopped(t.Context(), "/tmp/standby.signal", "PG_VERSION", nil); err == nil || !strings.Contains(err.Error(), "/tmp/PG_VERSION") {
		t.Errorf("where no data directory is: %v", err)
	}
	if err := r.PutIntoStopped(t.Context(), "/data/standby.signal", "PG_VERSION", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "standby.signal")); err != nil || string(b) != "x" {
		t.Errorf("it holds %q, %v", b, err)
	}
}
