package agent

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm/journal"
	"github.com/interrex-ha/interrex/fsm/lease"
)

// view is what the agent knows of the cluster: decisions, policy, its own
// results. It folds nothing else, for it decides nothing.
type view struct {
	ready        bool // the tail was reached once
	lastDecision uint64
	term         uint64
	primary      string
	old          string // the one before, as the newest proof names it
	phase        events.Phase
	grant        events.Grant
	grantSeq     uint64
	paused       bool
	policy       events.Policy
	members      []events.Member
	orders       []pending // read before the tail was reached
	beyond       uint64    // a decision or policy that this version does not understand: nothing after it is acted on
}

type pending struct {
	order    events.Order
	decision uint64
}

func (p pending) mark() journal.Mark { return journal.Mark{Decision: p.decision, Action: p.order.Do} }

func (p pending) ref() events.OrderRef {
	return events.OrderRef{Node: p.order.Node, Decision: p.decision, Action: p.order.Do, Term: p.order.Term}
}

// follow reads the log for as long as ctx lives: first to the tail, so that
// nothing old is acted on as if it were news, then on.
func (a *Agent) follow(ctx context.Context) error {
	classes := []events.Class{events.ClassPolicy, events.ClassDecision, events.ClassResult}
	last := uint64(0)
	var past []events.Event
	read := func(q events.Query, fn func(events.Event)) error {
		q.Classes = classes
		return a.cfg.Log.Read(ctx, q, func(e events.Event) error {
			last = e.Seq
			fn(e)
			return nil
		})
	}
	if err := read(events.Query{}, func(e events.Event) { past = append(past, e) }); err != nil {
		return fmt.Errorf("agent %s: %w", a.cfg.Node, err)
	}
	if err := a.begin(ctx, past); err != nil {
		return err
	}
	past = nil
	err := read(events.Query{After: last, Follow: true}, func(e events.Event) { a.do(func() { a.hear(ctx, e) }) })
	return fmt.Errorf("agent %s: %w", a.cfg.Node, err)
}

// begin folds the past, says that the agent is here, and takes over what it
// finds. It waits for the log outside the loop, which goes on turning: only an
// acknowledged append tells for certain whether the log went backwards (TRIED 18).
func (a *Agent) begin(ctx context.Context, past []events.Event) error {
	var started events.AgentStarted
	err := ask(a, errLeft, func() error {
		for _, e := range past {
			if e.Seq == a.journal.state.Seq {
				if err := a.regressed(0, e.ID); err != nil {
					return err
				}
			}
			a.hear(ctx, e)
		}
		a.checkGuardian(ctx)
		started = events.AgentStarted{
			Node: a.cfg.Node, PID: pid(), Incarnation: a.incarnation, BootID: a.bootID, Fence: a.fence,
			GuardianPID: a.leaseFile.GuardianPID(), Version: a.cfg.Version, Created: a.cfg.Created, Place: a.cfg.Place,
		}
		return nil
	})
	if err != nil {
		return err
	}
	e, err := a.appendNow(ctx, started)
	if err != nil {
		return err
	}
	return ask(a, errLeft, func() error {
		if err := a.regressed(e.Seq, ""); err != nil {
			return err
		}
		a.view.ready = true
		a.takeOver()
		orders := a.view.orders
		a.view.orders = nil
		if a.view.beyond != 0 {
			return nil // a later decision, not understood, may have overtaken them
		}
		for _, p := range orders {
			a.consider(ctx, p)
		}
		for _, in := range a.journal.state.Intents {
			if !a.running[in.Mark] { // overtaken by a newer term
				a.forget(in.Mark)
			}
		}
		return nil
	})
}

func (a *Agent) regressed(ownAppend uint64, idAtSeq string) error {
	why := a.journal.state.Regressed(ownAppend, idAtSeq)
	if why == "" {
		return nil
	}
	return fmt.Errorf("agent %s: %w: %s; restore the log, or remove %s when this log is the right one", a.cfg.Node, ErrRegressed, why, a.journal.path)
}

// hear folds one event of the log.
func (a *Agent) hear(ctx context.Context, e events.Event) {
	a.journal.state = a.journal.state.Observe(e.Seq, e.ID, 0)
	switch d := e.Data.(type) {
	case events.PolicySet:
		if d.Policy.Check() == nil {
			a.view.policy = d.Policy
			a.probeBy(d.Policy)
		}
	case events.ClusterFormed:
		a.view.members = d.Members
	case events.Decided:
		if a.view.beyond == 0 {
			a.decided(ctx, e, d)
		}
	case events.Unknown:
		a.lost(e, d)
	case events.OrderDone:
		a.finished(d.OrderRef)
	case events.OrderFailed:
		a.finished(d.OrderRef)
	case events.OrderRefused:
		a.finished(d.OrderRef)
	}
	if e.Data.Class() == events.ClassDecision && a.view.beyond == 0 {
		a.view.lastDecision = e.Seq
	}
}

