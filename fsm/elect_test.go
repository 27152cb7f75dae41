package fsm

import (
	"testing"

	"github.com/interrex-ha/interrex/events"
)

func TestElect(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		winner string
		resume bool
		waits  bool
	}{
		"nobody answered yet":        {func(*State) {}, "db1", true, true},
		"the one with more WAL":      {func(s *State) { reported(s, "db2", 900); reported(s, "db3", 950) }, "db3", false, false},
		"equal: the lower id":        {func(s *State) { reported(s, "db2", 950); reported(s, "db3", 950) }, "db2", false, false},
		"equal: the higher priority": {func(s *State) { reported(s, "db2", 950); reported(s, "db3", 950); s.node("db3").Priority = 1 }, "db3", false, false},
		"priority is not WAL":        {func(s *State) { reported(s, "db2", 951); reported(s, "db3", 950); s.node("db3").Priority = 1 }, "db2", false, false},
		"named by an operator":       {func(s *State) { reported(s, "db2", 951); reported(s, "db3", 950); s.Target = "db3" }, "db3", false, false},
		"everything: nobody is waited for": {
			func(s *State) { reported(s, "db2", 1000) }, "db2", false, false},
		"everything, but a higher priority may come": {
			func(s *State) { reported(s, "db2", 1000); s.node("db3").Priority = 1 }, "db2", false, true},
		"everything, but an operator named the other": {
			func(s *State) { reported(s, "db2", 1000); s.Target = "db3" }, "db2", false, true},
		"the one that was named does not answer": {
			func(s *State) {
				reported(s, "db2", 1000)
				s.Target = "db3"
				rang(s, DeadlinePosition, "", s.PhaseSince, 0)
			}, "db2", false, false},
		"the one that was named falls silent": {
			func(s *State) { reported(s, "db2", 1000); s.Target = "db3"; rang(s, DeadlineNode, "db3", 90, 0) }, "db2", false, false},
		"not everything: the other is waited for": {
			func(s *State) { reported(s, "db2", 999) }, "db2", false, true},
		"waited long enough": {
			func(s *State) { reported(s, "db2", 999); rang(s, DeadlinePosition, "", s.PhaseSince, 0) }, "db2", false, false},
		"the other is silent": {
			func(s *State) { reported(s, "db2", 999); rang(s, DeadlineNode, "db3", 90, 0) }, "db2", false, false},
		"it fenced itself": {
			func(s *State) { reported(s, "db2", 1000); s.node("db1").Dead.Cause = events.CauseLeaseLost }, "db1", true, false},
		"last resort: the old primary": {
			func(s *State) { s.Policy.MaxLag = 1; reported(s, "db2", 900); reported(s, "db3", 900) }, "db1", true, false},
		"nobody": {
			func(s *State) {
				s.Policy.MaxLag = 1
				reported(s, "db2", 900)
				reported(s, "db3", 900)
				s.node("db1").AgentLeft = true
			}, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(3)
			s.Phase, s.PhaseSince, s.Episode = events.Electing, 60, 60
			died(&s)
			c.change(&s)
			e := elect(s)
			if e.winner != c.winner || e.resume != c.resume || (e.wait != "") != c.waits {
				t.Errorf("winner %q resume %v wait %q missing %q", e.winner, e.resume, e.wait, e.missing)
			}
			if e.winner == "" && e.missing == "" {
				t.Error("nobody, and no reason")
			}
		})
	}
}

func TestNoElectionWithoutProof(t *testing.T) {
	s := cluster(3)
	reported(&s, "db2", 1000)
	if e := elect(s); e.winner != "" || e.missing == "" {
		t.Errorf("%+v", e)
	}
}

// TestAskedOnce: a node whose position is known, or on its way, is not asked
// again in the same episode; one that was asked in another way is.
func TestAskedOnce(t *testing.T) {
	s := cluster(3)
	if got := len(positions(s, "wait")); got != 2 {
		t.Fatalf("healthy: a new episode asks everybody, got %d", got)
	}
	s.Phase, s.PhaseSince, s.Episode = events.Fencing, 60, 60
	s.Orders = []OrderState{{Order: events.Order{Do: events.ActPosition, Node: "db2", How: "wait"}, Decision: 60}}
	reported(&s, "db3", 900)
	if got := positions(s, "wait"); len(got) != 0 {
		t.Errorf("asked twice: %v", got)
	}
	if got := positions(s, "detach"); len(got) != 1 || got[0].Node != "db2" {
		t.Errorf("db2 waits for ever: %v", got)
	}
	s.Orders[0].Status = "failed"
	if got := positions(s, "wait"); len(got) != 1 {
		t.Errorf("an order that failed is no answer: %v", got)
	}
	s.node("db3").AgentSeq = 97
	if got := positions(s, "wait"); len(got) != 2 {
		t.Errorf("an agent that came back is asked anew: %v", got)
	}
}
