package agent

import (
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/probes"
)

func TestSummary(t *testing.T) {
	var s summary
	for i, d := range []time.Duration{5, 1, 3} {
		s.took = append(s.took, d*time.Millisecond)
		s.failures = i
	}
	if got := s.take(); got != (events.ProbeSummary{Count: 3, Failures: 2, MinMicros: 1000, MedMicros: 3000, MaxMicros: 5000}) {
		t.Errorf("%+v", got)
	}
	if got := s.take(); got != (events.ProbeSummary{}) {
		t.Errorf("taken twice: %+v", got)
	}
}

func up(recovery bool) probes.Fact {
	return probes.Fact{State: events.PostgresUp, InRecovery: recovery, Timeline: 1, LSN: 1000}
}

// TestProbeBeforeTheKill: an answer that was given before PostgreSQL was killed
// does not make it live again after the proof.
func TestProbeBeforeTheKill(t *testing.T) {
	a := still(t, memlog.New())
	a.journal.state = a.journal.state.Hold(1)
	a.reportDead(1, events.CauseFenced, executors.Dead{}, nil)
	a.probed(up(false))
	if !a.provedDead() || a.fact.State != events.PostgresDown {
		t.Errorf("proved dead: %t, state %s", a.provedDead(), a.fact.State)
	}
	for _, d := range said[events.PostgresSeen](a) {
		if d.State == events.PostgresUp {
			t.Error("a dead PostgreSQL is told to be up")
		}
	}
	attached(t, a)
	a.probed(up(false))
	if a.provedDead() || a.fact.State != events.PostgresUp {
		t.Error("one that runs again is not seen")
	}
}

// TestReportsWhatChanged: positions travel in the heartbeat.
func TestReportsWhatChanged(t *testing.T) {
	a := still(t, memlog.New())
	attached(t, a)
	a.probed(up(true))
	f := up(true)
	f.LSN = 2000
	a.probed(f)
	a.emit(stopped(1)) // else the outbox keeps the newest sight only
	if d := said[events.PostgresSeen](a); len(d) != 1 || d[0].LSN != 1000 || d[0].PID != a.watched.PID {
		t.Errorf("seen: %+v", d)
	}
	if h := a.pulse(); h.LSN != 2000 || h.Probes.Count != 2 {
		t.Errorf("the heartbeat says %+v", h)
	}
	f.State = events.PostgresSilent
	a.probed(f)
	if d := said[events.PostgresSeen](a); d[len(d)-1].State != events.PostgresSilent || a.probes.failures != 1 {
		t.Errorf("seen: %+v, %d failures", d, a.probes.failures)
	}
}

// TestForeignWriter: a PostgreSQL that takes writes though the log names another
// primary is stopped; a standby, and whatever runs before the first term, is not.
func TestForeignWriter(t *testing.T) {
	a := still(t, memlog.New())
	s := attached(t, a)
	a.probed(up(false))
	if a.expecting() {
		t.Fatal("stopped before the log names any primary")
	}
	decide(t, a, grant(1, "db2", false))
	a.probed(up(true))
	if a.expecting() {
		t.Fatal("a standby is stopped")
	}
	a.probed(up(false))
	carry(t, a, "the writer is stopped", s.dead)
}

// TestWriterOfAnEndedTerm: the log still names this node, but its lease ended
// here; who starts PostgreSQL by hand gets no second chance without a new term.
func TestWriterOfAnEndedTerm(t *testing.T) {
	a := still(t, memlog.New())
	has(t, a, 1)
	s := attached(t, a)
	a.probed(up(false))
	if a.expecting() {
		t.Fatal("a primary that holds its lease is stopped")
	}
	a.lease = a.lease.Surrendered()
	a.probed(up(true))
	if a.expecting() {
		t.Fatal("a read-only PostgreSQL is stopped")
	}
	a.probed(up(false))
	carry(t, a, "the writer is stopped", s.dead)
}

// TestLeftoverLease: where no proof could be had, the guardian must not stop the
// standby that was made here since.
func TestLeftoverLease(t *testing.T) {
	a := still(t, memlog.New())
	decide(t, a, grant(2, "db2", false))
	attached(t, a)
	a.leaseFile.Write(ending(1, time.Hour))
	a.probed(up(true))
	if fileHeld(a) {
		t.Error("a standby is still guarded as the primary of an old term")
	}
	decide(t, a, grant(3, "db1", false))
	a.leaseFile.Write(ending(3, time.Hour))
	a.probed(up(true)) // not promoted yet
	if !fileHeld(a) {
		t.Error("the lease of the term that this node holds was cleared")
	}
}

// TestUnexpectedEnd: a primary that ended uncleanly is given up and proved dead;
// a standby is only told of, and during a pause nothing is done.
func TestUnexpectedEnd(t *testing.T) {
	for name, c := range map[string]struct {
		primary, paused, surrenders bool
	}{
		"primary": {true, false, true}, "standby": {false, false, false}, "paused primary": {true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := still(t, memlog.New())
			s := attached(t, a)
			if c.primary {
				has(t, a, 1)
			}
			a.view.paused = c.paused
			kill(s.pid)
			carry(t, a, "it is noticed", func() bool { return len(said[events.PostgresExited](a)) == 1 })
			if a.watcher != nil || said[events.PostgresExited](a)[0].PID != s.pid {
				t.Errorf("exited: %+v", said[events.PostgresExited](a))
			}
			if a.expecting() != c.surrenders || a.lease.Held != (c.primary && !c.surrenders) {
				t.Errorf("surrenders: %t, lease held: %t", a.expecting(), a.lease.Held)
			}
		})
	}
}

// TestLateWordOfAnEnd: the end of a postmaster that an action caused is no news,
// though the word of it comes after the action is over.
func TestLateWordOfAnEnd(t *testing.T) {
	a := still(t, memlog.New())
	s := serveIn(t, a.cfg.Postgres.DataDir, true)
	inc, ok, err := executors.FindPostmaster(a.cfg.Postgres.DataDir)
	if err != nil || !ok {
		t.Fatalf("found: %t, %v", ok, err)
	}
	w, err := executors.Watch(inc)
	if err != nil {
		t.Fatal(err)
	}
	a.watcher, a.watched = w, inc
	ended := a.stopping()
	kill(s.pid)
	until(t, "it has ended", s.dead)
	ended()
	carry(t, a, "the action is over", func() bool { return !a.expecting() })
	a.exited(w, inc) // only now
	if a.watcher != nil || len(said[events.PostgresExited](a)) > 0 {
		t.Errorf("watched: %t, told: %+v", a.watcher != nil, said[events.PostgresExited](a))
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{{"db1", "db1", true}, {"db1", "/run", true}, {"localhost", "::1", true}, {"127.0.0.1", "10.0.0.1", false}, {"db1", "db2", false}} {
		if sameHost(c.a, c.b) != c.same {
			t.Errorf("%s and %s: %t", c.a, c.b, !c.same)
		}
	}
}

// TestProbesOfAllKindsKeepOneGrid: what falls due together shares a wake-up.
func TestProbesOfAllKindsKeepOneGrid(t *testing.T) {
	for _, ms := range []time.Duration{0, 1, 249, 250, 251, 999, 1000, 123456} {
		for _, every := range []time.Duration{250, 500, 1000} {
			if d := untilNext(ms, every); d <= 0 || d > every || (ms+d)%every != 0 {
				t.Errorf("at %d the next multiple of %d is %d away, expected 1 to %d", ms, every, d, every)
			}
		}
	}
}
