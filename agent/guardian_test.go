package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// guarded is a guardian that the test turns, over a directory of its own.
func guarded(t *testing.T) (*guardian, string) {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	return &guardian{file: openLease(t, LeasePath(dir), "boot"), dataDir: data, logger: quiet, needed: Now().Boot}, data
}

// ending is a lease whose fence begins after d.
func ending(term uint64, d time.Duration) Lease {
	return Lease{Expiry: Now().Add(d + time.Second), Budget: time.Second, Held: true, Term: term, Grant: term}
}

func signalled(data string) bool {
	_, err := os.Stat(filepath.Join(data, "standby.signal"))
	return err == nil
}

// TestGuardianFencesAtTheEnd: not before the lease's end less its budget, and
// then all of it, read-only from then on; and each lease once.
func TestGuardianFencesAtTheEnd(t *testing.T) {
	g, data := guarded(t)
	s := serveIn(t, data, true)
	g.file.Write(ending(1, time.Hour))
	if !g.turn(t.Context()) || g.nap != guardianNap {
		t.Errorf("long before the end it naps %s", g.nap)
	}
	g.file.Write(ending(1, 100*time.Millisecond))
	if !g.turn(t.Context()) || g.nap > 100*time.Millisecond || g.nap < 50*time.Millisecond {
		t.Errorf("100 ms before the end it naps %s", g.nap)
	}
	if s.dead() || signalled(data) || g.file.get(wordFenced) != 0 {
		t.Fatal("it fenced before the end")
	}
	g.file.Write(ending(1, 0))
	if !g.turn(t.Context()) {
		t.Error("a guardian that has fenced ends, though the lease stands")
	}
	until(t, "the process is killed", s.dead)
	if !signalled(data) || g.file.get(wordFenced) == 0 {
		t.Errorf("standby.signal is there: %t; fenced at %d", signalled(data), g.file.get(wordFenced))
	}
	next := serveIn(t, data, true)
	g.turn(t.Context())
	g.file.Write(ending(2, time.Hour)) // resumed under a new term
	g.turn(t.Context())
	if next.dead() {
		t.Fatal("it killed what was started under a new term")
	}
	g.file.Write(ending(2, 0))
	g.turn(t.Context())
	until(t, "the end of the new term", next.dead)
}

// TestGuardianLetsLive: what may outlive its lease, and what holds none.
func TestGuardianLetsLive(t *testing.T) {
	g, data := guarded(t)
	s := serveIn(t, data, true)
	stays := ending(1, -time.Hour)
	stays.Stay = true
	released := ending(1, -time.Hour)
	released.Held = false
	for _, v := range []Lease{stays, released, {}} {
		g.file.Write(v)
		if !g.turn(t.Context()) || s.dead() || g.file.get(wordFenced) != 0 {
			t.Fatalf("fenced under %+v", v)
		}
	}
}

// TestGuardianOfAHalfWrittenLease: an agent that is merely asleep in the middle
// of a write gets a moment; one that was killed there does not get more.
func TestGuardianOfAHalfWrittenLease(t *testing.T) {
	g, data := guarded(t)
	s := serveIn(t, data, true)
	halfWritten(g.file, ending(1, time.Hour))
	for range 3 {
		if g.turn(t.Context()); g.nap > tornNap || s.dead() {
			t.Fatalf("naps %s, killed: %t", g.nap, s.dead())
		}
	}
	g.file.Write(ending(1, time.Hour))
	if g.turn(t.Context()); s.dead() || g.torn != 0 {
		t.Fatalf("killed: %t; looks counted: %d", s.dead(), g.torn)
	}
	halfWritten(g.file, ending(1, time.Hour))
	for range tornTries {
		g.turn(t.Context())
	}
	if s.dead() {
		t.Fatal("killed too early")
	}
	g.turn(t.Context())
	until(t, "fenced", s.dead)
	if v, ok := g.file.Read(); !ok || v.Held {
		t.Errorf("not repaired: %+v, %t", v, ok)
	}
}

// TestGuardianOfAHalfWrittenLeaseThatWasOver: an agent that was killed while it
// extended a lease cannot delay its end.
func TestGuardianOfAHalfWrittenLeaseThatWasOver(t *testing.T) {
	g, data := guarded(t)
	s := serveIn(t, data, true)
	g.file.Write(ending(1, 30*time.Millisecond))
	g.turn(t.Context())
	halfWritten(g.file, ending(1, time.Hour))
	until(t, "the end of the lease that was read whole", func() bool { return over(g.last, Now()) })
	if g.turn(t.Context()); g.torn > 0 {
		t.Error("it waits though the lease is over")
	}
	until(t, "fenced", s.dead)
}

// TestGuardianTriesAgain: what could not be killed is not done with.
func TestGuardianTriesAgain(t *testing.T) {
	g, data := guarded(t)
	g.dataDir = filepath.Join(data, "not-there-yet")
	g.file.Write(ending(1, 0))
	g.turn(t.Context())
	if err := os.Mkdir(g.dataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := serveIn(t, g.dataDir, true)
	until(t, "fenced", func() bool { g.turn(t.Context()); return s.dead() })
}

// TestGuardianIsNeeded: it ends when it is told to, and when for orphaned nobody
// held a lease and no agent lived.
func TestGuardianIsNeeded(t *testing.T) {
	g, data := guarded(t)
	g.needed = Now().Boot - orphaned - time.Second
	if g.turn(t.Context()) {
		t.Error("an orphaned guardian goes on")
	}
	s := serveIn(t, data, false)
	g.file.set(wordAgentPID, uint64(s.pid))
	if !g.turn(t.Context()) {
		t.Error("a guardian with an agent ends")
	}
	g.file.set(wordAgentPID, 0)
	g.needed = Now().Boot - orphaned - time.Second
	g.file.Write(ending(1, time.Hour))
	if !g.turn(t.Context()) {
		t.Error("a guardian of a lease that runs ends")
	}
	g.file.set(wordQuit, 1)
	if g.turn(t.Context()) {
		t.Error("a guardian that was told to end goes on")
	}
}

// TestRunGuardian: one for each node; it ticks, and says when it is gone.
func TestRunGuardian(t *testing.T) {
	dir := t.TempDir()
	boot, err := executors.BootID()
	if err != nil {
		t.Fatal(err)
	}
	l := openLease(t, LeasePath(dir), boot)
	ended := make(chan error, 1)
	go func() { ended <- RunGuardian(context.Background(), dir, dir, quiet) }()
	until(t, "it ticks", func() bool { return l.get(wordGuardianTick) != 0 })
	if l.GuardianPID() != os.Getpid() {
		t.Errorf("guardian %d, expected %d", l.GuardianPID(), os.Getpid())
	}
	if err := RunGuardian(t.Context(), dir, dir, quiet); !errors.Is(err, errLocked) {
		t.Errorf("a second guardian: %v", err)
	}
	l.set(wordQuit, 1)
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if l.get(wordGuardianTick) != 0 {
		t.Error("one that has ended still seems to tick")
	}
}
