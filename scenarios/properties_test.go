package scenarios

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// play plays every story in testdata, whatever it expects.
func play(t testing.TB) map[string][]events.Event {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	logs := map[string][]events.Event{}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ReadStory(path, f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		p := NewPlayer()
		for _, b := range s.Blocks {
			if _, err := p.Play(b.Steps); err != nil {
				t.Fatalf("%s: block at line %d: %v", path, b.Line, err)
			}
		}
		logs[strings.TrimSuffix(filepath.Base(path), ".txt")] = p.Log()
	}
	return logs
}

// from returns the next function of a replay of a log.
func from(log []events.Event) func() (events.Event, bool, error) {
	i := 0
	return func() (events.Event, bool, error) {
		if i == len(log) {
			return events.Event{}, false, nil
		}
		i++
		return log[i-1], true, nil
	}
}

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// prefixes checks every prefix of a log: folding is a function, in place as
// well, and a restart from a snapshot decides the same.
func prefixes(t fataler, log []events.Event) {
	t.Helper()
	m, again := fsm.NewMachine(), fsm.NewMachine()
	s := fsm.Initial()
	kept := restart(t, s)
	f := fsm.NewFolder()
	for _, e := range log {
		a, err := fsm.Fold(s, e)
		if err != nil {
			t.Fatalf("event %d: %v", e.Seq, err)
		}
		b, _ := fsm.Fold(s, e)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("event %d: folding twice gives two states", e.Seq)
		}
		if !reflect.DeepEqual(s, kept) {
			t.Fatalf("event %d: folding changed its input:\n%+v\n%+v", e.Seq, kept, s)
		}
		if err := f.Fold(e); err != nil || !reflect.DeepEqual(f.State(), a) {
			t.Fatalf("event %d: folding in place gives another state (%v)", e.Seq, err)
		}
		s = a
		kept = restart(t, s)
		if !reflect.DeepEqual(kept, s) {
			t.Fatalf("event %d: a snapshot is not the state:\n%+v\n%+v", e.Seq, kept, s)
		}
		d1, _ := m.Decide(s)
		if !reflect.DeepEqual(s, kept) {
			t.Fatalf("event %d: deciding changed the state", e.Seq)
		}
		if d2, _ := again.Decide(kept); !reflect.DeepEqual(d1, d2) {
			t.Fatalf("event %d: after a restart another decision follows:\n%+v\n%+v", e.Seq, d1, d2)
		}
	}
}

func snapshot(t fataler, s fsm.State) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatalf("a state must have a snapshot: %v", err)
	}
	return string(b)
}

func restart(t fataler, s fsm.State) fsm.State {
	t.Helper()
	var out fsm.State
	if err := json.Unmarshal([]byte(snapshot(t, s)), &out); err != nil {
		t.Fatalf("a snapshot must be readable: %v", err)
	}
	return out
}

func TestEveryPrefixOfEveryStory(t *testing.T) {
	for name, log := range play(t) {
		t.Run(name, func(t *testing.T) { prefixes(t, log) })
	}
}

// forged are the stories in which somebody else than the rules decides.
var forged = []string{"void-decision"}

func TestStoriesReplay(t *testing.T) {
	for name, log := range play(t) {
		r, err := Replay(from(log))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if slices.Contains(forged, name) {
			continue
		}
		if !r.OK() || r.Void != 0 || r.Undecided != 0 {
			t.Errorf("%s: %+v", name, r)
		}
		if r.Rederived != r.Decisions+r.Declined {
			t.Errorf("%s: %d of %d decisions re-derived", name, r.Rederived, r.Decisions+r.Declined)
		}
	}
}

// TestEveryRuleHasAStory names the rules that no story fires.
func TestEveryRuleHasAStory(t *testing.T) {
	fired := map[int]bool{}
	for _, log := range play(t) {
		for _, e := range log {
			if d, ok := e.Data.(events.Decided); ok && d.Controller == controllerID {
				fired[d.Rule] = true
				for _, m := range d.Statuses {
					fired[m.Rule] = true
				}
			}
		}
	}
	for _, r := range fsm.Rules {
		if !fired[r.ID] {
			t.Errorf("no story fires rule %d (%s): %s", r.ID, r.On, r.Why)
		}
	}
	for _, r := range fsm.StatusRules {
		if !fired[r.ID] {
			t.Errorf("no story fires rule %d (%s): %s", r.ID, r.On, r.Why)
		}
	}
}

