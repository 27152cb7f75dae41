package fsm

import (
	"fmt"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// election is the choice of a new primary: the whole table, not the winner only.
type election struct {
	table   []events.Candidate
	winner  string
	resume  bool   // the winner is the old primary itself
	wait    string // a better answer may still come; empty when the choice is ripe
	missing string // why there is no winner
	proof   events.Proof
	loss    *events.Loss
}

// elect chooses among the nodes that may be promoted: the most WAL, then the
// higher priority, then the lower node id. The old primary itself is preferred
// when it fenced itself or was stopped by order, and is the last resort
// otherwise.
func elect(s State) election {
	var e election
	p, missing, ok := proof(s)
	if !ok {
		e.missing = missing
		return e
	}
	e.proof = p
	end := p.EndLSN
	if end == 0 {
		end = s.PrimaryLSN
	}
	old, noResume := resumable(s)
	best := e.rank(s, old.Name, end)
	preferOld := noResume == "" && (s.Episode == 0 || old.FailedIn != s.Episode) && (old.Dead.Cause == events.CauseLeaseLost || old.Dead.Cause == events.CauseSwitched)
	switch {
	case preferOld:
		e.winner, e.resume = old.Name, true
	case best >= 0:
		e.table[best].Chosen = true
		e.winner = e.table[best].Node
		e.loss = lossOf(s, p, e.table[best].LSN)
		e.ripen(s, best, end)
	case noResume == "":
		e.winner, e.resume = old.Name, true
		e.ripen(s, -1, end)
	default:
		e.missing = e.why(old, noResume)
		e.ripen(s, -1, end)
	}
	return e
}

// rank fills the table and returns the row of the best candidate, -1 for none.
func (e *election) rank(s State, old string, end events.LSN) int {
	best := -1
	var bestNode Node
	for _, n := range s.Nodes {
		if n.Name == s.Primary || n.Name == old {
			continue
		}
		reason, lag := rejected(s, n, end)
		row := events.Candidate{Node: n.Name, Lag: lag, Rejected: reason}
		if n.PositionSeq != 0 && n.Position.Decision >= s.Episode {
			row.LSN, row.Timeline = n.Position.LSN, n.Position.Timeline
		}
		e.table = append(e.table, row)
		if reason == "" && (best < 0 || better(s, n, bestNode)) {
			best, bestNode = len(e.table)-1, n
		}
	}
	return best
}

// better orders two nodes that may both be promoted. The one that an operator
// named wins over everything else.
func better(s State, a, b Node) bool {
	if s.Target == a.Name || s.Target == b.Name {
		return s.Target == a.Name
	}
	if a.Position.LSN != b.Position.LSN {
		return a.Position.LSN > b.Position.LSN
	}
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return a.ID < b.ID
}

// ripen says whether to wait for standbys that were asked and have not answered.
// Nobody can have more than everything: then only a higher priority is waited
// for, and the one that an operator named.
func (e *election) ripen(s State, best int, end events.LSN) {
	if s.rung(DeadlinePosition, "").Since == s.PhaseSince {
		return
	}
	for _, n := range s.Nodes {
		if n.Name == s.Primary || !s.AgentLives(n) || n.Detached || n.PG.State == events.PostgresDown {
			continue
		}
		if n.PositionSeq != 0 && n.Position.Decision >= s.Episode && !awaited(s, n, "") || s.failed(n) {
			continue
		}
		if best >= 0 && end != 0 && e.table[best].LSN >= end && n.Name != s.Target {
			if chosen, _ := s.Node(e.table[best].Node); n.Priority <= chosen.Priority {
				continue
			}
		}
		e.wait = fmt.Sprintf("%s has not reported its position", n.Name)
		return
	}
}

// why sums up the table for a stalled cluster, with the best candidate and what
// it would lose.
func (e *election) why(old Node, noResume string) string {
	var parts []string
	for _, c := range e.table {
		parts = append(parts, c.Node+": "+c.Rejected)
	}
	return strings.Join(append(parts, old.Name+": "+noResume), "; ")
}
