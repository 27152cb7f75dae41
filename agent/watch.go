package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/probes"
)

// freshEvery is how often a probe also asks whether the postmaster itself still
// answers new connections: a kept session lives on when only it hangs. It is a
// little less than a second, so that it falls on every fourth probe of 250 ms.
const freshEvery = 900 * time.Millisecond

// peerEvery is how often another node is probed, primaryEvery the primary.
const (
	peerEvery    = time.Second
	primaryEvery = 500 * time.Millisecond
)

// beatEarly is how much too early a heartbeat may leave: it goes with the probe
// that falls due then, not a wake-up or a probe later.
const beatEarly = 50 * time.Millisecond

// gridBegan is the moment that probes of all kinds count their times from: what
// falls due together shares one wake-up of the processor, and wake-ups are most
// of what an idle agent costs.
var gridBegan = time.Now()

// untilNext is the time from now, counted from the grid's begin, until the next
// multiple of every: more than 0 and at most every.
func untilNext(now, every time.Duration) time.Duration { return every - now%every }

// summary counts the probes since the last heartbeat.
type summary struct {
	failures int
	took     []time.Duration
}

func (s *summary) take() events.ProbeSummary {
	out := events.ProbeSummary{Count: len(s.took), Failures: s.failures}
	if len(s.took) > 0 {
		slices.Sort(s.took)
		out.MinMicros = s.took[0].Microseconds()
		out.MedMicros = s.took[len(s.took)/2].Microseconds()
		out.MaxMicros = s.took[len(s.took)-1].Microseconds()
	}
	s.took, s.failures = s.took[:0], 0
	return out
}

// probeLoop probes this node's PostgreSQL for as long as ctx lives.
func (a *Agent) probeLoop(ctx context.Context) {
	var fresh time.Time
	hung := false // until a new connection is answered again, whatever a kept session says
	for {
		a.prober.SetTimeout(time.Duration(a.probeTimeout.Load()))
		f := a.prober.Probe(ctx)
		if f.State == events.PostgresUp && (hung || time.Since(fresh) >= freshEvery) {
			fresh = time.Now()
			g := a.prober.Fresh(ctx)
			if hung = g.State == events.PostgresSilent; hung {
				f.State, f.Err = g.State, g.Err
			}
		}
		if ctx.Err() != nil {
			return
		}
		a.do(func() {
			a.probed(f)
			a.keepSpare(ctx, f)
		})
		select {
		case <-ctx.Done():
			return
		case <-time.After(untilNext(time.Since(gridBegan), max(time.Duration(a.probeEvery.Load()), 10*time.Millisecond))):
		case <-a.probeNow:
		}
	}
}

// probeSoon asks for a probe now.
func (a *Agent) probeSoon() {
	select {
	case a.probeNow <- struct{}{}:
	default:
	}
}

// probed takes the outcome of a probe.
func (a *Agent) probed(f probes.Fact) {
	a.probes.took = append(a.probes.took, f.Took)
	if f.State != events.PostgresUp {
		a.probes.failures++
	}
	a.attach()
	if a.unattended && !a.blind {
		a.takeOver()
	}
	if !a.blind && a.watcher == nil && (f.State != events.PostgresUp || a.dead) {
		f.State = events.PostgresDown // no process: whatever the connection said, perhaps before it was killed
	}
	if f.State == events.PostgresUp {
		a.fact = f
		a.dead = false
	} else {
		a.fact.State, a.fact.Receiver, a.fact.Replicas = f.State, "", nil // positions stay as last seen
	}
	if a.view.ready {
		a.report(f)
		a.refuseForeign(f)
		a.forgetLease(f)
	}
}

// report emits postgres-seen when something that matters changed.
func (a *Agent) report(f probes.Fact) {
	d := f.Seen(a.cfg.Node)
	d.PID = a.watched.PID
	if a.watcher == nil {
		d.PID = 0
	}
	d.Empty = d.State == events.PostgresDown && a.watcher == nil && executors.Empty(a.cfg.Postgres)
	d.Upstream = a.upstreamName(f.SenderHost, f.SenderPort)
	if d.Unheard = a.unheard(); d.Unheard && d.Error == "" {
		d.Error = a.whyUnheard
	}
	if d.Receiver != "streaming" { // one that tries again and again is no news each time
		d.Receiver, d.Upstream = "", ""
	}
	same := d
	same.LSN, same.Error = a.seen.LSN, a.seen.Error // positions travel in the heartbeat
	if a.seenOnce && same == a.seen {
		return
	}
	a.seen, a.seenOnce = d, true
	a.emit(d)
}

// unheard looks whether PostgreSQL's host, where that is another one, tells of it.
func (a *Agent) unheard() bool {
	if a.cfg.Place == "" {
		return false
	}
	_, _, err := executors.Postmaster(a.cfg.Postgres)
	if !errors.Is(err, executors.ErrNotHeard) {
		a.heard = time.Now()
		return false
	}
	a.whyUnheard = err.Error()
	return time.Since(a.heard) > unheardAfter
}

// unheardAfter is how long a host may say nothing before that is worth an event:
// an agent that begins has to put a copy of interrex there first.
const unheardAfter = 3 * time.Second

