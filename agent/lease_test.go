package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/executors"
)

// TestLeaseIsTakenAndRenewed: a grant is acquired in the log, on condition of the
// decision that granted it, before anything may be written; then it is renewed.
func TestLeaseIsTakenAndRenewed(t *testing.T) {
	log := memlog.New()
	a := still(t, log)
	e := decide(t, a, grant(1, "db1", false))
	if a.lease.Held || fileHeld(a) || a.lease.MayWrite(1, Now(), a.terms()) {
		t.Fatal("held before it was acquired")
	}
	a.stepLease(t.Context(), Now())
	carry(t, a, "the lease is taken", func() bool { return a.lease.Held })
	got := logged[events.LeaseAcquired](t, log)
	if len(got) != 1 || got[0].Term != 1 || got[0].Grant != e.Seq || got[0].Incarnation != a.incarnation {
		t.Errorf("acquired: %+v", got)
	}
	v, ok := a.leaseFile.Read()
	if !ok || !v.Held || v.Term != 1 || v.Expiry != a.lease.Expiry || v.Budget != a.terms().Budget || a.journal.state.Held != 1 {
		t.Errorf("the guardian knows %+v, the journal term %d", v, a.journal.state.Held)
	}
	carry(t, a, "it is renewed", func() bool {
		a.stepLease(t.Context(), Now())
		return len(logged[events.LeaseRenewed](t, log)) > 0
	})
}

// TestLeaseIsConditional: a decision that the agent has not read refuses every
// lease event; once it is read, the agent acts by it.
func TestLeaseIsConditional(t *testing.T) {
	log := memlog.New()
	a := still(t, log)
	e := decide(t, a, grant(1, "db1", false))
	unread := grant(2, "db2", false)
	unread.Controller, unread.BasedOn, unread.Previous = "c1", e.Seq, e.Seq
	next := put(t, log, unread)
	a.stepLease(t.Context(), Now())
	carry(t, a, "the answer", func() bool { return a.lease.Pending == 0 })
	if a.lease.Held || len(logged[events.LeaseAcquired](t, log)) > 0 {
		t.Fatal("a lease was taken under a grant that had ended")
	}
	a.hear(t.Context(), next)
	if a.lease.Grant != 0 || a.mine() {
		t.Error("it still acts by the old grant")
	}
}

// TestGuardianKnowsBeforeTheLog: whoever reads a renewal that cites the end of a
// stay begins to count, so the guardian must count by then.
func TestGuardianKnowsBeforeTheLog(t *testing.T) {
	log := &flaky{Log: memlog.New()}
	a := still(t, log.Log)
	has(t, a, 1)
	decide(t, a, grant(1, "db1", true))
	decide(t, a, grant(1, "db1", false))
	if v, _ := a.leaseFile.Read(); !v.Stay {
		t.Fatalf("the stay ended before anything cited it: %+v", v)
	}
	a.cfg.Log = log
	cited := make(chan Lease, 1)
	log.set(func(context.Context, events.Draft) error {
		v, _ := a.leaseFile.Read()
		cited <- v
		return nil
	}, nil)
	before := Now()
	a.stepLease(t.Context(), Now())
	carry(t, a, "the answer", func() bool { return a.lease.Pending == 0 })
	v := <-cited
	if end := v.Expiry; !v.Held || v.Stay || end.Raw < before.Add(a.terms().Lease).Raw || end.Since(before.Add(a.terms().Lease)) > time.Minute {
		t.Errorf("while the renewal was published the guardian knew %+v", v)
	}
}

// TestLateAnswer: the lease counts from the clock read before the publish, so an
// answer that comes after its end takes nothing.
func TestLateAnswer(t *testing.T) {
	a := still(t, memlog.New())
	decide(t, a, grant(1, "db1", false))
	sent := Now()
	var n uint64
	a.lease, n, _ = a.lease.Send(sent, a.terms())
	a.answered(n, events.LeaseAcquired{}, nil, sent.Add(a.terms().Lease))
	if a.lease.Held || fileHeld(a) || a.journal.state.Held != 0 {
		t.Error("an answer that came after the lease's end took it")
	}
	a.lease.NextSend = Now()
	sent = Now()
	a.lease, n, _ = a.lease.Send(sent, a.terms())
	a.answered(n, events.LeaseAcquired{}, nil, Now())
	if v, _ := a.leaseFile.Read(); !a.lease.Held || v.Expiry != sent.Add(a.terms().Lease) {
		t.Errorf("held: %t until %v; expected a lease from %v", a.lease.Held, v.Expiry, sent)
	}
	before := a.lease.Expiry
	a.answered(n, events.LeaseAcquired{}, nil, Now()) // heard twice
	a.answered(n+7, events.LeaseAcquired{}, nil, Now())
	if a.lease.Expiry != before {
		t.Error("an answer to nothing extended the lease")
	}
}

