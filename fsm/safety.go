package fsm

import (
	"fmt"
	"slices"

	"github.com/interrex-ha/interrex/events"
)

// This file is the arithmetic of safety: small questions with one answer each.

// proofDead returns the proof "dead" or "killed" against the present grant: the
// node's own agent said, after the grant, that no process of it is left and that
// any later start is read-only.
func proofDead(s State) (events.Proof, bool) {
	n := s.primary()
	if n.DeadSeq == 0 || n.DeadSeq < s.Grant.Begun || !n.Dead.StandbySignal {
		return events.Proof{}, false
	}
	if n.Dead.Term < s.Grant.Term && s.Grant.Acquired != 0 {
		return events.Proof{}, false // it speaks of an older life
	}
	if n.Dead.Outside != "" {
		return events.Proof{
			Kind: events.ProofKilled, Node: n.Name, Term: s.Grant.Term, Events: []uint64{n.DeadSeq},
			Why: n.Dead.Outside + " was killed and no process of it is left; standby.signal is on its disk",
		}, true
	}
	return events.Proof{
		Kind: events.ProofDead, Node: n.Name, Term: s.Grant.Term, Events: []uint64{n.DeadSeq}, EndLSN: n.Dead.EndLSN,
		Why: "no process of it is left, standby.signal is on its disk, and the end of its WAL was read",
	}, true
}

// proofExpired returns the proof "expired": the lease ran out by one
// controller's own uninterrupted wait, under a grant that ends with the lease
// and names a fence that survives the agent, and nothing of that PostgreSQL was
// seen since. missing names what is not there.
func proofExpired(s State) (p events.Proof, missing string, ok bool) {
	g := s.Grant
	switch {
	case g.Acquired != 0 && g.Fence == "": // whatever else the grant says
		return p, "its lease names no fence that survives its agent: only a proof of death or an operator can end it", false
	case g.Stay:
		return p, "its grant lets it stay without the log: only a proof of death or an operator can end it", false
	case g.Acquired == 0:
		return p, "its lease was never acquired", false
	case g.Renewed == 0:
		return p, fmt.Sprintf("its agent has not renewed its lease under the newest grant (decision %d) yet", g.Seq), false
	}
	r := s.rung(DeadlineLease, g.Node)
	if r.Since != g.Renewed || r.Waited < s.LeaseWait {
		return p, fmt.Sprintf("the lease of term %d runs until %s after its last renewal", g.Term, s.LeaseWait), false
	}
	if who := seenAlive(s, s.primary()); who != "" {
		return p, who, false
	}
	return events.Proof{
		Kind: events.ProofExpired, Node: g.Node, Term: g.Term, Events: []uint64{g.Renewed, r.Seq},
		Why: fmt.Sprintf("no renewal for %s; %s stops it at the lease's end, and nothing of it was seen since", r.Waited, g.Fence),
	}, "", true
}

// proofUnused returns the proof that needs no evidence but the log's order: a
// grant that was never acquired is void from the next decision on, because an
// acquisition is conditional on the last decision.
func proofUnused(s State) (events.Proof, bool) {
	if s.Grant.Seq == 0 || s.Grant.Acquired != 0 || s.Grant.Running {
		return events.Proof{}, false
	}
	return events.Proof{
		Kind: events.ProofUnused, Node: s.Grant.Node, Term: s.Grant.Term, Events: []uint64{s.Grant.Seq}, EndLSN: s.Grant.End,
		Why: "its lease was never acquired, and cannot be after this decision",
	}, true
}

// proof returns the best evidence against the present grant, surest first.
func proof(s State) (events.Proof, string, bool) {
	if s.Grant.Seq == 0 {
		return events.Proof{Kind: events.ProofNone, Why: "no node ever held a term"}, "", true
	}
	if p, ok := proofDead(s); ok {
		return p, "", true
	}
	if p, ok := proofUnused(s); ok {
		return p, "", true
	}
	return proofExpired(s)
}

// seenAlive names the observer that still sees the node's PostgreSQL alive, or
// "". Only what was seen while its own agent could not speak counts here.
func seenAlive(s State, n Node) string {
	for _, p := range n.Peers {
		by, ok := s.Node(p.By)
		if !ok || !s.AgentLives(by) {
			continue
		}
		switch p.State {
		case events.PostgresUp, events.PostgresStarting, events.PostgresStopping, events.PostgresRefusing:
			return fmt.Sprintf("the agent of %s still reaches its PostgreSQL (%s, event %d)", p.By, p.State, p.Seq)
		}
	}
	for _, o := range s.Nodes {
		if o.Name != n.Name && s.AgentLives(o) && o.PG.State == events.PostgresUp && o.PG.Upstream == n.Name && o.PG.Receiver == "streaming" && o.LSNGrew {
			return fmt.Sprintf("the receiver of %s still advances", o.Name)
		}
	}
	return ""
}

