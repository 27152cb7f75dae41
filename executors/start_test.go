package executors_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

func (s solo) hasSignal() bool {
	_, err := os.Stat(filepath.Join(s.DataDir, "standby.signal"))
	return err == nil
}

func TestStartAndStop(t *testing.T) {
	s := newSolo(t)
	pid := s.up(true).PID
	if !s.hasSignal() || s.text("pg_is_in_recovery()") != "true" {
		t.Error("started as a standby it is read-write")
	}
	if _, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{}); !errors.Is(err, executors.ErrRunning) || !strings.Contains(err.Error(), itoa(pid)) {
		t.Errorf("a second start gave %v, expected ErrRunning and the process's number", err)
	}
	if !s.hasSignal() {
		t.Error("a start that was refused removed standby.signal from a running standby")
	}
	for _, mode := range []string{"fast", "immediate", "fast"} {
		if err := executors.Stop(t.Context(), s.Postgres, mode); err != nil {
			t.Fatal(err)
		}
		s.nothingLives()
		if err := executors.Stop(t.Context(), s.Postgres, mode); err != nil {
			t.Errorf("the second %s stop gave %v, expected nil", mode, err)
		}
		s.up(false)
		if s.hasSignal() || s.text("pg_is_in_recovery()") != "false" {
			t.Errorf("after a %s stop and a start as primary it is read-only", mode)
		}
	}
	if err := executors.Stop(t.Context(), s.Postgres, "smart"); err == nil || !strings.Contains(err.Error(), "smart") {
		t.Errorf("a mode that does not exist gave %v", err)
	}
}

func TestStartOverAStaleLockFile(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	s.crash()
	lock := filepath.Join(s.DataDir, "postmaster.pid")
	b, err := os.ReadFile(lock)
	if err != nil {
		t.Fatalf("the test needs a stale postmaster.pid: %v", err)
	}
	// The number lives again, as another program of the same user: PostgreSQL
	// itself would refuse.
	_, rest, _ := strings.Cut(string(b), "\n")
	child := sleeper(t)
	if err := os.WriteFile(lock, []byte(itoa(child)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	s.up(false)
	if err := syscall.Kill(child, 0); err != nil {
		t.Errorf("the other program was killed: %v", err)
	}
}

func TestStartRefusesOverLivingBackends(t *testing.T) {
	s := newSolo(t)
	pid := s.up(false).PID
	l := s.load(1)
	soloSignal(t, pid, syscall.SIGKILL)
	soloUntil(t, "the postmaster is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	_, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{})
	if err == nil || !strings.Contains(err.Error(), "prove it dead") {
		t.Errorf("a start beside an orphaned backend gave %v, expected a refusal", err)
	}
	s.crash()
	l.wg.Wait()
}

func TestStartThatFails(t *testing.T) {
	s := newSolo(t)
	s.dead(0)
	_, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{Extra: []string{"-c", "no_such_setting=1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") || !strings.Contains(err.Error(), "db1") {
		t.Errorf("%v, expected the server's own complaint", err)
	}
	if !s.hasSignal() {
		t.Error("after a start that failed anybody can start it read-write")
	}
	err = executors.WaitAccepting(t.Context(), s.Postgres)
	if err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("waiting for a server that is not there gave %v", err)
	}
	s.BinDir = "/no/such/bin"
	if _, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{}); err == nil || !strings.Contains(err.Error(), "/no/such/bin/postgres") {
		t.Errorf("%v, expected an error that names the program", err)
	}
	s.DataDir = t.TempDir()
	if _, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{}); err == nil || !strings.Contains(err.Error(), "PG_VERSION") {
		t.Errorf("%v, expected an error that names PG_VERSION", err)
	}
}

// The configuration may stand elsewhere, as on Debian.
func TestStartWithItsConfigurationElsewhere(t *testing.T) {
	s := newSolo(t)
	dir := filepath.Dir(s.DataDir)
	for _, f := range []string{"postgresql.conf", "pg_hba.conf"} {
		if err := os.Rename(filepath.Join(s.DataDir, f), filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	s.ConfigFile, s.HBAFile = filepath.Join(dir, "postgresql.conf"), filepath.Join(dir, "pg_hba.conf")
	s.up(false)
	if got := s.text("current_setting('config_file')"); got != s.ConfigFile {
		t.Errorf("config_file is %s, expected %s", got, s.ConfigFile)
	}
}

func TestWaitAcceptingSeesTheEnd(t *testing.T) {
	s := newSolo(t)
	if _, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{Standby: true, Extra: []string{"-c", "hot_standby=off"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := executors.WaitAccepting(ctx, s.Postgres); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that accepts nobody gave %v, expected the deadline", err)
	}
	s.crash()
	if err := executors.WaitAccepting(t.Context(), s.Postgres); err == nil || !strings.Contains(err.Error(), "Hot standby mode") {
		t.Errorf("%v, expected the last lines of its log", err)
	}
}

func sleeper(t *testing.T) int {
	t.Helper()
	r, ok := newSolo(t).Runner.(executors.Spawner)
	if !ok {
		t.Fatal("the local runner starts no lasting programs")
	}
	pid, err := r.Spawn(t.Context(), executors.Command{Path: "sleep", Args: []string{"600"}}, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}