// something draws a step that may or may not make sense where the story is.
func something(t *rapid.T) string {
	node := rapid.SampledFrom([]string{"db1", "db2", "db3"})
	n, other := node.Draw(t, "node"), node.Draw(t, "other")
	lsn := fmt.Sprintf("0/%X", 0x3000060+rapid.IntRange(0, 0x2000000).Draw(t, "lsn"))
	tli := rapid.IntRange(1, 3).Draw(t, "tli")
	steps := []string{
		"beat " + n, "beat " + n, "beat " + n + " lsn=" + lsn, "lease " + n, "lease " + n, "agent " + n, "left " + n, "agent " + n + ` fence=""`,
		fmt.Sprintf("up %s primary tli=%d lsn=%s", n, tli, lsn), fmt.Sprintf("serves %s tli=%d", n, tli),
		fmt.Sprintf("standby %s of=%s lsn=%s tli=%d", n, other, lsn, tli), "up " + n + " standby",
		"pg " + n + " silent", "pg " + n + " starting", "pg " + n + " down", "pg " + n + " refusing", "pg " + n + " stopping", "pg " + n + " unreachable",
		fmt.Sprintf("up %s standby system_id=99 lsn=%s", n, lsn), fmt.Sprintf("position %s lsn=%s tli=%d", n, lsn, tli), "position " + n + " system_id=99",
		"crash " + n, "stopped " + n, "dead " + n + " end=" + lsn, "dead " + n + " cause=switched clean=true", "dead " + n + " cause=lease-lost",
		"dead " + n + " standby_signal=false", "dead " + n + " term=0",
		"unfenced " + n + " error=x", "position " + n + " lsn=" + lsn, "position " + n, "position " + n + " error=x",
		"sees " + n + " " + other + " up", "sees " + n + " " + other + " down",
		"done " + n + " settle", "failed " + n + " promote error=x", "refused " + n + " promote", "failed " + n + " demote error=x", "refused " + n + " resume", "done " + n + " follow",
		"failed " + n + " demote acted error=x", "failed " + n + " resume acted error=x", "refused " + n + " position", "refused " + n + " fence", "started " + n + " promote",
		"asks switchover", "asks switchover node=" + n, "asks failover node=" + n, "asks failover accept_loss=true node=" + n, "asks recover node=" + n,
		"asks detach node=" + n, "asks attach node=" + n, "asks pause for=10m", "asks resume", "asks shutdown", "asks shutdown keep=true", "asks startup",
		"forge to=stalled", "forge digest=00", "forge term=0", "policy lease=5s grace=2s", "policy lease=3s grace=1.5s", "policy lease=15s", "cluster nodes=2", "cluster nodes=3",
	}
	return rapid.SampledFrom(steps).Draw(t, "step")
}

// ring draws one of the waits that are due.
func ring(t *rapid.T, p *Player) string {
	due := fsm.Deadlines(p.State())
	if len(due) == 0 {
		return "wait 1s"
	}
	d := rapid.SampledFrom(due).Draw(t, "deadline")
	if d.Node == "" {
		return "rings name=" + d.Name
	}
	return "rings name=" + d.Name + " node=" + d.Node
}

// TestWhateverHappens plays random stories: nothing may break what must hold,
// and every decision must come out again.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewPlayer()
		nodes := rapid.IntRange(1, 3).Draw(t, "nodes")
		if _, err := p.Play(fmt.Sprintf("running nodes=%d", nodes)); err != nil {
			t.Fatalf("%v", err)
		}
		for range rapid.IntRange(1, 60).Draw(t, "length") {
			line := something(t)
			if rapid.IntRange(0, 3).Draw(t, "ring") == 0 {
				line = ring(t, p)
			}
			if _, err := p.Play(line); err != nil && strings.Contains(err.Error(), "chase") {
				t.Fatalf("%s: %v", line, err)
			}
		}
		r, err := Replay(from(p.Log()))
		if err != nil || r.Broken != 0 {
			t.Fatalf("%v %+v", err, r.Breaks)
		}
		for _, d := range r.Differences {
			if x := p.Log()[d.Seq-1].Data.(events.Decided); x.Controller == controllerID {
				t.Fatalf("event %d: %s", d.Seq, d.Text)
			}
		}
		prefixes(t, p.Log())
	})
}