// lost: a newer version decided something, or set a policy, that this one does
// not understand. It may have named another primary, or shortened the lease:
// from here on the agent renews nothing and carries nothing out, so that a lease
// it holds runs out in time.
func (a *Agent) lost(e events.Event, d events.Unknown) {
	if a.view.beyond != 0 || d.ClassIn != events.ClassDecision && d.ClassIn != events.ClassPolicy {
		return
	}
	a.view.beyond = e.Seq
	a.cfg.Logger.Error("an event of the log is not understood: this agent renews no lease and carries out nothing from here on; upgrade it to the version that wrote the event",
		"seq", e.Seq, "kind", d.KindName, "reason", d.Reason)
}

// decided takes a decision over. One whose envelope is void is not acted on;
// the whole check is the controllers', who fold everything.
func (a *Agent) decided(ctx context.Context, e events.Event, d events.Decided) {
	if d.BasedOn != e.Seq-1 || d.Previous != a.view.lastDecision || d.Term < a.view.term {
		a.cfg.Logger.Error("void decision ignored", "seq", e.Seq, "based_on", d.BasedOn, "previous", d.Previous, "term", d.Term)
		return
	}
	v := &a.view
	v.term, v.primary, v.phase = d.Term, d.Primary, d.To
	a.primaryName.Store(&d.Primary)
	a.journal.state = a.journal.state.Observe(e.Seq, e.ID, d.Term)
	if d.Proof != nil {
		v.old = d.Proof.Node
	}
	if d.Pause != nil {
		v.paused = d.Pause.Owner != ""
	}
	if d.Grant != nil {
		v.grant, v.grantSeq = *d.Grant, e.Seq
		a.granted()
	}
	v.orders = slices.DeleteFunc(v.orders, func(p pending) bool { return p.order.Term < d.Term })
	for _, o := range d.Orders {
		if o.Node != a.cfg.Node {
			continue
		}
		p := pending{o, e.Seq}
		if v.ready {
			v.lastDecision = e.Seq
			a.consider(ctx, p)
		} else {
			v.orders = append(v.orders, p)
		}
	}
	if d.To == events.Suspect {
		a.probeSoon()
	}
	if d.Pause != nil && !v.paused && v.ready {
		a.pauseEnded()
	}
}

// finished: the log holds the result of an order. Only now is its intent
// forgotten: an agent that ends before that takes it up again, inspects, and
// reports.
func (a *Agent) finished(r events.OrderRef) {
	if r.Node != a.cfg.Node {
		return
	}
	a.view.orders = slices.DeleteFunc(a.view.orders, func(p pending) bool { return p.ref() == r })
	a.forget(journal.Mark{Decision: r.Decision, Action: r.Action})
}

// forget ends an intent.
func (a *Agent) forget(m journal.Mark) {
	if !a.journal.state.Intends(m) {
		return
	}
	if err := a.journal.save(a.journal.state.Finish(m)); err != nil {
		a.cfg.Logger.Error("an order's end cannot be remembered", "error", err)
	}
}

// mine reports whether the newest grant names this node.
func (a *Agent) mine() bool { return a.view.grantSeq != 0 && a.view.grant.Node == a.cfg.Node }

func (a *Agent) terms() lease.Terms {
	p := a.view.policy
	return lease.Terms{Lease: p.Lease.D(), Renew: p.Renew.D(), Budget: p.StopBudget.D() + p.Margin.D()}
}

// upstreamName finds the member that a receiver's address belongs to.
func (a *Agent) upstreamName(host string, port int) string {
	if host == "" {
		return ""
	}
	for _, m := range a.view.members {
		if m.Port == port && sameHost(m.Host, host) {
			return m.Name
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// sameHost: a receiver that came through a Unix socket (b) is fed by a server of
// this host, whatever name the member has.
func sameHost(a, b string) bool {
	if a == b || len(b) > 0 && b[0] == '/' {
		return true
	}
	return isLocal(a) && isLocal(b)
}

func isLocal(h string) bool {
	ip := net.ParseIP(h)
	return h == "localhost" || ip != nil && ip.IsLoopback() || len(h) > 0 && h[0] == '/'
}

// appendNow appends and waits for the log, however long that takes.
func (a *Agent) appendNow(ctx context.Context, d events.Data) (events.Event, error) {
	draft, err := a.draft(d)
	if err != nil {
		return events.Event{}, err
	}
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		e, err := a.cfg.Log.Append(try, draft)
		cancel()
		if err == nil || !retryable(err) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return events.Event{}, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
