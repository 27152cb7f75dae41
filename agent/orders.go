package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm/journal"
	"github.com/interrex-ha/interrex/fsm/lease"
)

// consider judges an order and begins it. An order of an older term is refused
// and logged; one that an earlier run began is taken up again: every action
// inspects before it acts.
func (a *Agent) consider(ctx context.Context, p pending) {
	if a.running[p.mark()] {
		return
	}
	verdict, why := a.journal.state.Consider(p.mark(), p.order.Term)
	switch verdict {
	case journal.Ignore:
		return
	case journal.Refuse:
		a.emit(events.OrderRefused{OrderRef: p.ref(), Reason: why})
		return
	case journal.Begin:
		if err := a.journal.save(a.journal.state.Intend(p.mark(), p.order.Term)); err != nil {
			a.emit(events.OrderRefused{OrderRef: p.ref(), Reason: err.Error()})
			return
		}
	}
	a.running[p.mark()] = true
	a.start(ctx, p)
}

// actions is what each order does. The order of the switch in fsm and this
// table are cross-checked by a test.
var actions = map[events.Action]func(*Agent, context.Context, pending) (outcome, error){
	events.ActPromote:  (*Agent).promote,
	events.ActResume:   (*Agent).resume,
	events.ActFence:    (*Agent).fenceOrder,
	events.ActDemote:   (*Agent).demote,
	events.ActPosition: (*Agent).position,
	events.ActFollow:   (*Agent).followOrder,
	events.ActSettle:   (*Agent).settle,
	events.ActRecover:  (*Agent).recover,
	events.ActStop:     (*Agent).stopOrder,
	events.ActClean:    (*Agent).clean,
	events.ActInit:     (*Agent).initOrder,
}

// outcome is what an action reports when it succeeded.
type outcome struct {
	how    string
	detail map[string]string
}

// notActed marks an error of an action that changed nothing.
type notActed struct{ error }

func (n notActed) Unwrap() error { return n.error }

// urgent actions end whatever else is being done to this PostgreSQL.
func urgent(do events.Action) bool {
	switch do {
	case events.ActPromote, events.ActResume, events.ActFence, events.ActDemote, events.ActStop:
		return true
	}
	return false
}

// start runs an order beside the loop. Actions on PostgreSQL follow one
// another; an urgent one cancels the one before it. Positions only read, and
// wait for nothing.
func (a *Agent) start(ctx context.Context, p pending) {
	do, ok := actions[p.order.Do]
	if !ok {
		a.over(p, outcome{}, notActed{fmt.Errorf("this version cannot %q", p.order.Do)}, 0)
		return
	}
	limit := p.order.Expires.D()
	if p.order.Do == events.ActRecover || limit <= 0 {
		limit = 24 * time.Hour // a base backup takes as long as it takes
	}
	if p.order.Do != events.ActPosition {
		a.emit(events.OrderStarted{OrderRef: p.ref()})
	}
	go func() {
		run, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if p.order.Do != events.ActPosition {
			release := a.enterAction(p.order.Do, cancel)
			defer release()
		}
		began := time.Now()
		if err := run.Err(); err != nil && p.order.Do != events.ActFence {
			err = notActed{fmt.Errorf("its turn came too late, another order was under way: %w", err)}
			a.do(func() { a.over(p, outcome{}, err, 0) })
			return
		}
		out, err := do(a, run, p)
		took := time.Since(began)
		a.do(func() { a.over(p, out, err, took) })
	}()
}

// enterAction waits for its turn; an urgent action ends the one that runs, and
// those that wait: it must not stand behind a base backup that has yet to begin.
func (a *Agent) enterAction(do events.Action, cancel context.CancelFunc) func() {
	if urgent(do) {
		a.cancelActions()
	}
	a.actMu.Lock()
	a.entered++
	n := a.entered
	a.cancels[n] = cancel
	a.actMu.Unlock()
	a.acting.Lock()
	return func() {
		a.acting.Unlock()
		a.actMu.Lock()
		delete(a.cancels, n)
		a.actMu.Unlock()
	}
}

func (a *Agent) cancelActions() {
	a.actMu.Lock()
	defer a.actMu.Unlock()
	for _, cancel := range a.cancels {
		cancel()
	}
}

// over reports an order's outcome; its intent is forgotten when the log has it.
func (a *Agent) over(p pending, out outcome, err error, took time.Duration) {
	delete(a.running, p.mark())
	a.probeSoon()
	if p.order.Do == events.ActPosition {
		a.forget(p.mark()) // its report is its result
		return
	}
	if err == nil {
		a.emit(events.OrderDone{OrderRef: p.ref(), How: out.how, Detail: out.detail, TookMicros: took.Microseconds()})
		return
	}
	a.cfg.Logger.Warn("order failed", "action", p.order.Do, "decision", p.decision, "error", err)
	a.emit(events.OrderFailed{OrderRef: p.ref(), Acted: !errors.As(err, &notActed{}), Error: err.Error()})
}

// expecting reports whether an action stops PostgreSQL by itself just now.
func (a *Agent) expecting() bool {
	a.actMu.Lock()
	defer a.actMu.Unlock()
	return a.expect > 0
}

// stopping marks the time in which an action stops PostgreSQL and reports it.
// It ends in the loop, once the end of the postmaster has been noticed there:
// the word of it may arrive after the action that caused it is over.
func (a *Agent) stopping() func() {
	a.actMu.Lock()
	defer a.actMu.Unlock()
	a.expect++
	return func() {
		a.do(func() {
			a.reap()
			a.actMu.Lock()
			defer a.actMu.Unlock()
			a.expect--
		})
	}
}

