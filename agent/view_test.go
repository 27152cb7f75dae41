package agent

import (
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
)

// TestVoidDecisions: a decision that is not based on what stands before it, or
// skips the decision before, or goes back in terms, changes nothing but the
// sequence that lease events are conditional on.
func TestVoidDecisions(t *testing.T) {
	for name, spoil := range map[string]func(*events.Decided){
		"based on something else":    func(d *events.Decided) { d.BasedOn-- },
		"another decision before":    func(d *events.Decided) { d.Previous = 0 },
		"an older term":              func(d *events.Decided) { d.Term = 2 },
		"a future that is no future": func(d *events.Decided) { d.BasedOn += 5 },
	} {
		t.Run(name, func(t *testing.T) {
			log := memlog.New()
			a := still(t, log)
			decide(t, a, grant(3, "db2", false))
			tail, _ := log.Last(t.Context())
			d := grant(4, "db1", true, events.Order{Do: events.ActPromote, Node: "db1"})
			d.BasedOn, d.Previous, d.Controller = tail, a.view.lastDecision, "c1"
			spoil(&d)
			e := put(t, log, d)
			a.hear(t.Context(), e)
			if a.view.term != 3 || a.view.primary != "db2" || a.mine() || a.lease.Grant != 0 || len(a.running) > 0 {
				t.Errorf("taken over: term %d of %s, lease of decision %d, %d orders", a.view.term, a.view.primary, a.lease.Grant, len(a.running))
			}
			if a.view.lastDecision != e.Seq {
				t.Errorf("the last decision is %d, expected %d: the log counts void ones", a.view.lastDecision, e.Seq)
			}
			decide(t, a, grant(4, "db1", true))
			if a.view.term != 4 || !a.mine() {
				t.Error("the next valid decision was not taken over")
			}
		})
	}
}

// TestNothingAfterWhatIsNotUnderstood: a newer version may have named another
// primary, or shortened the lease.
func TestNothingAfterWhatIsNotUnderstood(t *testing.T) {
	for name, c := range map[string]struct {
		class events.Class
		stops bool
	}{
		"a decision":     {events.ClassDecision, true},
		"a policy":       {events.ClassPolicy, true},
		"an observation": {events.ClassHealth, false},
	} {
		t.Run(name, func(t *testing.T) {
			log := memlog.New()
			a := still(t, log)
			has(t, a, 1)
			before := a.view.lastDecision
			a.hear(t.Context(), events.Event{Seq: before + 1, ID: "x", Data: events.Unknown{KindName: "k/v9", ClassIn: c.class, Reason: "unknown kind"}})
			if (a.view.beyond != 0) != c.stops || a.view.lastDecision != before {
				t.Errorf("beyond %d, last decision %d; expected to stop: %t", a.view.beyond, a.view.lastDecision, c.stops)
			}
			d := grant(2, "db1", false, events.Order{Do: events.ActClean, Node: "db1"})
			e := decide(t, a, d)
			if ignored := a.view.term == 1 && len(a.running) == 0; ignored != c.stops {
				t.Errorf("term %d, %d orders; expected them ignored: %t", a.view.term, len(a.running), c.stops)
			}
			if renews := a.view.lastDecision == e.Seq; renews == c.stops {
				t.Errorf("its renewals are conditional on decision %d", a.view.lastDecision)
			}
			carry(t, a, "no order runs", func() bool { return len(a.running) == 0 })
		})
	}
}

// TestOldOrdersAreDropped: of what was ordered before the agent had read the log
// to its end, it takes up what is neither answered nor of an older term, nor
// another node's.
func TestOldOrdersAreDropped(t *testing.T) {
	a := still(t, memlog.New())
	a.view.ready = false
	decide(t, a, grant(1, "db1", false, events.Order{Do: events.ActPromote, Node: "db1"}))
	d := grant(2, "db2", false, events.Order{Do: events.ActFollow, Node: "db1"}, events.Order{Do: events.ActSettle, Node: "db2"})
	e := decide(t, a, d)
	d.Orders = []events.Order{{Do: events.ActClean, Node: "db1", Term: 2}}
	d.Grant = nil
	decide(t, a, d)
	if len(a.view.orders) != 2 || a.view.orders[0].order.Do != events.ActFollow || a.view.orders[1].order.Do != events.ActClean {
		t.Fatalf("kept: %+v", a.view.orders)
	}
	for _, r := range []events.Data{
		events.OrderDone{OrderRef: events.OrderRef{Node: "db2", Decision: e.Seq, Action: events.ActFollow, Term: 2}}, // another node's
		events.OrderStarted{OrderRef: a.view.orders[0].ref()},
	} {
		a.hear(t.Context(), put(t, a.cfg.Log, r))
	}
	if len(a.view.orders) != 2 {
		t.Fatalf("kept: %+v", a.view.orders)
	}
	a.hear(t.Context(), put(t, a.cfg.Log, events.OrderFailed{OrderRef: a.view.orders[0].ref(), Error: "x"}))
	if len(a.view.orders) != 1 || a.view.orders[0].order.Do != events.ActClean {
		t.Errorf("kept: %+v; expected what has no result", a.view.orders)
	}
}

// TestPolicyIsChecked: a broken one in the log changes nothing.
func TestPolicyIsChecked(t *testing.T) {
	a := still(t, memlog.New())
	p := events.DefaultPolicy()
	p.ProbeEvery, p.ProbeTimeout = events.Duration(40e6), events.Duration(90e6)
	a.hear(t.Context(), put(t, a.cfg.Log, events.PolicySet{Policy: p, Hash: p.Hash(), Actor: "anna"}))
	if a.view.policy != p || a.probeEvery.Load() != 40e6 || a.probeTimeout.Load() != 90e6 {
		t.Errorf("policy %+v, probes every %d, each for %d", a.view.policy, a.probeEvery.Load(), a.probeTimeout.Load())
	}
	bad := p
	bad.Lease = 1
	a.hear(t.Context(), put(t, a.cfg.Log, events.PolicySet{Policy: bad, Hash: bad.Hash(), Actor: "anna"}))
	if a.view.policy != p {
		t.Error("a policy that breaks its inequalities was taken over")
	}
}

// TestRegressed: another event where one was seen, and an own append that lands
// where there was one already.
func TestRegressed(t *testing.T) {
	log := memlog.New()
	a := still(t, log)
	e := decide(t, a, grant(1, "db1", true))
	if err := a.regressed(0, e.ID); err != nil {
		t.Errorf("the event that was seen there: %v", err)
	}
	if err := a.regressed(e.Seq+1, ""); err != nil {
		t.Errorf("an append after it: %v", err)
	}
	for what, err := range map[string]error{"another event": a.regressed(0, "other"), "an append at it": a.regressed(e.Seq, "")} {
		if err == nil || !strings.Contains(err.Error(), "journal.json") {
			t.Errorf("%s: %v; expected what to do", what, err)
		}
	}
}
