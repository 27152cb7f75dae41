package agent

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/fsm/journal"
)

// TestEveryActionHasAnExecutor compares the actions that orders can name, as the
// vocabulary's source lists them, with what this agent can do.
func TestEveryActionHasAnExecutor(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../events/decisions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 || !strings.HasPrefix(v.Names[0].Name, "Act") {
			return true
		}
		name, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		known++
		if actions[events.Action(name)] == nil {
			t.Errorf("nothing carries out %s (%q)", v.Names[0].Name, name)
		}
		return true
	})
	if known == 0 || known != len(actions) {
		t.Errorf("the vocabulary has %d actions, the agent %d", known, len(actions))
	}
}

// replace makes an order do something else for the length of a test.
func replace(t *testing.T, do events.Action, fn func(context.Context, pending) (outcome, error)) {
	t.Helper()
	real := actions[do]
	actions[do] = func(_ *Agent, ctx context.Context, p pending) (outcome, error) { return fn(ctx, p) }
	t.Cleanup(func() { actions[do] = real })
}

func ordered(do events.Action, decision, term uint64) pending {
	return pending{order: events.Order{Do: do, Node: "db1", Term: term, Expires: events.Duration(20 * time.Second)}, decision: decision}
}

// TestConsider: an order is begun once, taken up again when an earlier run of the
// agent began it, left alone when it was carried out, and refused when a newer
// term was seen.
func TestConsider(t *testing.T) {
	a := still(t, memlog.New())
	began := map[uint64]int{}
	replace(t, events.ActClean, func(_ context.Context, p pending) (outcome, error) {
		a.do(func() { began[p.decision]++ })
		return outcome{how: "so"}, nil
	})
	s := a.journal.state.Observe(9, "id", 2)
	s = s.Intend(journal.Mark{Decision: 1, Action: events.ActClean}, 2)
	s = s.Intend(journal.Mark{Decision: 2, Action: events.ActClean}, 2).Finish(journal.Mark{Decision: 2, Action: events.ActClean})
	if err := a.journal.save(s); err != nil {
		t.Fatal(err)
	}
	a.consider(t.Context(), ordered(events.ActClean, 1, 2)) // an earlier run began it
	a.consider(t.Context(), ordered(events.ActClean, 2, 2)) // it was carried out
	a.consider(t.Context(), ordered(events.ActClean, 3, 1)) // an older term
	a.consider(t.Context(), ordered(events.ActClean, 4, 2))
	a.consider(t.Context(), ordered(events.ActClean, 4, 2)) // heard twice
	carry(t, a, "two orders are over", func() bool { return len(said[events.OrderDone](a)) == 2 })
	if began[1] != 1 || began[4] != 1 || len(began) != 2 {
		t.Errorf("begun, by decision: %v; expected 1 and 4, once each", began)
	}
	if r := said[events.OrderRefused](a); len(r) != 1 || r[0].Decision != 3 || r[0].Term != 1 || r[0].Reason == "" {
		t.Errorf("refused: %+v; expected the order of the older term", r)
	}
	if d := said[events.OrderDone](a); d[0].How != "so" || d[0].Node != "db1" {
		t.Errorf("done: %+v", d)
	}
	if n := len(said[events.OrderStarted](a)); n != 2 || len(a.running) != 0 {
		t.Errorf("%d said to have started, %d still running", n, len(a.running))
	}
}

// TestIntentOutlivesTheActionUntilTheLogHasItsResult: an agent that ends in
// between takes the order up again, and reports.
func TestIntentOutlivesTheActionUntilTheLogHasItsResult(t *testing.T) {
	a := still(t, memlog.New())
	replace(t, events.ActClean, func(context.Context, pending) (outcome, error) { return outcome{}, nil })
	p := ordered(events.ActClean, 7, 1)
	a.consider(t.Context(), p)
	carry(t, a, "it is over", func() bool { return len(said[events.OrderDone](a)) == 1 })
	if !a.journal.state.Intends(p.mark()) {
		t.Fatal("forgotten before the log has its result")
	}
	for _, done := range []events.OrderRef{{Node: "db2", Decision: 7, Action: events.ActClean}, p.ref()} {
		a.hear(t.Context(), put(t, a.cfg.Log, events.OrderDone{OrderRef: done}))
		if mine := done.Node == "db1"; a.journal.state.Intends(p.mark()) == mine {
			t.Errorf("after the result of %s's order: intended %t", done.Node, !mine)
		}
	}
	if v, _ := a.journal.state.Consider(p.mark(), 1); v != journal.Ignore {
		t.Errorf("heard once more: %v, expected to ignore it", v)
	}
}

// TestIntentIsWrittenFirst: what is not on disk is not begun.
func TestIntentIsWrittenFirst(t *testing.T) {
	a := still(t, memlog.New())
	onDisk := make(chan string, 2)
	replace(t, events.ActClean, func(context.Context, pending) (outcome, error) {
		b, err := os.ReadFile(a.journal.path)
		onDisk <- string(b)
		return outcome{}, err
	})
	a.consider(t.Context(), ordered(events.ActClean, 7, 1))
	carry(t, a, "it is over", func() bool { return len(said[events.OrderDone](a)) == 1 })
	if b := <-onDisk; !strings.Contains(b, `"decision":7`) {
		t.Errorf("while it was carried out the journal on disk said %s", b)
	}
	a.journal.path += "/not/there"
	a.consider(t.Context(), ordered(events.ActClean, 8, 1))
	if r := said[events.OrderRefused](a); len(r) != 1 || r[0].Decision != 8 {
		t.Errorf("refused: %+v; expected the order that could not be journalled", r)
	}
	if len(onDisk) > 0 || len(a.running) > 0 {
		t.Error("it was begun all the same")
	}
}

