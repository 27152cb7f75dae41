package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/fsm"
)

// grace is how long the default policy lets a primary be silent.
var grace = events.DefaultPolicy().Grace.D()

// late is how much later than due a deadline may be appended.
const late = tick + 20*time.Millisecond

// waited checks a wait that began at from and was appended as e.
func waited(t *testing.T, d events.DeadlineReached, e events.Event, from time.Time) {
	t.Helper()
	if d.BasedOn != e.Seq-1 || d.Controller == "" {
		t.Errorf("based on event %d of %d, controller %q", d.BasedOn, e.Seq, d.Controller)
	}
	if took := e.Time.Sub(from); took < grace || took > grace+late {
		t.Errorf("it rang after %s, expected %s", took, grace)
	}
	if w := d.Waited.D(); w < grace || w > grace+late {
		t.Errorf("it says that it waited %s, expected %s", w, grace)
	}
}

// TestWaitBeginsAtFolding: the silence of a primary is measured from its last
// sign of life, and carries which that was and how long it was waited.
func TestWaitBeginsAtFolding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		r := begin(t, log, "c1")
		tell(t, log, found(3)...)
		serve(t, log, r)
		for range 8 {
			time.Sleep(500 * time.Millisecond)
			renew(t, log, r)
		}
		e := renew(t, log, r)
		from := e.Time
		d, rang := rung(t, log, fsm.DeadlineSilence, 0)
		if d.Since != e.Seq || d.Node != "db1" {
			t.Errorf("the silence of %q since event %d, expected db1 since %d", d.Node, d.Since, e.Seq)
		}
		waited(t, d, rang, from)
		until(t, "the primary is suspect", func() bool { return r.now().Phase == events.Suspect })
	})
}

// TestWaitStartsAnewAfterARestart: what an earlier controller waited counts for
// nothing.
func TestWaitStartsAnewAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		r := begin(t, log, "c1")
		tell(t, log, found(3)...)
		serve(t, log, r)
		time.Sleep(grace - 200*time.Millisecond)
		r.cancel()
		synctest.Wait()
		time.Sleep(10 * time.Second)
		from := time.Now()
		begin(t, log, "c2")
		d, rang := rung(t, log, fsm.DeadlineSilence, 0)
		waited(t, d, rang, from)
	})
}

// TestWaitStartsAnewAfterAFreeze: a tick that comes late means that this process
// was frozen, and what it did not hear meanwhile is no silence.
func TestWaitStartsAnewAfterAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		r := begin(t, log, "c1")
		tell(t, log, found(3)...)
		serve(t, log, r)
		time.Sleep(grace - 300*time.Millisecond)
		r.freeze(frozen + tick + time.Millisecond)
		from := time.Now()
		d, rang := rung(t, log, fsm.DeadlineSilence, 0)
		if took := rang.Time.Sub(from); took < grace || took > grace+late {
			t.Errorf("it rang %s after the freeze, expected %s", took, grace)
		}
		if d.Waited.D() < grace {
			t.Errorf("it says that it waited %s", d.Waited)
		}
	})
}

// TestWaitStartsAnewAfterAnOutage: while the log cannot be heard nobody is silent.
func TestWaitStartsAnewAfterAnOutage(t *testing.T) {
	for name, outage := range map[string]func(*hooked, bool){
		"refused":      func(h *hooked, away bool) { h.SetUnavailable(away) },
		"disconnected": func(h *hooked, away bool) { h.set(func() { h.connected = !away }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := hook()
				r := begin(t, log, "c1")
				tell(t, log, found(3)...)
				serve(t, log, r)
				time.Sleep(grace - 300*time.Millisecond)
				outage(log, true)
				time.Sleep(3 * time.Second)
				outage(log, false)
				from := time.Now()
				d, rang := rung(t, log, fsm.DeadlineSilence, 0)
				took := rang.Time.Sub(from)
				if took < grace-tick || took > grace+2*late {
					t.Errorf("it rang %s after the outage, expected %s", took, grace)
				}
				if d.Waited.D() < grace {
					t.Errorf("it says that it waited %s", d.Waited)
				}
			})
		})
	}
}

// TestTheLogComesBack: a controller whose log is away when it starts waits.
func TestTheLogComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		tell(t, log, found(3)...)
		log.SetUnavailable(true)
		r := begin(t, log, "c1")
		time.Sleep(5 * time.Second)
		log.SetUnavailable(false)
		until(t, "it decides", func() bool { return r.now().Primary == "db1" })
	})
}

// TestAWaitThatManyEventsOutlive: when the event that a wait counts from has
// left the window, the wait goes on from where it began; one that is noticed only
// then begins no earlier than the window.
func TestAWaitThatManyEventsOutlive(t *testing.T) {
	c := &Controller{}
	due := fsm.Deadline{Name: "pause", Since: 5, Wait: time.Hour}
	c.state.Seq, c.folded[5] = 5, 7*time.Second
	c.beginWaits([]fsm.Deadline{due})
	for seq := uint64(6); seq < 5+3*window; seq++ {
		c.state.Seq, c.folded[seq%window] = seq, time.Duration(seq)*time.Second
	}
	c.beginWaits([]fsm.Deadline{due, {Name: "lease", Since: 5}})
	if got := c.begun[wait{"pause", "", 5}]; got != 7*time.Second {
		t.Errorf("the wait that was known began at %s, expected 7s", got)
	}
	oldest := time.Duration(c.state.Seq-window+1) * time.Second
	if got := c.begun[wait{"lease", "", 5}]; got != oldest {
		t.Errorf("the wait that is new began at %s, expected no earlier than the window, %s", got, oldest)
	}
	c.beginWaits(nil)
	if len(c.begun) != 0 {
		t.Errorf("waits that are not due any more are kept: %v", c.begun)
	}
}
