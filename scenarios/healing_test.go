package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// healing plays every node as its agent would when nothing is broken any more:
// each is heard, carries out its orders and reports.
type healing struct {
	*Player
	t     fataler
	steps []string
}

func (h *healing) do(format string, a ...any) {
	line := fmt.Sprintf(format, a...)
	h.steps = append(h.steps, line)
	if _, err := h.Play(line); err != nil {
		h.t.Fatalf("%s: %v", line, err)
	}
}

func (h *healing) node(name string) fsm.Node {
	n, _ := h.state.Node(name)
	return n
}

// round lets every agent turn once, and one wait end.
func (h *healing) round() {
	for _, n := range h.state.Nodes {
		h.turn(n.Name)
	}
	for _, o := range slices.Clone(h.state.Orders) {
		h.order(o)
	}
	for _, d := range fsm.Deadlines(h.state) {
		switch d.Name {
		case fsm.DeadlineSilence, fsm.DeadlineNode, fsm.DeadlineLease:
			continue // of nodes that were just heard
		}
		node := ""
		if d.Node != "" {
			node = " node=" + d.Node
		}
		h.do("rings name=%s%s", d.Name, node)
		return
	}
}

// holder reports whether the node holds the newest term and was not proved dead.
func (h *healing) holder(n fsm.Node) bool {
	g := h.state.Grant
	return g.Node == n.Name && (g.Acquired != 0 || g.Running) && n.DeadSeq < g.Begun
}

func (h *healing) turn(name string) {
	if n := h.node(name); n.AgentSeq == 0 || n.AgentLeft || n.PGSeq == 0 {
		h.do("agent %s", name)
		h.do("pg %s down", name)
		if h.state.Grant.Node == name {
			h.do("dead %s", name)
		}
	}
	n := h.node(name)
	switch {
	case n.PG.State == events.PostgresUp && !n.PG.InRecovery && !h.holder(n):
		h.do("dead %s cause=fenced", name) // it takes writes without a grant
	case h.holder(n) && n.PG.State == events.PostgresDown && !n.ExitedClean:
		h.do("dead %s", name)
	case h.holder(n) && n.PG.State != events.PostgresDown && !n.PG.InRecovery:
		h.do("lease %s", name)
		if n.PG.State != events.PostgresUp {
			h.do("serves %s", name)
		}
	case name != h.state.Primary && n.PG.State != events.PostgresUp, n.PG.InRecovery && n.PG.State != events.PostgresUp && n.PG.State != events.PostgresDown:
		h.do("up %s standby system_id=%s", name, systemID) // somebody looked after it
	}
	if n = h.node(name); !h.holder(n) {
		h.do("heartbeat node=%s state=%s lsn=%s", name, n.PG.State, n.LSN)
	}
}

// order carries an order out that has no result yet.
func (h *healing) order(o fsm.OrderState) {
	n := h.node(o.Node)
	if o.Status != "" && o.Status != "started" || n.AgentSeq == 0 {
		return
	}
	ref := fmt.Sprintf("node=%s decision=%d action=%s term=%d", o.Node, o.Decision, o.Do, o.Term)
	if o.Term < h.state.Term {
		h.do("order-refused %s reason=old", ref)
		return
	}
	ok := true
	switch up := n.PG.State == events.PostgresUp; o.Do {
	case events.ActPromote, events.ActResume:
		if ok = o.Decision == h.state.Grant.Begun; ok {
			h.do("lease %s", o.Node)
			tli := max(n.PG.Timeline, 1)
			if o.Do == events.ActPromote {
				tli++
			}
			h.do("serves %s tli=%d system_id=%s", o.Node, tli, systemID)
		}
	case events.ActFence:
		h.do("dead %s cause=fenced", o.Node)
	case events.ActDemote:
		if ok = up && h.holder(n); ok {
			h.do("lease %s", o.Node)
			h.do("dead %s cause=switched clean=true", o.Node)
		}
	case events.ActPosition:
		if n.PositionSeq == 0 || n.Position.Decision < o.Decision {
			h.position(n, o)
		}
		return
	case events.ActFollow, events.ActRecover:
		up := h.node(h.state.Primary)
		if ok = up.PG.State == events.PostgresUp && !up.PG.InRecovery && o.Node != h.state.Primary; ok {
			h.do("standby %s of=%s tli=%d lsn=%s system_id=%s", o.Node, up.Name, up.PG.Timeline, up.LSN, systemID)
		}
	case events.ActStop:
		h.do("pg %s down", o.Node)
	}
	if ok {
		h.do("order-done %s", ref)
	} else {
		h.do("order-failed %s error=x", ref)
	}
}

func (h *healing) position(n fsm.Node, o fsm.OrderState) {
	if n.PG.State != events.PostgresUp || !n.PG.InRecovery {
		h.do("position-reported node=%s decision=%d error=x", n.Name, o.Decision)
		return
	}
	h.do("position-reported node=%s decision=%d lsn=%s timeline=%d system_id=%s", n.Name, o.Decision, max(n.LSN, firstLSN), max(n.PG.Timeline, 1), n.PG.SystemID)
}

// TestWhateverHappenedHeals: after any story, once every agent is heard and does
// what it is told, the cluster gets a primary again; at the worst an operator
// has to accept a loss.
func TestWhateverHappenedHeals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewPlayer()
		h := healing{Player: p, t: t}
		h.do("running nodes=%d", rapid.IntRange(1, 3).Draw(t, "nodes"))
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			line := something(t)
			if rapid.IntRange(0, 3).Draw(t, "ring") == 0 {
				line = ring(t, p)
			}
			if strings.HasPrefix(line, "cluster") || strings.HasPrefix(line, "forge") || strings.Contains(line, "standby_signal") || strings.Contains(line, "term=0") {
				continue // nothing that a sound part writes
			}
			if _, err := p.Play(line); err == nil {
				h.steps = append(h.steps, line)
			}
		}
		h.steps = append(h.steps, "# healing")
		for i := range 120 {
			if p.state.Phase == events.Healthy && !p.state.Paused() && p.state.Grant.Acquired != 0 && h.node(p.state.Primary).PG.State == events.PostgresUp && !h.node(p.state.Primary).PG.InRecovery {
				return
			}
			switch {
			case p.state.Phase == events.Forming && p.state.Started == 0:
				for _, n := range p.state.Nodes { // an orderly stop ends every agent
					h.do("left %s", n.Name)
				}
				h.do("asks startup")
			case p.state.Phase == events.Stalled && i > 60:
				h.do("asks failover accept_loss=true reason=x")
			}
			h.round()
		}
		h.do("show")
		t.Fatalf("%s %s: %s\n%s", p.state.Phase, p.state.Primary, p.state.Stall, strings.Join(h.steps, "\n"))
	})
}
