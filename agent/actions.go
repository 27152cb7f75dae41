package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// This file says how each order is carried out here. The doing itself is in
// executors; what is added here is the permission: term, lease, journal.

// connection hands over a connection that is open already, or opens one.
func (a *Agent) connection(ctx context.Context) (*pgx.Conn, error) {
	if c := a.spare.take(ctx); c != nil {
		return c, nil
	}
	if c := answering(ctx, a.prober.Take()); c != nil {
		return c, nil
	}
	return executors.Connect(ctx, a.cfg.Postgres)
}

func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// hold waits until the lease of the order's term is held. A grant that was
// voided meanwhile, or a lease that cannot be had in time, is an error.
func (a *Agent) hold(ctx context.Context, p pending) error {
	for {
		err := a.mayWrite(p.order.Term)
		if err == nil {
			return nil
		}
		if over := a.termOver(p.order.Term); over != nil {
			return notActed{over}
		}
		select {
		case <-ctx.Done():
			return notActed{fmt.Errorf("the lease was not acquired in time: %w", err)}
		case <-time.After(time.Millisecond):
		}
	}
}

// termOver says that a newer decision ended the term, or nil.
func (a *Agent) termOver(term uint64) error {
	return ask(a, errLeft, func() error {
		if a.view.term != term || !a.mine() {
			return fmt.Errorf("term %d is over: the log names %s in term %d", term, a.view.primary, a.view.term)
		}
		return nil
	})
}

// promote takes the lease first and promotes only under it.
func (a *Agent) promote(ctx context.Context, p pending) (outcome, error) {
	if err := a.hold(ctx, p); err != nil {
		return outcome{}, err
	}
	by := a.promoteHere
	if !a.cfg.Scripts.Failover.IsZero() {
		by = a.promoteByScript
	}
	out, err := by(ctx, p)
	if err == nil {
		a.probeSoon()
		return out, nil
	}
	// The lease was taken and nobody knows how far it got: this node may be a
	// primary. It is stopped and proved dead, so that another may be named.
	return outcome{}, fmt.Errorf("promote: %w", errors.Join(err, a.deadNow(events.CauseFenced)))
}

