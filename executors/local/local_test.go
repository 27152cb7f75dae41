package local_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/executortest"
	"github.com/interrex-ha/interrex/executors/local"
)

func TestSuite(t *testing.T) {
	executortest.Suite(t, func(*testing.T) executors.Runner { return local.New() })
}

// Names that begin with a dash are the runner's own business only where a path
// is relative; the suite's are absolute.
func TestRelativeNameWithLeadingDash(t *testing.T) {
	t.Chdir(t.TempDir())
	r := local.New()
	if err := r.WriteFile(t.Context(), "-rf", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Rename(t.Context(), "-rf", "--"); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), "--"); err != nil {
		t.Fatal(err)
	}
}

func TestLongLineIsDeliveredInParts(t *testing.T) {
	var parts []string
	_, err := local.New().Run(t.Context(), executors.Command{
		Path: "cat", Stdin: bytes.Repeat([]byte("x"), 200<<10), Line: func(l string) { parts = append(parts, l) },
	})
	if err != nil || len(parts) < 2 || len(strings.Join(parts, "")) != 200<<10 {
		t.Fatalf("%d parts of together %d bytes, %v; expected several, together %d", len(parts), len(strings.Join(parts, "")), err, 200<<10)
	}
}

func TestSpawnedProgramIsDetachedAndReaped(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pid, err := local.New().Spawn(t.Context(), executors.Command{
		Path: "sh", Args: []string{"-c", `echo "$IX $(pwd -P)"; echo oops >&2; exec sleep 600`}, Env: []string{"IX=set"}, Dir: dir,
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	until(t, "the log holds both lines after what was there", func() bool {
		b, err := os.ReadFile(log)
		return err == nil && string(b) == "before\nset "+dir+"\noops\n"
	})
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("its process group is %d, %v; expected its own, %d", pgid, err, pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "no zombie of "+strconv.Itoa(pid)+" is left", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

func TestSpawnNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ program, log, want string }{
		{"/no/such/program", filepath.Join(dir, "log"), "/no/such/program"},
		{"true", filepath.Join(dir, "absent", "log"), "absent/log"},
	} {
		_, err := local.New().Spawn(t.Context(), executors.Command{Path: c.program}, c.log)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, expected an error that names %s", err, c.want)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := local.New().Spawn(over, executors.Command{Path: "true"}, filepath.Join(dir, "log")); err == nil {
		t.Error("a cancelled context started a program")
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}
