package journal

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/events"
)

func mark(decision uint64) Mark { return Mark{decision, events.ActPromote} }

func TestConsider(t *testing.T) {
	s := State{Term: 5}.Intend(mark(10), 5).Finish(mark(10)).Intend(mark(20), 5)
	for name, c := range map[string]struct {
		m    Mark
		term uint64
		want Verdict
	}{
		"new":                         {mark(30), 5, Begin},
		"of a newer term":             {mark(30), 6, Begin},
		"of an older term":            {mark(30), 4, Refuse},
		"finished":                    {mark(10), 5, Ignore},
		"finished, of an older term":  {mark(10), 4, Ignore},
		"begun by an earlier run":     {mark(20), 5, Resume},
		"begun, and overtaken":        {mark(20), 4, Resume},
		"same decision, other action": {Mark{10, events.ActSettle}, 5, Begin},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := s.Consider(c.m, c.term)
			if got != c.want || (got == Refuse || got == Ignore) != (why != "") {
				t.Errorf("%d %q", got, why)
			}
		})
	}
}

func TestRegressed(t *testing.T) {
	s := State{}.Observe(50, "id50", 3)
	for name, c := range map[string]struct {
		s    State
		tail uint64
		id   string
		want string
	}{
		"the same log":            {s, 51, "id50", ""},
		"nothing published yet":   {s, 0, "", ""},
		"shorter":                 {s, 49, "", "ends at event 49"},
		"ends where we were":      {s, 50, "", "ends at event 50"},
		"another event there":     {s, 60, "other", "event 50"},
		"nothing was seen so far": {State{}, 1, "x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.s.Regressed(c.tail, c.id)
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestObserveNeverGoesBack(t *testing.T) {
	s := State{}.Observe(50, "id50", 3).Observe(40, "id40", 2).Observe(50, "other", 0)
	if s.Seq != 50 || s.ID != "id50" || s.Term != 3 {
		t.Errorf("%+v", s)
	}
	if s = s.Hold(2).Hold(1); s.Held != 2 {
		t.Errorf("held %d", s.Held)
	}
}

// TestOldOrdersAreNeverBegunAgain: the list of finished orders is bounded, and
// what fell out of it is refused by its sequence.
func TestOldOrdersAreNeverBegunAgain(t *testing.T) {
	var s State
	for d := uint64(1); d <= 3*keep; d++ {
		s = s.Intend(mark(d), 1).Finish(mark(d))
	}
	if len(s.Done) > keep || len(s.Intents) != 0 {
		t.Fatalf("%d done, %d begun", len(s.Done), len(s.Intents))
	}
	for d := uint64(1); d <= 3*keep; d++ {
		if got, _ := s.Consider(mark(d), 1); got != Ignore && got != Refuse {
			t.Fatalf("decision %d: verdict %d", d, got)
		}
	}
	if got, _ := s.Consider(mark(3*keep+1), 1); got != Begin {
		t.Errorf("a new one: verdict %d", got)
	}
}

// TestStepsAreFunctions: no step changes the state that it was given, and a
// state survives its JSON.
func TestStepsAreFunctions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := State{Node: "db1"}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			m := mark(uint64(rapid.IntRange(1, 30).Draw(t, "decision")))
			before, _ := json.Marshal(s)
			var next State
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				next = s.Intend(m, 1)
			case 1:
				next = s.Finish(m)
			case 2:
				next = s.AtStep(m, "copy")
			case 3:
				next = s.Observe(m.Decision, "id", m.Decision)
			}
			if after, _ := json.Marshal(s); string(after) != string(before) {
				t.Fatalf("its input changed:\n%s\n%s", before, after)
			}
			s = next
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			var back State
			if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, s) {
				t.Fatalf("%v\n%+v\n%+v", err, back, s)
			}
		}
	})
}