func (a *Agent) promoteHere(ctx context.Context, p pending) (outcome, error) {
	conn, err := a.connection(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer closeConn(conn)
	done, err := executors.Promote(ctx, conn, a.cfg.Postgres, func() error { return a.mayWrite(p.order.Term) })
	return outcome{detail: map[string]string{"lsn": done.LSN.String(), "timeline": strconv.Itoa(int(done.Timeline))}}, err
}

// deadNow proves PostgreSQL dead within an action.
func (a *Agent) deadNow(cause string) error {
	term := a.heldTerm()
	release := a.stopping()
	defer release()
	d, err := a.end(0)
	a.settled(term, cause, d, err)
	return err
}

// resume starts the old primary again, read-write, under its new term.
func (a *Agent) resume(ctx context.Context, p pending) (outcome, error) {
	if err := a.hold(ctx, p); err != nil {
		return outcome{}, err
	}
	err := a.startServer(ctx, false)
	if err == nil {
		return outcome{}, nil
	}
	return outcome{}, fmt.Errorf("resume: %w", errors.Join(err, a.deadNow(events.CauseCrashed)))
}

func (a *Agent) startServer(ctx context.Context, standby bool) error {
	if _, err := executors.Start(ctx, a.cfg.Postgres, executors.StartOptions{Standby: standby}); err != nil {
		return err
	}
	a.do(a.attach)
	if err := executors.WaitAccepting(ctx, a.cfg.Postgres); err != nil {
		return err
	}
	a.probeSoon()
	return nil
}

// fenceOrder stops PostgreSQL by force and proves it dead; once is enough.
func (a *Agent) fenceOrder(_ context.Context, _ pending) (outcome, error) {
	if ask(a, false, a.provedDead) {
		return outcome{how: "proved already"}, nil
	}
	cause := events.CauseFenced
	if executors.StoppedCleanly(a.cfg.Postgres) {
		cause = events.CauseStopped
	}
	return outcome{}, a.deadNow(cause)
}

// demote stops the primary cleanly and proves it dead.
func (a *Agent) demote(ctx context.Context, p pending) (outcome, error) {
	// The proof speaks of the term that was held: an acquisition under way must
	// be over, or the proof would be taken for one of an older life.
	if err := a.hold(ctx, p); err != nil {
		return outcome{}, err
	}
	term := a.heldTerm()
	release := a.stopping()
	defer release()
	conn, err := a.connection(ctx)
	if err != nil {
		return outcome{}, notActed{fmt.Errorf("demote: %w", err)}
	}
	defer closeConn(conn)
	d, err := executors.Demote(ctx, conn, a.cfg.Postgres)
	if err != nil {
		return outcome{}, fmt.Errorf("demote: %w", err)
	}
	a.settled(term, events.CauseSwitched, d, nil)
	return outcome{}, nil
}

// watchedPID asks the loop for the postmaster's process id.
func (a *Agent) watchedPID() int {
	return ask(a, 0, func() int { return a.watched.PID })
}

// positionOptions: the position that counts is the received one, so replay is
// hardly waited for; a receiver whose primary is being stopped is waited for as
// long as the order stands.
func positionOptions(o events.Order) executors.PositionOptions {
	opt := executors.PositionOptions{Detach: o.How == "detach", ReplayWithin: time.Microsecond}
	if !opt.Detach {
		opt.GoneWithin = o.Expires.D()
	}
	return opt
}

// position reports where this standby's WAL ends, with its receiver gone.
func (a *Agent) position(ctx context.Context, p pending) (outcome, error) {
	report := events.PositionReported{Node: a.cfg.Node, Decision: p.decision}
	conn, err := a.connection(ctx)
	if err == nil {
		var pos executors.Position
		pos, err = executors.FindPosition(ctx, conn, a.cfg.Postgres, positionOptions(p.order))
		a.spare.give(conn, a.watchedPID()) // a promotion may follow
		report.LSN, report.Replay, report.Timeline, report.SystemID = pos.LSN, pos.Replay, pos.Timeline, pos.SystemID
	}
	if err != nil {
		report.Error = err.Error()
	}
	a.emit(report)
	return outcome{}, err
}

// followOrder leads a running standby to the primary.
func (a *Agent) followOrder(ctx context.Context, p pending) (outcome, error) {
	up, err := a.cfg.Upstream(p.order.Primary)
	if err != nil {
		return outcome{}, notActed{err}
	}
	conn, err := executors.Connect(ctx, a.cfg.Postgres)
	if err != nil {
		return outcome{}, notActed{err}
	}
	defer closeConn(conn)
	if err := executors.ProvideSlot(ctx, a.cfg.Postgres, up); err != nil { // settle will: only the receiver's first try may fail
		a.cfg.Logger.Info("the slot could not be made beforehand", "upstream", up.Node, "error", err)
	}
	if err := executors.Follow(ctx, conn, a.cfg.Postgres, up); err != nil {
		return outcome{}, err
	}
	wait, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return outcome{}, executors.WaitStreaming(wait, conn, a.cfg.Postgres, up)
}

// settle makes the new primary complete: term row, slots, checkpoint.
func (a *Agent) settle(ctx context.Context, p pending) (outcome, error) {
	var slots []string
	for _, m := range ask(a, nil, func() []events.Member { return a.view.members }) {
		if m.Name != a.cfg.Node {
			slots = append(slots, events.SlotName(m.Name))
		}
	}
	if err := a.mayWrite(p.order.Term); err != nil {
		if err = a.hold(ctx, p); err != nil {
			return outcome{}, err
		}
	}
	conn, err := executors.Connect(ctx, a.cfg.Postgres)
	if err != nil {
		return outcome{}, err
	}
	defer closeConn(conn)
	if a.cfg.NewCluster != nil {
		if err := executors.InitDone(ctx, a.cfg.Postgres); err != nil {
			return outcome{}, err
		}
	}
	return outcome{}, executors.Settle(ctx, conn, a.cfg.Postgres, p.order.Term, p.decision, slots)
}

// recover makes this node a standby of the primary.
func (a *Agent) recover(ctx context.Context, p pending) (outcome, error) {
	up, err := a.cfg.Upstream(p.order.Primary)
	if err != nil {
		return outcome{}, notActed{err}
	}
	release := a.stopping()
	defer release()
	if a.byScripts(p.order.How) {
		return a.recoverByScripts(ctx, p, up)
	}
	last := time.Time{}
	step := ""
	done, err := executors.Recover(ctx, a.cfg.Postgres, up, executors.RecoverOptions{
		How: p.order.How, Decision: p.decision,
		Progress: func(what string, done, total uint64) {
			if what == step && time.Since(last) < 500*time.Millisecond {
				return
			}
			step, last = what, time.Now()
			a.emit(events.OrderProgress{OrderRef: p.ref(), Step: what, Done: done, Total: total})
		},
		Journal: func(step string) error {
			return ask(a, errLeft, func() error { return a.journal.save(a.journal.state.AtStep(p.mark(), step)) })
		},
	})
	if err != nil {
		return outcome{}, err
	}
	if a.cfg.NewCluster != nil { // a copy has the mark of the one that it was made of
		if err := executors.InitDone(ctx, a.cfg.Postgres); err != nil {
			return outcome{}, err
		}
	}
	a.do(a.attach)
	out := outcome{how: done.How}
	if done.Kept != "" {
		out.detail = map[string]string{"kept": done.Kept}
	}
	return out, nil
}

// stopOrder stops a standby, after its primary: what the primary still sends
// while it shuts down is received.
func (a *Agent) stopOrder(ctx context.Context, _ pending) (outcome, error) {
	release := a.stopping()
	defer release()
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	if conn, err := executors.Connect(wait, a.cfg.Postgres); err == nil {
		_, _ = executors.FindPosition(wait, conn, a.cfg.Postgres, executors.PositionOptions{GoneWithin: 5 * time.Second})
		closeConn(conn)
	}
	cancel()
	return outcome{}, executors.Stop(ctx, a.cfg.Postgres, "fast")
}

// clean removes what a recovery kept aside.
func (a *Agent) clean(ctx context.Context, _ pending) (outcome, error) {
	removed, bytes, err := executors.Clean(ctx, a.cfg.Postgres)
	if err != nil {
		return outcome{}, errors.Join(errors.New("clean"), err)
	}
	return outcome{detail: map[string]string{"removed": strconv.Itoa(len(removed)), "bytes": strconv.FormatUint(bytes, 10)}}, nil
}

// initOrder makes the first server of a new cluster, and starts it. It is not
// done once a term was given: then the data is somewhere else.
func (a *Agent) initOrder(ctx context.Context, p pending) (outcome, error) {
	if a.cfg.NewCluster == nil {
		return outcome{}, notActed{errors.New("this agent was not told how to make a new cluster")}
	}
	if term := ask(a, 0, func() uint64 { return a.view.term }); term != 0 {
		return outcome{}, notActed{fmt.Errorf("the cluster has a primary already, in term %d", term)}
	}
	c := a.cfg.NewCluster()
	c.Decision = p.decision
	if err := executors.Init(ctx, a.cfg.Postgres, c); err != nil {
		return outcome{}, err
	}
	if err := a.startServer(ctx, false); err != nil && !errors.Is(err, executors.ErrRunning) {
		return outcome{}, err
	}
	return outcome{}, nil // settling confirms it: a container may end before the first term
}