// endLease makes the lease that is held end now.
func endLease(a *Agent) { a.lease.Expiry = Now() }

// TestLeaseIsOver: PostgreSQL is stopped though there can be no proof (nothing
// here looks like a data directory), and the guardian keeps the lease's end as
// long as there is none.
func TestLeaseIsOver(t *testing.T) {
	a := still(t, memlog.New())
	s := attached(t, a)
	has(t, a, 1)
	endLease(a)
	a.stepLease(t.Context(), Now())
	if a.lease.Held || a.lease.MayWrite(1, Now(), a.terms()) {
		t.Error("the lease is still held")
	}
	carry(t, a, "the end is told", func() bool { return len(said[events.FenceFailed](a)) == 1 })
	until(t, "the server is stopped", s.dead)
	if !fileHeld(a) {
		t.Error("the guardian was told to stop guarding, and nothing is proved")
	}
	if d := said[events.PostgresDead](a); len(d) > 0 {
		t.Errorf("proved: %+v", d)
	}
	carry(t, a, "the end of the action", func() bool { return !a.expecting() })
	if a.watcher != nil || len(said[events.PostgresExited](a)) > 0 {
		t.Errorf("watched: %t; an end that was expected was told as %+v", a.watcher != nil, said[events.PostgresExited](a))
	}
	a.reportDead(1, events.CauseLeaseLost, executors.Dead{}, nil)
	if fileHeld(a) {
		t.Error("after the proof the guardian still guards")
	}
}

// TestRevoked: when the term is given to another node, PostgreSQL is stopped, and
// until that is proved the guardian keeps the old end.
func TestRevoked(t *testing.T) {
	a := still(t, memlog.New())
	s := attached(t, a)
	has(t, a, 1)
	decide(t, a, grant(2, "db2", false))
	if a.lease.Held {
		t.Error("the lease of a term that has ended is held")
	}
	if !fileHeld(a) {
		t.Error("the guardian was told to stop guarding before PostgreSQL was stopped")
	}
	carry(t, a, "the server is stopped", s.dead)
}

// TestTermThatCannotBeRemembered: the log counts this node as the holder of a
// lease that will run out: what takes writes here must be stopped by then.
func TestTermThatCannotBeRemembered(t *testing.T) {
	a := still(t, memlog.New())
	s := attached(t, a)
	decide(t, a, grant(1, "db1", false))
	a.journal.path += "/not/there"
	var n uint64
	a.lease, n, _ = a.lease.Send(Now(), a.terms())
	a.answered(n, events.LeaseAcquired{}, nil, Now())
	if a.lease.Held || a.lease.MayWrite(1, Now(), a.terms()) {
		t.Error("a term that cannot be remembered is held")
	}
	if !fileHeld(a) {
		t.Error("the guardian does not know of the lease that the log knows of")
	}
	carry(t, a, "the server is stopped", s.dead)
}

// TestProofOfAnOlderLife: a proof that was asked for before a newer term was taken
// here does not end that term, and does not stop its PostgreSQL.
func TestProofOfAnOlderLife(t *testing.T) {
	a := still(t, memlog.New())
	a.journal.state = a.journal.state.Hold(1)
	a.acting.Lock()
	a.proveDead(events.CauseLeaseLost, nil)
	s := attached(t, a)
	has(t, a, 2)
	a.acting.Unlock()
	carry(t, a, "the old proof is given up", func() bool { return !a.expecting() })
	if s.dead() || !a.lease.Held || len(said[events.FenceFailed](a)) > 0 {
		t.Errorf("stopped: %t, lease held: %t, said %+v", s.dead(), a.lease.Held, said[events.FenceFailed](a))
	}
	a.reportDead(1, events.CauseLeaseLost, executors.Dead{}, nil)
	if !a.lease.Held || !fileHeld(a) {
		t.Error("a proof of term 1 ended the lease of term 2")
	}
	if d := said[events.PostgresDead](a); len(d) != 1 || d[0].Term != 1 {
		t.Errorf("proved: %+v", d)
	}
}