// reap forgets a postmaster that has ended, unless it is known already.
func (a *Agent) reap() {
	if a.watcher == nil {
		return
	}
	if inc, ok, err := executors.Postmaster(a.cfg.Postgres); err == nil && (!ok || inc != a.watched) {
		a.exited(a.watcher, a.watched)
	}
}

// takeOver begins with what the agent found: a PostgreSQL that runs, or one
// that does not, and a lease that an earlier run of the agent may have left.
//
// Whether it runs on a host that is not heard of nobody knows: then this waits
// until it is.
func (a *Agent) takeOver() {
	a.attach()
	if a.unattended = a.blind; a.unattended {
		return
	}
	a.leaseFile.Repair()
	left, ok := a.leaseFile.Read()
	if a.mine() {
		a.inherit(left, ok)
	} else if a.watcher == nil {
		a.leaseFile.Write(Lease{})
	}
	if a.watcher == nil {
		a.seen, a.seenOnce = events.PostgresSeen{Node: a.cfg.Node, State: events.PostgresDown, Empty: executors.Empty(a.cfg.Postgres)}, true
		a.emit(a.seen)
		if a.view.term > 0 && a.view.grant.Node == a.cfg.Node {
			a.proveDead(a.foundDead(), nil)
		}
	}
	a.probeSoon()
}

// foundDead says how a PostgreSQL ended that was found stopped.
func (a *Agent) foundDead() string {
	if executors.StoppedCleanly(a.cfg.Postgres) {
		if a.view.phase == events.Forming {
			return events.CauseSwitched
		}
		return events.CauseStopped
	}
	return a.causeOfDeath(events.CauseCrashed)
}

// inherit takes over the term that this node holds by the log: a lease that
// still runs goes on; a PostgreSQL without one is stopped, unless its grant
// lets it stay.
func (a *Agent) inherit(left Lease, ok bool) {
	now := Now()
	if a.watcher == nil {
		return
	}
	g := a.view.grant
	switch {
	case a.journal.state.Held < g.Term:
		// Granted while nobody was here, never acquired: to hold it without the
		// log's word would let a promotion begin that a later decision has voided.
		a.lease, _ = a.lease.Granted(g.Term, a.view.grantSeq, g.Stay, now)
	case ok && left.Held && left.Term == g.Term && (left.Stay || !left.Expiry.Add(-left.Budget).Reached(now)):
		a.lease = a.lease.Adopted(g.Term, left.Grant, left.Stay, left.Expiry, now)
		a.lease, _ = a.lease.Granted(g.Term, a.view.grantSeq, g.Stay, now)
		a.cfg.Logger.Info("took over a running PostgreSQL and its lease", "term", g.Term)
	case g.Stay:
		a.lease = a.lease.Adopted(g.Term, a.view.grantSeq, true, now, now)
	default:
		a.cfg.Logger.Warn("PostgreSQL runs here without a lease: stopping it", "term", g.Term)
		a.surrender(events.CauseLeaseLost)
		return
	}
	a.write(lease.Step{Extend: true})
}

// proveDead stops PostgreSQL by force, proves it and reports; then calls done
// from its goroutine, when given.
func (a *Agent) proveDead(cause string, done func(error)) {
	from := a.fact.LSN
	if a.fact.InRecovery {
		from = 0
	}
	term := a.journal.state.Held
	release := a.stopping()
	a.cancelActions()
	go func() {
		defer release()
		a.acting.Lock()
		defer a.acting.Unlock()
		if held := a.heldTerm(); held > term {
			a.cfg.Logger.Warn("PostgreSQL is not stopped: a newer term was taken here meanwhile", "term", held)
			return
		}
		d, err := a.end(from)
		a.settled(term, cause, d, err)
		if done != nil {
			done(err)
		}
	}()
}

// end stops PostgreSQL by force and proves it dead. When there can be no proof,
// because standby.signal cannot be written on a full disk, for example, it is
// stopped all the same.
func (a *Agent) end(from events.LSN) (executors.Dead, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d, err := executors.ProveDead(ctx, a.cfg.Postgres, from)
	if err != nil && ctx.Err() == nil {
		_, killErr := executors.KillPostgres(ctx, a.cfg.Postgres)
		err = errors.Join(err, killErr)
	}
	return d, err
}

// settled reports a proof of death, or that there is none, and waits until the
// loop has taken it. Term is the highest that the node held when the proof
// began: a proof says nothing about a term that was taken meanwhile.
func (a *Agent) settled(term uint64, cause string, d executors.Dead, err error) {
	ask(a, true, func() bool { a.reportDead(term, cause, d, err); return true })
}

// heldTerm asks the loop for the highest term that this node held.
func (a *Agent) heldTerm() uint64 {
	return ask(a, 0, func() uint64 { return a.journal.state.Held })
}

func (a *Agent) reportDead(term uint64, cause string, d executors.Dead, err error) {
	if err != nil {
		a.emit(events.FenceFailed{Node: a.cfg.Node, Term: term, Error: err.Error()})
		return
	}
	a.dead, a.deadTerm = true, term
	if a.lease.Term <= term {
		a.lease = a.lease.Surrendered()
		a.leaseFile.Write(Lease{})
	}
	a.seenOnce = false
	a.fact.State, a.fact.Receiver = events.PostgresDown, ""
	a.emit(events.PostgresDead{
		Node: a.cfg.Node, PID: d.PID, Term: term, Cause: cause, Clean: d.Clean, EndLSN: d.EndLSN,
		Timeline: d.Timeline, SystemID: d.SystemID, Killed: d.Killed, StandbySignal: d.StandbySignal, Outside: d.Outside, TookMicros: d.Took.Microseconds(),
	})
}
