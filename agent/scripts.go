package agent

import (
	"context"
	"errors"
	"time"

	"github.com/interrex-ha/interrex/config/pgpool"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/script"
)

// Scripts are a pgpool user's own, which promote and recover in place of our
// executors where they are given. Who is promoted, and when, is the log's
// decision as ever; what a script did is looked up, never believed.
type Scripts struct {
	Failover       pgpool.Command // failover_command; zero: none
	FailoverWithin time.Duration
	FirstStage     string // recovery_1st_stage_command; empty: none
	RecoveryWithin time.Duration
	Place          executors.Runner                     // where failover_command runs: pgpool's own host, which is the agent's
	Postgres       func(node string) executors.Postgres // any node, with its own Runner
}

// pgpoolNode is a member as scripts know it; the zero Member is none.
func pgpoolNode(m events.Member) pgpool.Node {
	if m.Name == "" {
		return pgpool.Node{ID: pgpool.NoNode}
	}
	return pgpool.Node{ID: m.ID, Host: m.Host, Port: m.Port, DataDir: m.DataDir}
}

// cast is who plays which part in a promotion, asked of the loop.
func (a *Agent) cast() (own, old events.Member, others []executors.Postgres) {
	type answer struct {
		own, old events.Member
		others   []string
	}
	got := ask(a, answer{}, func() (g answer) {
		for _, m := range a.view.members {
			if m.Name == a.view.old {
				g.old = m
			}
			if m.Name == a.cfg.Node {
				g.own = m
			} else {
				g.others = append(g.others, m.Name)
			}
		}
		return g
	})
	for _, name := range got.others {
		others = append(others, a.cfg.Scripts.Postgres(name))
	}
	return got.own, got.old, others
}

// promoteByScript runs failover_command for this node.
func (a *Agent) promoteByScript(ctx context.Context, p pending) (outcome, error) {
	own, old, others := a.cast()
	s := a.cfg.Scripts
	done, err := script.Promote(ctx, script.Promotion{
		Command: s.Failover, Place: s.Place, Within: s.FailoverWithin, Candidate: a.cfg.Postgres, Others: others,
		Values: pgpool.Values{Detached: pgpoolNode(old), Main: pgpoolNode(own), OldMain: pgpoolNode(old).ID, Primary: pgpoolNode(old)},
		Check:  func() error { return a.mayWrite(p.order.Term) },
	})
	return outcome{how: "failover_command", detail: done.Detail()}, err
}

// recoverByScripts runs the recovery's scripts with this node as the target,
// which is stopped before; what they made is led to our slot.
func (a *Agent) recoverByScripts(ctx context.Context, p pending, up executors.Upstream) (outcome, error) {
	s := a.cfg.Scripts
	var primary events.Member
	own, _, _ := a.cast()
	for _, m := range ask(a, nil, func() []events.Member { return a.view.members }) {
		if m.Name == p.order.Primary {
			primary = m
		}
	}
	if err := executors.Stop(ctx, a.cfg.Postgres, "fast"); err != nil {
		return outcome{}, err
	}
	a.emit(events.OrderProgress{OrderRef: p.ref(), Step: s.FirstStage})
	done, err := script.Recover(ctx, script.Recovery{
		FirstStage: s.FirstStage, Primary: s.Postgres(p.order.Primary), Target: a.cfg.Postgres,
		PrimaryAs: pgpoolNode(primary), TargetAs: pgpoolNode(own), Within: s.RecoveryWithin,
		Lead: func(ctx context.Context) error {
			return errors.Join(executors.ProvideSlot(ctx, a.cfg.Postgres, up), executors.Follow(ctx, nil, a.cfg.Postgres, up))
		},
	})
	if errors.Is(err, script.ErrReadWrite) {
		return outcome{}, errors.Join(err, a.deadNow(events.CauseFenced))
	}
	if err != nil {
		return outcome{}, err
	}
	a.do(a.attach)
	return outcome{how: "scripts", detail: done.Detail()}, nil
}

// byScripts: a way that overwrites nothing, and one that was asked for by name,
// stay ours.
func (a *Agent) byScripts(how string) bool {
	return a.cfg.Scripts.FirstStage != "" && (how == "" || how == "auto" || how == executors.HowBaseBackup)
}