// TestProvedOnce: a proof counts until PostgreSQL runs again or a newer term is
// taken: an order to fence is then carried out anew.
func TestProvedOnce(t *testing.T) {
	a := still(t, memlog.New())
	a.journal.state = a.journal.state.Hold(1)
	if a.provedDead() {
		t.Error("proved without a proof")
	}
	a.reportDead(1, events.CauseFenced, executors.Dead{}, nil)
	if !a.provedDead() {
		t.Error("not proved after the proof")
	}
	a.journal.state = a.journal.state.Hold(2)
	if a.provedDead() {
		t.Error("a proof of term 1 is taken for one of term 2")
	}
	a.reportDead(2, events.CauseFenced, executors.Dead{}, nil)
	a.leaseFile.Write(ending(2, time.Hour))
	a.surrender(events.CauseLeaseLost)
	if fileHeld(a) || a.expecting() {
		t.Errorf("what is dead already: guarded %t, stopped again %t", fileHeld(a), a.expecting())
	}
	attached(t, a)
	if a.provedDead() {
		t.Error("a PostgreSQL that runs is proved dead")
	}
}

// TestInherit: what an agent that starts anew makes of a PostgreSQL that runs and
// the lease that an earlier run left.
func TestInherit(t *testing.T) {
	for name, c := range map[string]struct {
		stay   bool
		before uint64 // term that the journal says was held
		left   func() Lease
		torn   bool
		held   bool // is the lease held now
		killed bool
	}{
		"a lease that runs":                    {before: 3, left: func() Lease { return ending(3, time.Hour) }, held: true},
		"a lease that is over":                 {before: 3, left: func() Lease { return ending(3, 0) }, killed: true},
		"a lease of an older term":             {before: 3, left: func() Lease { return ending(2, time.Hour) }, killed: true},
		"no lease":                             {before: 3, left: func() Lease { return Lease{} }, killed: true},
		"a half-written lease":                 {before: 3, left: func() Lease { return ending(3, time.Hour) }, torn: true, killed: true},
		"no lease, it may stay":                {before: 3, stay: true, left: func() Lease { return Lease{} }, held: true},
		"it stayed, the grant ended meanwhile": {before: 3, left: func() Lease { l := ending(3, 0); l.Stay = true; return l }, held: true},
		"granted while nobody was here":        {before: 2, left: func() Lease { return Lease{} }},
		"granted, may stay, never acquired":    {before: 2, stay: true, left: func() Lease { return Lease{} }},
		"granted, and an older lease is over":  {before: 2, left: func() Lease { return ending(2, 0) }},
	} {
		t.Run(name, func(t *testing.T) {
			a := still(t, memlog.New())
			a.view.ready = false
			decide(t, a, grant(3, "db1", c.stay))
			a.journal.state = a.journal.state.Hold(c.before)
			s := attached(t, a)
			a.leaseFile.Write(c.left())
			if c.torn {
				halfWritten(a.leaseFile, c.left())
			}
			a.view.ready = true
			a.takeOver()
			if a.lease.Held != c.held {
				t.Errorf("held: %t, expected %t", a.lease.Held, c.held)
			}
			if a.lease.MayWrite(3, Now(), a.terms()) != c.held {
				t.Errorf("may write: %t, expected %t", !c.held, c.held)
			}
			if a.expecting() != c.killed {
				t.Fatalf("stops PostgreSQL: %t, expected %t", a.expecting(), c.killed)
			}
			if c.killed {
				carry(t, a, "the server is stopped", s.dead)
				return
			}
			if v, ok := a.leaseFile.Read(); !ok || v.Held != c.held || v.Held && v.Term != 3 {
				t.Errorf("the guardian knows %+v, %t", v, ok)
			}
			if !c.held && (a.lease.Grant == 0 || a.lease.Term != 3) {
				t.Errorf("the grant is not taken up: %+v", a.lease)
			}
		})
	}
}

// TestHold: a promotion waits for the lease, ends with the term, and is not
// begun without it.
func TestHold(t *testing.T) {
	a := still(t, memlog.New())
	decide(t, a, grant(1, "db1", false))
	p := ordered(events.ActPromote, a.view.grantSeq, 1)
	answer := make(chan error, 1)
	go func() { answer <- a.hold(t.Context(), p) }()
	tries := 0
	carry(t, a, "it asks", func() bool { tries++; return tries > 50 })
	select {
	case err := <-answer:
		t.Fatalf("not waited for: %v", err)
	default:
	}
	now := Now()
	var n uint64
	a.lease, n, _ = a.lease.Send(now, a.terms())
	a.answered(n, events.LeaseAcquired{}, nil, now)
	var err error
	got := func() bool {
		select {
		case err = <-answer:
			return true
		default:
			return false
		}
	}
	carry(t, a, "it has the lease", got)
	if err != nil {
		t.Fatal(err)
	}
	decide(t, a, grant(2, "db2", false))
	go func() { answer <- a.hold(t.Context(), p) }()
	carry(t, a, "the term is over", got)
	if !errors.As(err, &notActed{}) {
		t.Errorf("under an ended term: %v", err)
	}
	decide(t, a, grant(3, "db1", false))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	p.order.Term = 3
	go func() { answer <- a.hold(ctx, p) }()
	carry(t, a, "the order expires", got)
	if !errors.As(err, &notActed{}) {
		t.Errorf("without a lease in time: %v", err)
	}
}