const whyUnfenced = "nothing on its host stops it when its agent cannot: its silence is no proof"

// mayStay says whether a primary may outlive its lease: only when nothing can be
// promoted while the grant stands.
func mayStay(s State) (bool, string) {
	if s.Paused() {
		return true, "paused by " + s.Pause.Owner
	}
	if s.primary().AgentLeft {
		return true, "its agent left in order: maintenance"
	}
	unfenced := s.Grant.Acquired != 0 && s.Grant.Fence == "" || s.primary().Agent.Place != ""
	if s.Grant.Node == s.Primary && unfenced {
		return true, whyUnfenced
	}
	for _, n := range s.Nodes {
		up := n.Status == StatusWaiting || n.Status == StatusUp || follows(s, n)
		if n.Name != s.Primary && !n.Detached && up {
			return false, ""
		}
	}
	return true, "no standby could be promoted"
}

// rejected says why a node may not be promoted now, or "". lag is what would be
// lost at most, in bytes.
func rejected(s State, n Node, end events.LSN) (reason string, lag uint64) {
	switch {
	case n.Name == s.Primary:
		return "it is the old primary", 0
	case n.Detached:
		return "it is detached", 0
	case n.AgentSeq == 0 || n.AgentLeft:
		return "no agent stands for it", 0
	case s.failed(n):
		return "it could not take office in this failover", 0
	case n.PositionSeq == 0 || n.Position.Decision < s.Episode:
		return silentOrPending(s, n), 0
	case n.Position.Error != "":
		return "its position is unknown: " + n.Position.Error, 0
	case s.SystemID != "" && n.Position.SystemID != s.SystemID:
		return fmt.Sprintf("its system identifier is %s, the cluster's is %s", n.Position.SystemID, s.SystemID), 0
	case s.PrimaryTLI != 0 && n.Position.Timeline != s.PrimaryTLI:
		return fmt.Sprintf("it is on timeline %d, the old primary was on %d", n.Position.Timeline, s.PrimaryTLI), 0
	case n.Position.LSN == 0:
		return "its position is unknown", 0
	}
	lag = n.Position.LSN.Behind(end)
	if lag > s.Policy.MaxLag {
		return fmt.Sprintf("it lacks %d bytes of WAL, max_lag is %d", lag, s.Policy.MaxLag), lag
	}
	return "", lag
}

func silentOrPending(s State, n Node) string {
	if !s.AgentLives(n) {
		return "its agent is silent"
	}
	return "it has not reported its position"
}

// mayResume says why the old primary may not start again under a new term, or "".
func mayResume(s State) string {
	why := cannotResume(s)
	if why == "" && s.failed(s.primary()) {
		return "it could not be started in this failover"
	}
	return why
}

// cannotResume is mayResume for an operator who asks to try once more.
func cannotResume(s State) string {
	n := s.primary()
	_, dead := proofDead(s)
	_, unused := proofUnused(s)
	switch {
	case s.Grant.Seq == 0:
		return "no node ever held a term"
	case !dead && !unused, n.DeadSeq == 0:
		return "it is not proved dead"
	case !s.AgentLives(n):
		return "its agent is silent"
	case n.DeadSeq < n.AgentSeq:
		return "its agent came back and has not proved it dead anew"
	}
	return ""
}

// resumable is the node that may start again, read-write, under a new term: the
// old primary, or, when the one named after it never took its lease and so wrote
// nothing, the last that was in office. The reason is "" when it may.
func resumable(s State) (Node, string) {
	why := mayResume(s)
	if _, unused := proofUnused(s); why == "" || !unused || s.Served == s.Primary {
		return s.primary(), why
	}
	n, ok := s.Node(s.Served)
	proved := n.DeadSeq != 0 && n.DeadSeq > n.AgentSeq && n.Dead.StandbySignal
	if !ok || !proved || !s.AgentLives(n) || s.failed(n) {
		return s.primary(), why
	}
	return n, ""
}

// lossOf is the accounting of promoting a node at position at.
func lossOf(s State, p events.Proof, at events.LSN) *events.Loss {
	end, exact := p.EndLSN, p.EndLSN != 0
	if !exact {
		end = s.PrimaryLSN
	}
	if end == 0 {
		return nil
	}
	l := &events.Loss{Exact: exact, Bytes: at.Behind(end)}
	if l.Bytes > 0 {
		l.From, l.To = at, end
	}
	return l
}

// replaceable reports whether another node than the one just named could be
// promoted with what is known now.
func replaceable(s State) bool {
	return slices.ContainsFunc(s.Nodes, func(n Node) bool {
		why, _ := rejected(s, n, s.PrimaryLSN)
		return why == "" && s.AgentLives(n)
	})
}
