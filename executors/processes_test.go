package executors_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

func TestFindPostmaster(t *testing.T) {
	s := newSolo(t)
	if inc, ok, err := executors.FindPostmaster(s.DataDir); ok || err != nil {
		t.Fatalf("a stopped server: %+v, %t, %v; expected none", inc, ok, err)
	}
	started := s.up(false)
	link := filepath.Join(filepath.Dir(s.DataDir), "link")
	if err := os.Symlink(s.DataDir, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.DataDir, link} {
		inc, ok, err := executors.FindPostmaster(dir)
		if err != nil || !ok || inc != started.Incarnation || inc.PID != started.PID || inc.StartTicks == 0 || inc.BootID == "" || inc.PIDNS == "" || inc.IPCNS == "" {
			t.Fatalf("%s: %+v, %t, %v; expected %+v, all of it known", dir, inc, ok, err, started.Incarnation)
		}
		s.sameProcesses(dir)
	}
	b, _ := json.Marshal(started.Incarnation)
	var back executors.Incarnation
	if err := json.Unmarshal(b, &back); err != nil || back != started.Incarnation {
		t.Errorf("through JSON: %+v, %v", back, err)
	}
	if free, err := executors.SharedMemoryFree(s.DataDir); free || err != nil {
		t.Errorf("the shared memory of a running server is free: %t, %v", free, err)
	}
	if executors.Stopped(started.Incarnation) {
		t.Error("a running postmaster counts as frozen")
	}
}

// sameProcesses waits until ProcessesOf and ps agree on what belongs to the
// directory: short-lived children (autovacuum workers, backends) come and go
// between two looks.
func (s solo) sameProcesses(dir string) {
	s.t.Helper()
	soloUntil(s.t, "ProcessesOf "+dir+" and ps agree", func() bool {
		procs, err := executors.ProcessesOf(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		ps := s.processes()
		same := len(procs) == len(ps) && len(procs) >= 4
		for i := 0; same && i < len(ps); i++ {
			same = slices.ContainsFunc(ps, func(l string) bool { return strings.HasPrefix(l, itoa(procs[i].PID)+" ") })
		}
		return same
	})
}

// Another process may have got the number that postmaster.pid names.
func TestFindPostmasterIsNotFooledByANumber(t *testing.T) {
	s := newSolo(t)
	lock := filepath.Join(s.DataDir, "postmaster.pid")
	for text, wantErr := range map[string]bool{
		"1\n": false, "4194300\n": false, itoa(os.Getpid()) + "\n/x\n1\n5432\n": false, "": true, "x\n": true, "0\n": true, "1\n\n\n\n\n\nshared\n": true,
	} {
		if err := os.WriteFile(lock, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if inc, ok, err := executors.FindPostmaster(s.DataDir); ok || (err != nil) != wantErr {
			t.Errorf("%q: %+v, %t, %v; expected no postmaster, and an error: %t", text, inc, ok, err, wantErr)
		}
	}
	if _, _, err := executors.FindPostmaster(filepath.Join(s.DataDir, "absent")); err != nil {
		t.Errorf("a directory that does not exist: %v, expected no postmaster", err)
	}
	if _, err := executors.ProcessesOf(filepath.Join(s.DataDir, "absent")); err == nil {
		t.Error("the processes of a directory that does not exist are known")
	}
}

func TestWatch(t *testing.T) {
	s := newSolo(t)
	inc := s.up(false).Incarnation
	w, err := executors.Watch(inc)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	closed, err := executors.Watch(inc)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	closed.Close() // more than once is allowed
	select {
	case <-w.Done():
		t.Fatal("a living process is done")
	default:
	}
	began := time.Now()
	if err := w.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Done():
		t.Logf("noticed after %s", time.Since(began))
	case <-time.After(patience):
		t.Fatal("its end was not noticed")
	}
	select {
	case <-closed.Done():
		t.Fatal("a closed watcher goes on watching")
	default:
	}
	if err := w.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to an ended process gave %v, expected os.ErrProcessDone", err)
	}
	if _, err := executors.Watch(inc); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("watching an ended process gave %v, expected os.ErrProcessDone", err)
	}
	other := inc
	other.PID = os.Getpid() // the number lives, the incarnation does not
	if _, err := executors.Watch(other); err == nil {
		t.Error("a process that got the number later is watched")
	}
}

// A zombie answers kill(pid, 0), and nobody reaps it for as long as its parent
// likes: it must count as dead everywhere.
func TestZombieIsDead(t *testing.T) {
	s := newSolo(t)
	cmd := exec.Command(s.Bin("postgres"), "-D", s.DataDir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	soloUntil(t, "it runs", func() bool { _, ok, err := executors.FindPostmaster(s.DataDir); return ok && err == nil })
	inc, _, _ := executors.FindPostmaster(s.DataDir)
	if err := executors.WaitAccepting(ctx, s.Postgres); err != nil {
		t.Fatal(err)
	}
	w, err := executors.Watch(inc)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := executors.KillAll(ctx, s.DataDir); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Done():
	case <-ctx.Done():
		t.Fatal("the watcher does not see that a zombie has ended")
	}
	if state := strings.TrimSpace(soloRun(t, "ps", "-o", "stat=", "-p", itoa(inc.PID))); !strings.HasPrefix(state, "Z") {
		t.Fatalf("the postmaster has the state %q, the test needs a zombie", state)
	}
	if _, err := executors.Watch(inc); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("watching a zombie gave %v, expected os.ErrProcessDone", err)
	}
	if inc, ok, err := executors.FindPostmaster(s.DataDir); ok || err != nil {
		t.Errorf("a zombie is a postmaster: %+v, %v", inc, err)
	}
	if err := executors.Stop(ctx, s.Postgres, "fast"); err != nil {
		t.Errorf("Stop of a zombie: %v", err)
	}
	s.dead(0)
	s.up(true) // over the stale postmaster.pid, whose number still exists
}

func TestKillAllLeavesTheCallerAndOthers(t *testing.T) {
	s := newSolo(t)
	other := newSolo(t)
	pid := other.up(false).PID
	s.up(false)
	t.Chdir(s.DataDir)
	shell := exec.Command("sleep", "600") // works in the data directory as well
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := executors.KillAll(ctx, s.DataDir)
	if err != nil || n == 0 {
		t.Fatalf("killed %d, %v; expected a server and what works in its directory", n, err)
	}
	if left, err := executors.ProcessesOf(s.DataDir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v; expected nothing but this process", left, err)
	}
	if err := shell.Wait(); err == nil {
		t.Error("a program that works in the data directory survived")
	}
	if inc, ok, _ := executors.FindPostmaster(other.DataDir); !ok || inc.PID != pid {
		t.Error("another server was killed")
	}
	if n, err := executors.KillAll(ctx, s.DataDir); err != nil || n != 0 {
		t.Errorf("the second time: %d, %v; expected nothing to kill", n, err)
	}
}
