// Package logtest is the one suite that every events.Log must pass: in memory,
// embedded, and replicated.
package logtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
)

// Subject is a fresh, empty log under test.
type Subject struct {
	Log events.Log
	// Reopen stops everything that holds the log and opens what was stored
	// again; nil for a log that is not durable. Log must not be used afterwards.
	Reopen func(t *testing.T) events.Log
}

// Deadline bounds every wait of the suite. It is generous: a loaded machine
// must not fail a test.
const Deadline = 20 * time.Second

// Run runs the suite; open makes a new log for each test and cleans up with
// t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"empty", testEmpty},
		{"order and content", testOrder},
		{"stored form equals returned form", testReturned},
		{"durable across reopen", testReopen},
		{"swap at the tail", testAtTail},
		{"swap at the tail, racing", testAtTailRace},
		{"swap at the decision", testAtDecision},
		{"swap at both", testBoth},
		{"repeated ID", testRepeated},
		{"repeated ID after a conflict", testRepeatedConflict},
		{"read bounds", testBounds},
		{"follow", testFollow},
		{"classes", testClasses},
		{"unknown kinds", testUnknown},
		{"big bodies", testBig},
		{"cancellation", testCancel},
		{"reader's error", testReaderError},
		{"bad drafts", testBadDrafts},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// Heartbeat is a draft of an observation, with a new ID.
func Heartbeat(node string, n int) events.Draft {
	return Draft(events.Heartbeat{
		Node: node, State: events.PostgresUp, LSN: events.LSN(n),
		Probes: events.ProbeSummary{Count: n, MinMicros: 60, MedMicros: 70, MaxMicros: 90},
	})
}

// Decision is a draft of a decision at the tail, with a new ID.
func Decision(controller string, basedOn uint64) events.Draft {
	d := Draft(events.Decided{Controller: controller, BasedOn: basedOn, From: events.Healthy, To: events.Suspect, Why: "test"})
	d.If = events.Condition{AtTail: true, Seq: basedOn}
	return d
}

// Draft wraps data with a new ID and the present time.
func Draft(data events.Data) events.Draft {
	id, err := uuid.NewV7()
	if err != nil {
		panic("logtest: no random numbers: " + err.Error())
	}
	return events.Draft{ID: id.String(), Time: time.Now(), Source: "agent/logtest", Data: data}
}

// MustAppend appends and fails the test on any error.
func MustAppend(t *testing.T, log events.Log, d events.Draft) events.Event {
	t.Helper()
	e, err := log.Append(within(t), d)
	if err != nil {
		t.Fatalf("append %s: %v", d.Data.Kind(), err)
	}
	return e
}

// All reads what a log holds after a sequence, up to its tail.
func All(t *testing.T, log events.Log, after uint64, classes ...events.Class) []events.Event {
	t.Helper()
	var got []events.Event
	err := log.Read(within(t), events.Query{After: after, Classes: classes}, func(e events.Event) error {
		got = append(got, e)
		return nil
	})
	if err != nil {
		t.Fatalf("read after %d: %v", after, err)
	}
	return got
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Deadline)
	t.Cleanup(cancel)
	return ctx
}

func last(t *testing.T, log events.Log) uint64 {
	t.Helper()
	n, err := log.Last(within(t))
	if err != nil {
		t.Fatalf("last: %v", err)
	}
	return n
}

