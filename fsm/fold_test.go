package fsm

import (
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

func TestFoldRefusesDisorder(t *testing.T) {
	s := cluster(2)
	for _, seq := range []uint64{100, 99, 0} {
		got, err := Fold(s, events.Event{Seq: seq, Data: events.Heartbeat{Node: "db2"}})
		if err == nil || got.Seq != 100 {
			t.Errorf("event %d after 100: %v", seq, err)
		}
		f := Folder{s}
		if err := f.Fold(events.Event{Seq: seq, Data: events.Heartbeat{Node: "db2"}}); err == nil {
			t.Errorf("event %d after 100, in place: accepted", seq)
		}
	}
}

// TestListsAreBounded: nothing in a state grows with the log.
func TestListsAreBounded(t *testing.T) {
	s := cluster(2)
	for range 200 {
		d := begin(s, Rule{ID: 907, Why: "test"}, RecoverAsked, events.Healthy)
		d.Orders = []events.Order{{Do: events.ActRecover, Node: "db2"}}
		s = mustFold(t, s, d)
		s = mustFold(t, s, events.Declined{Rule: 1, Request: s.Seq, Missing: "x"})
		d.Digest = "void"
		s = mustFold(t, s, d)
	}
	if len(s.Orders) > 32 || len(s.Alarms) > 16 || len(s.Declined) > 64 {
		t.Errorf("orders %d alarms %d declined %d", len(s.Orders), len(s.Alarms), len(s.Declined))
	}
}

// TestDeadlineOfAnOlderPrefixIsVoid: time that passed before something was seen
// is no evidence about what came after.
func TestDeadlineOfAnOlderPrefixIsVoid(t *testing.T) {
	s := cluster(2)
	late := mustFold(t, s, events.Heartbeat{Node: "db2"}, events.DeadlineReached{BasedOn: s.Seq, Name: DeadlineLease, Node: "db1", Since: 90, Waited: events.Duration(time.Hour)})
	if len(late.Rung) != 0 {
		t.Errorf("%+v", late.Rung)
	}
	good := mustFold(t, s, events.DeadlineReached{BasedOn: s.Seq, Name: DeadlineLease, Node: "db1", Since: 90, Waited: events.Duration(time.Hour)})
	if len(good.Rung) != 1 {
		t.Errorf("%+v", good.Rung)
	}
}

// TestStandbyOfBeforeItsPrimaryWasNamed: it streamed before the first decision,
// and is a working standby of the cluster all the same.
func TestStandbyOfBeforeItsPrimaryWasNamed(t *testing.T) {
	s := cluster(2)
	s.Phase, s.PhaseSince, s.Primary, s.Term, s.Grant, s.LastDecision = events.Forming, 0, "", 0, Grant{}, 0
	s.node("db2").HadStreaming = false
	data, ok := NewMachine().Decide(s)
	if !ok {
		t.Fatal("nothing is decided")
	}
	s = mustFold(t, s, data)
	if s.Primary != "db1" || !s.node("db2").HadStreaming || s.node("db1").HadStreaming || !s.Grant.Running {
		t.Errorf("primary %q, db2 %v, db1 %v, running %v", s.Primary, s.node("db2").HadStreaming, s.node("db1").HadStreaming, s.Grant.Running)
	}
}

// stream is what a quiet cluster of three nodes writes for ever: two renewals a
// second of the primary, one heartbeat a second of each standby.
func stream(b *testing.B) []events.Event {
	var out []events.Event
	for i := range 4096 {
		hb := events.Heartbeat{Node: "db1", State: events.PostgresUp, LSN: events.LSN(1000 + i), Probes: events.ProbeSummary{Count: 4, MinMicros: 80, MedMicros: 120, MaxMicros: 400}}
		var d events.Data = events.LeaseRenewed{Term: 1, Grant: 50, Heartbeat: hb}
		if i%2 == 1 {
			hb.Node = []string{"db2", "db3"}[i/2%2]
			d = hb
		}
		body, err := events.Encode(d)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, events.Event{ID: "0197f3c2-8f5e-7aaa-8bbb-123456789abc", Time: time.Unix(int64(i), 0), Source: "agent/db1", Version: 1, Data: d, Body: body})
	}
	return out
}

// BenchmarkFold is the pure function, which copies the state for each event.
func BenchmarkFold(b *testing.B) {
	log, s := stream(b), cluster(3)
	for i := 0; b.Loop(); i++ {
		e := log[i%len(log)]
		e.Seq = s.Seq + 1
		var err error
		if s, err = Fold(s, e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkFolder is what a replay uses. The bar is 1 million events a second.
func BenchmarkFolder(b *testing.B) {
	log, f := stream(b), &Folder{cluster(3)}
	for i := 0; b.Loop(); i++ {
		e := log[i%len(log)]
		e.Seq = f.s.Seq + 1
		if err := f.Fold(e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkDecide is what a controller does after each event in quiet times.
func BenchmarkDecide(b *testing.B) {
	s, m := cluster(3), NewMachine()
	for b.Loop() {
		if _, ok := m.Decide(s); ok {
			b.Fatal("a healthy cluster decides something")
		}
	}
}
