package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm/lease"
)

// fenceName is what an acquisition names as the fence that survives the agent.
const fenceName = "guardian"

// guardianStale is how old the guardian's tick may be before it counts as gone.
const guardianStale = 1500 * time.Millisecond

// renewTimeout bounds one publish of a lease event: short, so that a lost one is
// tried again well before the lease ends.
const renewTimeout = 400 * time.Millisecond

// retryLease is the wait after a lease event that was refused or lost: a
// refusal means that a newer decision is about to be read.
const retryLease = 10 * time.Millisecond

// granted hands the newest grant to the lease.
func (a *Agent) granted() {
	if !a.view.ready {
		return
	}
	if !a.mine() {
		var st lease.Step
		a.lease, st = a.lease.Revoked()
		if st.Fence && a.watcher != nil && !a.fact.InRecovery {
			a.cfg.Logger.Warn("the term was given to another node", "primary", a.view.primary, "term", a.view.term)
			a.proveDead(events.CauseFenced, nil) // until then the guardian keeps the old end
			return
		}
		a.write(st)
		return
	}
	var st lease.Step
	a.lease, st = a.lease.Granted(a.view.grant.Term, a.view.grantSeq, a.view.grant.Stay, Now())
	a.write(st)
}

// stepLease fences when the lease is over and publishes when a renewal is due.
func (a *Agent) stepLease(ctx context.Context, now lease.Instant) {
	if !a.view.ready {
		return
	}
	var st lease.Step
	if a.lease, st = a.lease.Tick(now, a.terms()); st.Fence {
		a.cfg.Logger.Warn("the lease could not be renewed in time: stopping PostgreSQL", "term", a.lease.Term)
		a.surrender(events.CauseLeaseLost)
		return
	}
	if a.fence == "" && len(a.cfg.Guardian) > 0 {
		return // no lease without a fence that survives us
	}
	var n uint64
	a.lease, n, st = a.lease.Send(Now(), a.terms())
	a.write(st) // first: what is about to be cited may be counted by others
	switch {
	case st.Acquire:
		a.publishLease(ctx, n, events.LeaseAcquired{
			Node: a.cfg.Node, Term: a.lease.Term, Grant: a.lease.Grant, Fence: a.fence, Incarnation: a.incarnation, BootID: a.bootID,
		})
	case st.Renew:
		a.publishLease(ctx, n, events.LeaseRenewed{Term: a.lease.Term, Grant: a.lease.Grant, Heartbeat: a.pulse()})
	}
}

// publishLease appends a lease event on condition that no decision was made
// that this agent has not read. The clock was read before (Send); it is read
// again when the answer is here.
func (a *Agent) publishLease(ctx context.Context, n uint64, d events.Data) {
	draft, err := a.draft(d)
	if err != nil {
		a.lease = a.lease.Failed(n, Now(), time.Second)
		return
	}
	draft.If = events.Condition{AtDecision: true, Seq: a.view.lastDecision}
	go func() {
		try, cancel := context.WithTimeout(ctx, renewTimeout)
		_, err := a.cfg.Log.Append(try, draft)
		cancel()
		now := Now()
		a.do(func() { a.answered(n, d, err, now) })
	}()
}

func (a *Agent) answered(n uint64, d events.Data, err error, now lease.Instant) {
	if err != nil {
		if !retryable(err) && !errors.Is(err, events.ErrConflict) {
			a.cfg.Logger.Error("the log refuses a lease event", "kind", d.Kind(), "error", err)
		}
		a.lease = a.lease.Failed(n, now, retryLease)
		return
	}
	held := a.lease.Held
	var st lease.Step
	a.lease, st = a.lease.Acknowledged(n, now, a.terms())
	if st.Fence {
		a.surrender(events.CauseLeaseLost)
		return
	}
	if !held && a.lease.Held {
		if err := a.journal.save(a.journal.state.Hold(a.lease.Term)); err != nil {
			// The log counts this node as a holder, whose lease will run out: a
			// PostgreSQL that takes writes already must have stopped by then.
			a.cfg.Logger.Error("a term was taken and cannot be remembered; giving it up", "error", err)
			a.write(st)
			a.surrender(events.CauseLeaseLost)
			return
		}
		a.leaseFile.set(wordFenced, 0) // what the guardian did to an earlier life says nothing of this one
		a.probeSoon()
	}
	a.write(st)
}

// write tells the guardian.
func (a *Agent) write(st lease.Step) {
	if !st.Extend {
		return
	}
	a.leaseFile.Write(Lease{
		Expiry: a.lease.Expiry, Budget: a.terms().Budget, Held: a.lease.Held, Stay: a.lease.Stay,
		Term: a.lease.Term, Grant: a.lease.Grant,
	})
}

// surrender gives the lease up and proves PostgreSQL dead. The guardian keeps
// the old end until that is done.
func (a *Agent) surrender(cause string) {
	a.lease = a.lease.Surrendered()
	if a.provedDead() {
		a.leaseFile.Write(Lease{})
		return
	}
	a.proveDead(cause, nil)
}

// provedDead: PostgreSQL was proved dead, for every term that was held here, and
// has not run since.
func (a *Agent) provedDead() bool {
	return a.dead && a.watcher == nil && a.deadTerm >= a.journal.state.Held
}

// mayWrite is asked before and during every act that opens PostgreSQL
// read-write. It may be called from any goroutine.
func (a *Agent) mayWrite(term uint64) error {
	return ask(a, errLeft, func() error {
		switch {
		case a.view.term != term || !a.mine():
			return fmt.Errorf("term %d is over: the log names %s in term %d", term, a.view.primary, a.view.term)
		case !a.lease.MayWrite(term, Now(), a.terms()):
			return fmt.Errorf("no live lease of term %d", term)
		}
		return nil
	})
}

// checkGuardian keeps a guardian alive. One that does not tick is replaced; a
// frozen one cannot fence.
func (a *Agent) checkGuardian(ctx context.Context) {
	if len(a.cfg.Guardian) == 0 {
		return
	}
	idle := Now().Boot - time.Duration(a.leaseFile.get(wordGuardianTick))
	if idle < guardianStale {
		a.fence = fenceName
		return
	}
	a.fence = ""
	if !a.guardianDue() {
		return
	}
	if p := a.leaseFile.GuardianPID(); p > 0 && guards(p, a.cfg.Dir) {
		kill(p)
	}
	a.leaseFile.set(wordQuit, 0)
	if err := startDetached(a.cfg.Guardian); err != nil {
		a.cfg.Logger.Error("the guardian cannot be started", "error", err)
	}
}

// lastGuardian spaces the attempts to start a guardian.
func (a *Agent) guardianDue() bool {
	if time.Since(a.lastGuardian) < 500*time.Millisecond {
		return false
	}
	a.lastGuardian = time.Now()
	return true
}

// startDetached starts a process that outlives this one.
func startDetached(command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Args[0] = "interrex"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

func (a *Agent) draft(d events.Data) (events.Draft, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return events.Draft{}, fmt.Errorf("agent %s: no randomness for an event id: %w", a.cfg.Node, err)
	}
	return events.Draft{ID: id.String(), Time: time.Now(), Source: "agent/" + a.cfg.Node, Data: d}, nil
}

func retryable(err error) bool {
	return errors.Is(err, events.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

func pid() int { return os.Getpid() }