func same(t *testing.T, got, want []events.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("read %d events, want %d", len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("event %d differs:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

func seqs(es []events.Event) []uint64 {
	out := make([]uint64, len(es))
	for i, e := range es {
		out[i] = e.Seq
	}
	return out
}

func testEmpty(t *testing.T, s Subject) {
	if n := last(t, s.Log); n != 0 {
		t.Errorf("last of an empty log is %d, want 0", n)
	}
	if got := All(t, s.Log, 0); len(got) != 0 {
		t.Errorf("an empty log delivered %d events", len(got))
	}
	e, err := s.Log.Append(within(t), Decision("c1", 0))
	if err != nil || e.Seq != 1 {
		t.Errorf("the first decision at tail 0 got seq %d, %v; want 1", e.Seq, err)
	}
}

func testOrder(t *testing.T, s Subject) {
	var want []events.Event
	for i := range 50 {
		e := MustAppend(t, s.Log, Heartbeat(fmt.Sprintf("db%d", i%3), i+1))
		if e.Seq != uint64(i+1) {
			t.Fatalf("append %d got sequence %d", i, e.Seq)
		}
		want = append(want, e)
	}
	if n := last(t, s.Log); n != 50 {
		t.Errorf("last is %d, want 50", n)
	}
	same(t, All(t, s.Log, 0), want)
	same(t, All(t, s.Log, 30), want[30:])
}

func testReturned(t *testing.T, s Subject) {
	zone := time.FixedZone("elsewhere", 2*3600)
	d := Draft(events.OrderDone{
		OrderRef: events.OrderRef{Node: "db1", Decision: 7, Action: events.ActRecover, Term: 3},
		How:      "rewind", Detail: map[string]string{"a": "<b> & \"c\"", "ü": "\u2028"}, TookMicros: 5,
	})
	d.Time, d.Cause, d.Source = time.Date(2026, 11, 22, 10, 0, 0, 123456789, zone), 42, "agent/db1"
	e := MustAppend(t, s.Log, d)
	body, err := events.Encode(d.Data)
	if err != nil {
		t.Fatal(err)
	}
	want := events.Event{
		Seq: 1, ID: d.ID, Time: time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC), Source: "agent/db1",
		Version: 1, Cause: 42, Data: d.Data, Body: body,
	}
	same(t, []events.Event{e}, []events.Event{want})
	same(t, All(t, s.Log, 0), []events.Event{want})
	var zero events.Digest
	if zero.Next(e) != zero.Next(All(t, s.Log, 0)[0]) {
		t.Error("the digest of the returned event differs from that of the read one")
	}
}

func testReopen(t *testing.T, s Subject) {
	if s.Reopen == nil {
		return // not durable: nothing is promised, so nothing is tested
	}
	var want []events.Event
	for i := range 20 {
		want = append(want, MustAppend(t, s.Log, Heartbeat("db1", i+1)))
	}
	again := s.Reopen(t)
	same(t, All(t, again, 0), want)
	retry := events.Draft{ID: want[19].ID, Time: want[19].Time, Source: want[19].Source, Data: want[19].Data}
	if e := MustAppend(t, again, retry); e.Seq != 20 {
		t.Errorf("a retry after the restart was stored again, as %d", e.Seq)
	}
	if e := MustAppend(t, again, Heartbeat("db1", 21)); e.Seq != 21 {
		t.Errorf("the log went on at %d, want 21", e.Seq)
	}
}

func testUnknown(t *testing.T, s Subject) {
	u := events.Unknown{KindName: "from-the-future", Version: 3, ClassIn: events.ClassHealth, KeyIn: "db1"}
	e := MustAppend(t, s.Log, Draft(u))
	for _, got := range []events.Event{e, All(t, s.Log, 0)[0]} {
		d, ok := got.Data.(events.Unknown)
		if !ok || got.Kind() != "from-the-future" || got.Version != 3 || d.ClassIn != events.ClassHealth || d.KeyIn != "db1" || d.Reason == "" {
			t.Errorf("an unknown kind came back as %+v", got)
		}
	}
	newer := events.Unknown{KindName: "heartbeat", Version: 99, ClassIn: events.ClassHealth, KeyIn: "db1"}
	MustAppend(t, s.Log, Draft(newer))
	got := All(t, s.Log, 1)[0]
	if d, ok := got.Data.(events.Unknown); !ok || d.KindName != "heartbeat" || got.Version != 99 {
		t.Errorf("a heartbeat of version 99 came back as %+v", got)
	}
	if len(got.Body) == 0 {
		t.Error("the bytes of an unknown version were not kept")
	}
}

func testBig(t *testing.T, s Subject) {
	var want []events.Event
	for i := range 4 {
		d := Draft(events.FenceFailed{Node: "db1", Term: uint64(i), Error: strings.Repeat("x", 700_000)})
		want = append(want, MustAppend(t, s.Log, d))
	}
	same(t, All(t, s.Log, 0), want)
}

func testBadDrafts(t *testing.T, s Subject) {
	good := Heartbeat("db1", 1)
	for name, breakIt := range map[string]func(*events.Draft){
		"no data":      func(d *events.Draft) { d.Data = nil },
		"no id":        func(d *events.Draft) { d.ID = "" },
		"id newline":   func(d *events.Draft) { d.ID = "a\r\nb" },
		"no source":    func(d *events.Draft) { d.Source = "" },
		"no time":      func(d *events.Draft) { d.Time = time.Time{} },
		"empty key":    func(d *events.Draft) { d.Data = events.Heartbeat{} },
		"dot in key":   func(d *events.Draft) { d.Data = events.Heartbeat{Node: "db.1"} },
		"wildcard key": func(d *events.Draft) { d.Data = events.Heartbeat{Node: ">"} },
		"no class":     func(d *events.Draft) { d.Data = events.Unknown{KindName: "x", ClassIn: "nowhere", KeyIn: "db1"} },
	} {
		d := good
		breakIt(&d)
		e, err := s.Log.Append(within(t), d)
		if err == nil || errors.Is(err, events.ErrConflict) || errors.Is(err, events.ErrUnavailable) {
			t.Errorf("%s: got event %d, error %v; want a plain error", name, e.Seq, err)
		}
	}
	if n := last(t, s.Log); n != 0 {
		t.Errorf("%d bad drafts were stored", n)
	}
}

// Eventually polls until ok returns true.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(Deadline); ; <-tick.C {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", Deadline, what)
		}
	}
}

func ascending(ns []uint64) bool { return slices.IsSorted(ns) && len(slices.Compact(ns)) == len(ns) }
