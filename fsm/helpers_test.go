package fsm

import (
	"fmt"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// cluster returns a healthy cluster as of event 100: db1 holds term 1 under a
// grant of event 50, renewed at 90, and every other node streams from it.
func cluster(nodes int) State {
	s := Initial()
	s.Seq, s.Phase, s.PhaseSince, s.PhaseRule = 100, events.Healthy, 50, 101
	s.Term, s.Primary, s.LastDecision = 1, "db1", 50
	s.Grant = Grant{Grant: events.Grant{Term: 1, Node: "db1", Stay: nodes == 1}, Seq: 50, Begun: 50, Acquired: 51, Renewed: 90, Fence: "guardian"}
	s.PrimaryLSN, s.PrimaryTLI, s.SystemID = 1000, 1, "sys"
	for i := range nodes {
		n := Node{Member: events.Member{ID: i, Name: fmt.Sprintf("db%d", i+1)}, Status: StatusUp, AgentSeq: 10, Heard: 90, PGSeq: 20, PGFirst: 20, LSN: 1000}
		n.PG = events.PostgresSeen{Node: n.Name, State: events.PostgresUp, Timeline: 1, SystemID: "sys", InRecovery: i > 0}
		if i > 0 {
			n.PG.Receiver, n.PG.Upstream, n.HadStreaming = "streaming", "db1", true
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

// died makes the primary of a cluster proved dead by event 95.
func died(s *State, change ...func(*events.PostgresDead)) {
	n := s.node(s.Primary)
	n.Dead = events.PostgresDead{Node: n.Name, Term: s.Term, Cause: events.CauseCrashed, EndLSN: 1000, Timeline: 1, SystemID: "sys", StandbySignal: true}
	for _, c := range change {
		c(&n.Dead)
	}
	n.DeadSeq, n.PG.State = 95, events.PostgresDown
}

// rang makes a deadline reached by event 99.
func rang(s *State, name, node string, since uint64, waited time.Duration) {
	s.Rung = append(s.Rung, Rung{name, node, since, waited, 99})
}

// reported makes a node's position known, under an order of event 60.
func reported(s *State, node string, lsn events.LSN) {
	n := s.node(node)
	n.Position = events.PositionReported{Node: node, Decision: 60, LSN: lsn, Timeline: 1, SystemID: "sys"}
	n.PositionSeq = 96
}

func deadlinesOf(s State, name string) []Deadline {
	var out []Deadline
	for _, d := range Deadlines(s) {
		if name == "" || d.Name == name {
			out = append(out, d)
		}
	}
	return out
}

func mustFold(t testing.TB, s State, data ...events.Data) State {
	t.Helper()
	for _, d := range data {
		body, err := events.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = Fold(s, events.Event{Seq: s.Seq + 1, ID: "id", Time: s.Time.Add(time.Millisecond), Source: "test", Version: 1, Data: d, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
