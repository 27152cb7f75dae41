package fsm

import (
	"slices"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// Nodes without data. They are told apart from stopped ones by their own agents,
// who looked into the directory; and nothing of this holds in a cluster whose
// servers were made, or taken over, before its log was.

// nothingYet: a new cluster. Every node is heard and empty: one that is not
// heard may hold the data, and a second first node would be a second cluster. A
// term that was ever given rules it out for good, whatever became of the volumes.
func nothingYet(s State) ([]uint64, bool) {
	first, ok := s.Node(s.Bootstrap)
	if !ok || s.Term != 0 || s.Primary != "" || first.Detached {
		return nil, false
	}
	var ev []uint64
	for _, n := range s.Nodes {
		if !empty(s, n) {
			return nil, false
		}
		ev = append(ev, n.PGSeq)
	}
	return ev, !told(s, first, events.ActInit)
}

// holders names the nodes whose data keeps a new cluster from being made, once
// every node is heard and nothing runs anywhere; "" before that, and where nothing
// would be made.
func holders(s State) string {
	if s.Bootstrap == "" || s.Term != 0 || s.Primary != "" {
		return ""
	}
	var full []string
	for _, n := range s.Nodes {
		if !s.AgentLives(n) || n.PGSeq <= n.AgentSeq || n.PG.State != events.PostgresDown {
			return ""
		}
		if told := slices.ContainsFunc(s.Orders, func(o OrderState) bool {
			return o.Node == n.Name && o.Do == events.ActInit && (o.Status == "" || o.Status == "started")
		}); told {
			return "" // it is being made
		}
		if !n.PG.Empty {
			full = append(full, n.Name)
		}
	}
	return strings.Join(full, ", ")
}

// nodeEmpty: a standby that never was, or whose volume was lost. One copy for
// each run of its agent and each term.
func nodeEmpty(s State) ([]uint64, bool) {
	n, ok := copyless(s)
	return seqs(n.AgentSeq, n.PGSeq), ok
}

func copyless(s State) (Node, bool) {
	p := s.primary()
	if s.Bootstrap == "" || p.PG.State != events.PostgresUp || p.PG.InRecovery || s.Grant.Acquired == 0 {
		return Node{}, false
	}
	for _, n := range s.Nodes {
		if n.Name != s.Primary && !n.Detached && empty(s, n) && !told(s, n, events.ActRecover) {
			return n, true
		}
	}
	return Node{}, false
}

// empty: this run of its agent looked, and found no data and no server.
func empty(s State, n Node) bool {
	return s.AgentLives(n) && n.PGSeq > n.AgentSeq && n.PG.State == events.PostgresDown && n.PG.Empty
}

// told reports whether this run of the node's agent was given the order in this
// term already.
func told(s State, n Node, do events.Action) bool {
	return slices.ContainsFunc(s.Orders, func(o OrderState) bool {
		return o.Node == n.Name && o.Do == do && o.Decision > n.AgentSeq && o.Term == s.Term
	})
}
