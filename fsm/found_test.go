package fsm

import (
	"testing"

	"github.com/interrex-ha/interrex/events"
)

// TestFoundPrimaryIsTheMeasure: a primary that was seen before it was named, and
// has nothing new to report since, is what candidates are measured against: a
// standby of another history or cluster is no candidate.
func TestFoundPrimaryIsTheMeasure(t *testing.T) {
	s := cluster(2)
	s.PrimaryTLI, s.SystemID, s.Grant, s.Primary, s.Term = 0, "", Grant{}, "", 0
	s.Phase, s.PhaseSince = events.Forming, 0
	d, ok := NewMachine().Decide(s)
	if !ok || d.(events.Decided).Rule != 101 {
		t.Fatalf("decided %+v; expected rule 101", d)
	}
	s = mustFold(t, s, d)
	if s.Primary != "db1" || s.PrimaryTLI != 1 || s.SystemID != "sys" {
		t.Fatalf("primary %q, timeline %d, system %q; expected db1, 1 and sys", s.Primary, s.PrimaryTLI, s.SystemID)
	}
	n, _ := s.Node("db2")
	n.PositionSeq, n.Position = s.Seq+1, events.PositionReported{Node: "db2", LSN: 1000, Timeline: 1, SystemID: "other"}
	if why, _ := rejected(s, n, 1000); why == "" {
		t.Error("a node with another system identifier was taken as a candidate")
	}
}