// TestMayGo: an agent leaves a PostgreSQL alone only when it may take writes
// without it, is down, or was never its to guard; the guardian goes with it then
// and only then.
func TestMayGo(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*testing.T, *Agent)
		late    bool
		goes    bool
		quits   bool
	}{
		"a standby":                     {func(*testing.T, *Agent) {}, false, true, true},
		"a primary":                     {func(t *testing.T, a *Agent) { has(t, a, 1) }, false, false, false},
		"a primary, late":               {func(t *testing.T, a *Agent) { has(t, a, 1) }, true, true, false},
		"a primary that may stay":       {func(t *testing.T, a *Agent) { has(t, a, 1); decide(t, a, grant(1, "db1", true)) }, false, true, true},
		"being stopped":                 {func(t *testing.T, a *Agent) { has(t, a, 1); a.lease = a.lease.Surrendered(); t.Cleanup(a.stopping()) }, false, false, false},
		"being stopped, late":           {func(t *testing.T, a *Agent) { has(t, a, 1); a.lease = a.lease.Surrendered(); t.Cleanup(a.stopping()) }, true, true, false},
		"given up, but not proved dead": {func(t *testing.T, a *Agent) { has(t, a, 1); a.lease = a.lease.Surrendered() }, true, true, false},
		"something to tell":             {func(t *testing.T, a *Agent) { a.emit(stopped(1)) }, false, false, false},
		"something to tell, late":       {func(t *testing.T, a *Agent) { a.emit(stopped(1)) }, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := still(t, memlog.New())
			attached(t, a)
			c.prepare(t, a)
			a.leaving = time.Now().Add(time.Hour)
			if c.late {
				a.leaving = time.Now().Add(-time.Second)
			}
			if got := a.mayGo(); got != c.goes {
				t.Errorf("may go: %t, expected %t", got, c.goes)
			}
			if quits := a.leaseFile.get(wordQuit) == 1; quits != c.quits {
				t.Errorf("the guardian is told to end: %t, expected %t", quits, c.quits)
			}
		})
	}
}

// TestNoLeaseWithoutAGuardian: where one is asked for, nothing is published while
// none lives; a dead one is replaced.
func TestNoLeaseWithoutAGuardian(t *testing.T) {
	log := memlog.New()
	a := still(t, log)
	mark := filepath.Join(a.cfg.Dir, "started")
	a.cfg.Guardian = []string{"/bin/sh", "-c", fmt.Sprintf("echo x >> %s", mark)}
	decide(t, a, grant(1, "db1", false))
	a.leaseFile.set(wordQuit, 1)
	a.checkGuardian(t.Context())
	a.stepLease(t.Context(), Now())
	if a.fence != "" || a.lease.Pending != 0 {
		t.Fatalf("fence %q, publish %d under way", a.fence, a.lease.Pending)
	}
	until(t, "a guardian is started", func() bool { _, err := os.Stat(mark); return err == nil })
	if a.leaseFile.get(wordQuit) != 0 {
		t.Error("the new guardian is told to end")
	}
	a.leaseFile.set(wordGuardianTick, uint64(Now().Boot))
	a.checkGuardian(t.Context())
	a.stepLease(t.Context(), Now())
	carry(t, a, "the lease is taken", func() bool { return a.lease.Held })
	if d := logged[events.LeaseAcquired](t, log); len(d) != 1 || d[0].Fence != fenceName {
		t.Errorf("acquired: %+v", d)
	}
}

// TestTurnSleeps: the loop wakes when the lease ends, or a renewal is due.
func TestTurnSleeps(t *testing.T) {
	a := still(t, memlog.New())
	if d := a.turn(t.Context()); d != turnEvery {
		t.Errorf("without a lease it sleeps %s", d)
	}
	has(t, a, 1)
	a.lease.NextSend = Now().Add(time.Hour)
	a.lease.Expiry = Now().Add(a.terms().Budget + 50*time.Millisecond)
	if d := a.turn(t.Context()); d > 50*time.Millisecond || d < 20*time.Millisecond {
		t.Errorf("50 ms before the end it sleeps %s", d)
	}
}
