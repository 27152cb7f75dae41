package fsm

import (
	"github.com/interrex-ha/interrex/events"
)

// nodeConclusions reads facts into triggers of the node status table.
var nodeConclusions = []struct {
	on    Trigger
	holds func(State, Node) bool
}{
	{NodeDetached, func(_ State, n Node) bool { return n.Detached }},
	{NodeLost, nodeLost},
	{NodeAstray, nodeAstray},
	{NodeServes, nodeServes},
	{ClientSeen, func(_ State, n Node) bool { return n.PG.State == events.PostgresUp && n.PG.ClientSeen }},
}

// statusMoves decides what SHOW POOL_NODES shows, one decision for all nodes.
func (m *Machine) statusMoves(s State) (events.Data, bool) {
	moves := m.moved(s)
	if moves == nil {
		return nil, false
	}
	d := begin(s, Rule{Why: "node status"}, "", s.Phase)
	d.Statuses = moves
	return d, true
}

// withStatuses lets a decision that names no new primary carry the status moves
// that are due as well: during a failover every further append costs time.
func (m *Machine) withStatuses(s State, data events.Data) events.Data {
	d, ok := data.(events.Decided)
	if ok && d.Primary == s.Primary && d.Statuses == nil {
		d.Statuses = m.moved(s)
		return d
	}
	return data
}

func (m *Machine) moved(s State) []events.StatusMove {
	var moves []events.StatusMove
	for _, n := range s.Nodes {
		for _, c := range nodeConclusions {
			if !c.holds(s, n) {
				continue
			}
			if r, ok := m.status(n.Status, c.on); ok {
				moves = append(moves, events.StatusMove{Node: n.Name, From: n.Status, To: r.To, Rule: r.ID, Why: r.Why})
				break
			}
		}
	}
	return moves
}

func statusWhy(id int) string {
	for _, r := range StatusRules {
		if r.ID == id {
			return r.Why
		}
	}
	return ""
}

// nodeLost: its own agent sees it down, or the agent is silent and nobody else
// reaches it. An agent that is silent alone takes no status away.
func nodeLost(s State, n Node) bool {
	if n.PG.State == events.PostgresDown {
		return n.PGSeq != 0 || n.Exited != 0 || n.DeadSeq != 0
	}
	if n.Name == s.Primary || s.AgentLives(n) || n.AgentSeq == 0 || n.AgentLeft {
		return false
	}
	return seenAlive(s, n) == ""
}

// nodeAstray: a standby that is up and was not led to the primary in time, or
// another node than the primary that takes writes.
func nodeAstray(s State, n Node) bool {
	if n.Name == s.Primary || s.Phase != events.Healthy || n.PG.State != events.PostgresUp {
		return false
	}
	late := s.rung(DeadlineSettle, "").Since != 0 && s.PhaseRule == 603 && n.PGSeq < s.PhaseSince
	return !n.PG.InRecovery || late && !follows(s, n)
}

// nodeServes: the primary of the term out of recovery, or a standby that streams
// from it.
func nodeServes(s State, n Node) bool {
	if n.Detached || n.PG.State != events.PostgresUp || !s.AgentLives(n) && n.Name != s.Primary {
		return false
	}
	if n.Name == s.Primary {
		return !n.PG.InRecovery && s.Phase != events.Promoting
	}
	return s.Phase != events.Forming && follows(s, n)
}
