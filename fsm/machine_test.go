package fsm

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
)

var update = flag.Bool("update", false, "write testdata/rules.golden anew")

// TestGolden prints both tables: a change of behaviour is a line of its diff.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, r := range Rules {
		for _, from := range r.From {
			to := r.To
			if to == same {
				to = from
			}
			auto := ""
			if r.Auto {
				auto = " auto"
			}
			fmt.Fprintf(&b, "%d %s --%s--> %s%s: %s\n", r.ID, from, r.On, to, auto, r.Why)
		}
	}
	for _, r := range StatusRules {
		for _, from := range r.From {
			fmt.Fprintf(&b, "%d status %d --%s--> %d: %s\n", r.ID, from, r.On, r.To, r.Why)
		}
	}
	const file = "testdata/rules.golden"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != b.String() {
		t.Errorf("the tables differ from %s; if that is meant, raise events.RuleSet and run: go test ./fsm -run Golden -update\n%s", file, b.String())
	}
}

// TestMachineIsTheTable: looplab's tables answer exactly what the rows say, for
// every phase and every trigger.
func TestMachineIsTheTable(t *testing.T) {
	m := NewMachine()
	for _, p := range allPhases {
		for _, on := range allTriggers() {
			var want *Rule
			for i, r := range Rules {
				if r.On == on && slices.Contains(r.From, p) {
					want = &Rules[i]
				}
			}
			rule, to, ok := m.move(p, on)
			if ok != (want != nil) || ok != m.knows(p, on) {
				t.Fatalf("%s in %s: the machine says %v, the table %v", on, p, ok, want)
			}
			if want == nil {
				continue
			}
			next := want.To
			if next == same {
				next = p
			}
			if rule.ID != want.ID || to != next {
				t.Errorf("%s in %s: rule %d to %s, want rule %d to %s", on, p, rule.ID, to, want.ID, next)
			}
		}
	}
}

var allPhases = []events.Phase{
	events.Forming, events.Healthy, events.Suspect, events.Fencing, events.Electing,
	events.Promoting, events.Settling, events.Switching, events.Stalled,
}

func allTriggers() []Trigger {
	var out []Trigger
	for _, r := range Rules {
		out = append(out, r.On)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestEveryPhaseHasAnExit: no phase is a trap, and each can be reached.
func TestEveryPhaseHasAnExit(t *testing.T) {
	for _, p := range allPhases {
		out, in := false, p == events.Forming
		for _, r := range Rules {
			out = out || slices.Contains(r.From, p) && r.To != same && r.To != p
			in = in || r.To == p
		}
		if !out || !in {
			t.Errorf("%s: reached %v, left %v", p, in, out)
		}
	}
}

// TestEveryPhaseIsTimed: every phase in which something is waited for has a
// deadline, so that nothing can hang for ever.
func TestEveryPhaseIsTimed(t *testing.T) {
	for _, p := range []events.Phase{events.Healthy, events.Suspect, events.Fencing, events.Electing, events.Promoting, events.Settling, events.Switching} {
		s := cluster(3)
		s.Phase, s.PhaseSince, s.PhaseRule = p, s.Seq, 1
		if len(deadlinesOf(s, "")) == 0 {
			t.Errorf("%s has no deadline", p)
		}
	}
}

// TestTriggersAreConcluded: every trigger of the tables comes from a conclusion
// or from an operator's request, and none of those is without a row.
func TestTriggersAreConcluded(t *testing.T) {
	asked := []Trigger{SwitchoverAsked, FailoverAsked, FailoverAccepted, ShutdownAsked, PauseAsked, ResumeAsked, RecoverAsked, DetachAsked, AttachAsked}
	have := slices.Clone(asked)
	for _, c := range conclusions {
		have = append(have, c.on)
	}
	slices.Sort(have)
	if len(slices.Compact(slices.Clone(have))) != len(have) {
		t.Errorf("a trigger is concluded twice: %v", have)
	}
	if want := allTriggers(); !slices.Equal(want, have) {
		t.Errorf("triggers of the table: %v\nconcluded or asked: %v", want, have)
	}
}

func TestMalformedTablesPanic(t *testing.T) {
	for name, bad := range map[string]func(){
		"even":      func() { wellFormed(1, 2, "why") },
		"not new":   func() { wellFormed(3, 3, "why") },
		"no reason": func() { wellFormed(1, 3, "") },
		"twice":     func() { once(map[step]Rule{{"healthy", "X"}: {}}, events.Healthy, "X", 3) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			bad()
		})
	}
}

func TestMermaid(t *testing.T) {
	phases, statuses, err := Mermaid()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[*] --> forming", "fencing --> electing: PrimaryDead"} {
		if !strings.Contains(phases, want) {
			t.Errorf("no %q in:\n%s", want, phases)
		}
	}
	if !strings.Contains(statuses, "[*] --> 0") {
		t.Errorf("statuses:\n%s", statuses)
	}
}