// TestUnknownAction: an order of a newer vocabulary fails, and says that nothing
// was done.
func TestUnknownAction(t *testing.T) {
	a := still(t, memlog.New())
	a.consider(t.Context(), ordered("levitate", 7, 1))
	if f := said[events.OrderFailed](a); len(f) != 1 || f[0].Acted || !strings.Contains(f[0].Error, "levitate") {
		t.Errorf("failed: %+v", f)
	}
}

// TestActed: what failed tells whether anything may have changed.
func TestActed(t *testing.T) {
	a := still(t, memlog.New())
	replace(t, events.ActClean, func(_ context.Context, p pending) (outcome, error) {
		if p.decision == 1 {
			return outcome{}, notActed{errors.New("not begun")}
		}
		return outcome{}, errors.New("broken half-way")
	})
	a.consider(t.Context(), ordered(events.ActClean, 1, 1))
	carry(t, a, "the first", func() bool { return len(said[events.OrderFailed](a)) == 1 })
	a.consider(t.Context(), ordered(events.ActClean, 2, 1))
	carry(t, a, "the second", func() bool { return len(said[events.OrderFailed](a)) == 2 })
	if f := said[events.OrderFailed](a); f[0].Acted || !f[1].Acted {
		t.Errorf("failed: %+v", f)
	}
}

// TestUrgentOrdersDoNotWait: a fence ends what is being done, and what waits to
// be done before it, however long that would take.
func TestUrgentOrdersDoNotWait(t *testing.T) {
	a := still(t, memlog.New())
	following := make(chan struct{})
	replace(t, events.ActFollow, func(ctx context.Context, _ pending) (outcome, error) {
		close(following)
		<-ctx.Done()
		return outcome{}, ctx.Err()
	})
	replace(t, events.ActRecover, func(ctx context.Context, _ pending) (outcome, error) {
		<-ctx.Done()
		return outcome{}, ctx.Err()
	})
	fenced := false
	replace(t, events.ActFence, func(context.Context, pending) (outcome, error) {
		a.do(func() { fenced = true })
		return outcome{}, nil
	})
	a.consider(t.Context(), ordered(events.ActFollow, 1, 1))
	<-following
	a.consider(t.Context(), ordered(events.ActRecover, 2, 1))
	carry(t, a, "the recovery waits for its turn", func() bool { a.actMu.Lock(); defer a.actMu.Unlock(); return len(a.cancels) == 2 })
	a.consider(t.Context(), ordered(events.ActFence, 3, 1))
	carry(t, a, "the fence is done", func() bool { return fenced && len(said[events.OrderDone](a)) == 1 })
	carry(t, a, "the others have ended", func() bool { return len(said[events.OrderFailed](a)) == 2 })
	for _, f := range said[events.OrderFailed](a) {
		if f.Action == events.ActRecover && f.Acted {
			t.Error("a recovery that never began is said to have acted")
		}
	}
	carry(t, a, "nothing is entered any more", func() bool { a.actMu.Lock(); defer a.actMu.Unlock(); return len(a.cancels) == 0 })
}

// TestOrderThatWaitedTooLong: an order is not begun after it expired, but a fence
// is.
func TestOrderThatWaitedTooLong(t *testing.T) {
	a := still(t, memlog.New())
	began := map[events.Action]bool{}
	for _, do := range []events.Action{events.ActSettle, events.ActFence} {
		replace(t, do, func(context.Context, pending) (outcome, error) {
			a.do(func() { began[do] = true })
			return outcome{}, nil
		})
	}
	a.acting.Lock()
	for i, do := range []events.Action{events.ActSettle, events.ActFence} {
		p := ordered(do, uint64(i+1), 1)
		p.order.Expires = events.Duration(time.Millisecond)
		a.consider(t.Context(), p)
	}
	carry(t, a, "both wait", func() bool { a.actMu.Lock(); defer a.actMu.Unlock(); return len(a.cancels) == 2 })
	expired := time.Now().Add(5 * time.Millisecond)
	carry(t, a, "their time passes", func() bool { return time.Now().After(expired) })
	a.acting.Unlock()
	carry(t, a, "both are over", func() bool { return len(said[events.OrderFailed](a)) == 1 && len(said[events.OrderDone](a)) == 1 })
	if began[events.ActSettle] || !began[events.ActFence] {
		t.Errorf("begun: %v; expected the fence only", began)
	}
	if f := said[events.OrderFailed](a)[0]; f.Acted || f.Action != events.ActSettle {
		t.Errorf("failed: %+v", f)
	}
}

// TestPositionOptions: a receiver that is still fed is waited for as long as the
// order stands; one that is to be detached is not.
func TestPositionOptions(t *testing.T) {
	o := positionOptions(events.Order{Expires: events.Duration(7 * time.Second)})
	if o.Detach || o.GoneWithin != 7*time.Second || o.ReplayWithin != time.Microsecond {
		t.Errorf("waiting: %+v", o)
	}
	o = positionOptions(events.Order{How: "detach", Expires: events.Duration(7 * time.Second)})
	if !o.Detach || o.GoneWithin != 0 || o.ReplayWithin != time.Microsecond {
		t.Errorf("detaching: %+v", o)
	}
}