// refuseForeign stops a PostgreSQL that takes writes though the log names
// another primary, or this one for a term that has ended here: somebody started
// it by hand, or it was thawed.
func (a *Agent) refuseForeign(f probes.Fact) {
	granted := a.mine() && a.lease.Over < a.view.term
	if f.State != events.PostgresUp || f.InRecovery || a.view.term == 0 || granted || a.expecting() {
		return
	}
	a.cfg.Logger.Warn("PostgreSQL takes writes here without a grant: stopping it", "primary", a.view.primary, "term", a.view.term, "ended_here", a.lease.Over)
	a.proveDead(events.CauseFenced, nil)
}

// forgetLease clears a lease that was left over where no proof of death could
// be had: the guardian must not stop the standby that runs here by now.
func (a *Agent) forgetLease(f probes.Fact) {
	if f.State != events.PostgresUp || !f.InRecovery || a.mine() || a.expecting() {
		return
	}
	if left, ok := a.leaseFile.Read(); ok && left.Held {
		a.leaseFile.Write(Lease{})
	}
}

// attach begins to watch a postmaster that somebody started. While PostgreSQL's
// host is not heard of, the agent is blind: it neither takes a process for gone
// nor for there.
func (a *Agent) attach() {
	if a.watcher != nil {
		return
	}
	inc, ok, err := executors.Postmaster(a.cfg.Postgres)
	a.blind = errors.Is(err, executors.ErrNotHeard)
	if err != nil || !ok {
		return
	}
	w, err := executors.WatchPostmaster(a.cfg.Postgres, inc)
	if err != nil {
		return
	}
	a.watcher, a.watched = w, inc
	a.dead = false
	go func() {
		<-w.Done()
		a.do(func() { a.exited(w, inc) })
	}()
}

// exited: the postmaster that was watched ended.
func (a *Agent) exited(w *executors.Watcher, inc executors.Incarnation) {
	if a.watcher != w {
		return
	}
	w.Close()
	a.watcher = nil
	if a.expecting() {
		return // an action of ours stops it and reports
	}
	clean := executors.StoppedCleanly(a.cfg.Postgres)
	a.emit(events.PostgresExited{Node: a.cfg.Node, PID: inc.PID, Clean: clean, Term: a.journal.state.Held})
	a.seenOnce = false
	a.probeSoon()
	if clean || !a.mine() || a.view.paused {
		return
	}
	a.surrender(a.causeOfDeath(events.CauseCrashed))
}

// pauseEnded does what the pause had put off: a primary that ended uncleanly
// meanwhile, and was not started again, is given up now.
func (a *Agent) pauseEnded() {
	a.attach()
	if a.watcher != nil || a.dead || !a.mine() || a.expecting() || executors.StoppedCleanly(a.cfg.Postgres) {
		return
	}
	a.surrender(a.causeOfDeath(events.CauseCrashed))
}

// causeOfDeath says whether the guardian was it.
func (a *Agent) causeOfDeath(otherwise string) string {
	if at := time.Duration(a.leaseFile.get(wordFenced)); at != 0 && Now().Boot-at < 10*time.Second {
		return events.CauseLeaseLost
	}
	return otherwise
}

// pulse is what a heartbeat or a renewal carries.
func (a *Agent) pulse() events.Heartbeat {
	h := events.Heartbeat{Node: a.cfg.Node, State: a.fact.State, LSN: a.fact.LSN, Replay: a.fact.Replay, Probes: a.probes.take()}
	if !a.fact.InRecovery {
		h.Replicas, h.Replay = a.fact.Replicas, 0
	}
	return h
}

// heartbeat says that the agent lives, when no renewal says it.
func (a *Agent) heartbeat() {
	if !a.view.ready || a.fact.State == "" || a.lease.Held || time.Since(a.beat) < a.view.policy.Heartbeat.D()-beatEarly {
		return
	}
	a.beat = time.Now()
	a.emit(a.pulse())
}

// peerLoops probes the other nodes: they are the second observers (TRIED 15).
func (a *Agent) peerLoops(ctx context.Context) {
	for _, p := range a.cfg.Peers {
		go a.peerLoop(ctx, p)
	}
}

func (a *Agent) peerLoop(ctx context.Context, p Peer) {
	prober := probes.New(probes.Config{DSN: p.DSN})
	defer prober.Close()
	for {
		prober.SetTimeout(time.Duration(a.probeTimeout.Load()))
		f := prober.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		every := peerEvery
		if name := a.primaryName.Load(); name != nil && *name == p.Node {
			every = primaryEvery
		}
		a.do(func() {
			if !a.view.ready || a.peers[p.Node] == f.State {
				return
			}
			a.peers[p.Node] = f.State
			d := events.PeerSeen{Node: p.Node, By: a.cfg.Node, State: f.State, InRecovery: f.InRecovery}
			if f.Err != nil {
				d.Error = f.Err.Error()
			}
			a.emit(d)
		})
		select {
		case <-ctx.Done():
			return
		case <-time.After(untilNext(time.Since(gridBegan), every)):
		}
	}
}
