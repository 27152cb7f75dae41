package fsm

import (
	"slices"

	"github.com/interrex-ha/interrex/events"
)

// This file reads facts into conclusions about the node that was named primary,
// and about the choice of one.

// primaryServes: the node of the term is out of recovery and holds its lease.
func primaryServes(s State) ([]uint64, bool) {
	n := s.primary()
	// A primary that was only cut off renews its lease again and has nothing
	// new to tell of its PostgreSQL.
	fresh := n.PGSeq > s.PhaseSince || s.Phase == events.Stalled && s.Grant.Renewed > s.PhaseSince
	ok := s.Grant.Acquired != 0 && fresh && n.PG.State == events.PostgresUp && !n.PG.InRecovery && n.Exited == 0
	return seqs(n.PGSeq, s.Grant.Acquired), ok
}

// officeRefused: the node named refused or failed before it acquired the lease,
// or was not heard in time, or did not take it though another one could.
func officeRefused(s State) ([]uint64, bool) {
	if s.Grant.Acquired != 0 {
		return nil, false
	}
	for _, o := range s.Orders {
		if o.Decision == s.PhaseSince && (o.Status == "failed" || o.Status == "refused") {
			return seqs(o.Seq), true
		}
	}
	for _, r := range []Rung{s.rung(DeadlineAcquire, s.Primary), s.rung(DeadlineOffice, "")} {
		if r.Since == s.PhaseSince {
			return seqs(r.Seq), true
		}
	}
	r := s.rung(DeadlineSilence, s.Primary)
	silent := r.Seq > s.PhaseSince && (r.Since == s.PhaseSince || r.Since == s.primary().Heard)
	return seqs(r.Seq), silent
}

// takesOffice reports whether the order is the one that the newest term began
// with.
func takesOffice(s State, o OrderState) bool {
	return o.Decision == s.Grant.Begun && (o.Do == events.ActPromote || o.Do == events.ActResume)
}

// officeFailed: the node named holds the lease, so that it may be a primary, and
// could not do what it was told, or could not be stopped after it had failed.
func officeFailed(s State) ([]uint64, bool) {
	if s.Grant.Acquired == 0 {
		return nil, false
	}
	for _, o := range s.Orders {
		if takesOffice(s, o) && (o.Status == "failed" || o.Status == "refused") && o.Seq > s.PhaseSince {
			return seqs(o.Seq), true
		}
	}
	n := s.primary()
	return seqs(n.FenceFailed), s.Phase == events.Promoting && n.FenceFailed > s.PhaseSince
}

func candidateFound(s State) ([]uint64, bool) {
	e := elect(s)
	n, _ := s.Node(e.winner)
	return seqs(n.PositionSeq), e.winner != "" && !e.resume && e.wait == ""
}

func resumeFound(s State) ([]uint64, bool) {
	e := elect(s)
	return e.proof.Events, e.winner != "" && e.resume && e.wait == ""
}

func noCandidate(s State) ([]uint64, bool) {
	e := elect(s)
	return seqs(s.rung(DeadlinePosition, "").Seq), e.winner == "" && e.wait == ""
}

// nodeReturned: a standby came up since the cluster stalled, or is heard again or
// attached and was not asked for its position in this failover. Without a proof
// there is nothing to choose.
func nodeReturned(s State) ([]uint64, bool) {
	if _, _, ok := proof(s); !ok {
		return nil, false
	}
	for _, n := range s.Nodes {
		fresh := n.AgentSeq > s.PhaseSince || n.PGFirst > s.PhaseSince || !askedBefore(s, n)
		useful := fresh && n.PG.State == events.PostgresUp && n.PG.InRecovery && s.AgentLives(n)
		if useful && n.Name != s.Primary && !n.Detached && !s.failed(n) {
			return seqs(n.AgentSeq, n.PGSeq), true
		}
	}
	return nil, false
}

// askedBefore reports whether this failover has ordered the node's position.
func askedBefore(s State, n Node) bool {
	return n.PositionSeq != 0 && n.Position.Decision >= s.Episode || slices.ContainsFunc(s.Orders, func(o OrderState) bool {
		return o.Do == events.ActPosition && o.Node == n.Name && o.Decision >= s.Episode
	})
}
