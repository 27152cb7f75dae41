package scenarios

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// Note is a remark about one event.
type Note struct {
	Seq  uint64 `json:"seq"`
	Text string `json:"text"`
}

// notesKept bounds each list of a Report; the counts beside them go on.
const notesKept = 100

// Report is what a replay found.
type Report struct {
	Events      uint64 `json:"events"`
	Last        uint64 `json:"last"` // sequence of the last event
	Digest      string `json:"digest"`
	Decisions   uint64 `json:"decisions"`    // valid ones
	Declined    uint64 `json:"declined"`     // all
	Rederived   uint64 `json:"rederived"`    // decisions and declined events that came out the same
	OtherRules  uint64 `json:"other_rules"`  // made by a rule set that is not ours, or where we may not decide: believed, not re-derived
	Undecided   uint64 `json:"undecided"`    // prefixes at which something was due and something else came first
	LongestWait uint64 `json:"longest_wait"` // most events in a row at which something was due
	Different   uint64 `json:"different"`
	Void        uint64 `json:"void"`
	Broken      uint64 `json:"broken"`
	Differences []Note `json:"differences,omitempty"` // the first of each kind
	Voids       []Note `json:"voids,omitempty"`
	Breaks      []Note `json:"breaks,omitempty"`
	Halted      string `json:"halted,omitempty"` // why this program could not decide at the end
}

// OK reports whether every decision came out the same and nothing that must
// hold was broken. Void decisions were ignored by every reader: they are for
// people to look at.
func (r Report) OK() bool { return r.Different == 0 && r.Broken == 0 }

func note(list *[]Note, count *uint64, seq uint64, text string) {
	*count++
	if len(*list) < notesKept {
		*list = append(*list, Note{seq, text})
	}
}

// replayer folds a log and asks at each prefix what should follow.
type replayer struct {
	Report
	folder  *fsm.Folder
	machine *fsm.Machine
	witness Witness
	due     events.Data // what should follow the prefix, nil when nothing
	waiting uint64
}

// Replay re-derives every decision of a log from the prefix before it, and
// checks what must hold of every log. next returns the events in order, and
// false after the last one; it must deliver a log from its first event. Memory
// is bounded, whatever the log's length. The error is next's, or an event out
// of order; the report is then about what came before.
func Replay(next func() (events.Event, bool, error)) (Report, error) {
	r := replayer{folder: fsm.NewFolder(), machine: fsm.NewMachine()}
	for {
		e, ok, err := next()
		if err != nil || !ok {
			r.Halted = r.folder.View().MayDecide()
			return r.Report, err
		}
		if err := r.step(e); err != nil {
			return r.Report, fmt.Errorf("scenarios: replay: %w", err)
		}
	}
}

func (r *replayer) step(e events.Event) error {
	halted := r.folder.View().MayDecide()
	if err := r.folder.Fold(e); err != nil {
		return err
	}
	s := r.folder.View()
	r.Events++
	r.Last, r.Digest = e.Seq, s.Digest.String()
	void := voided(s, e)
	switch d := e.Data.(type) {
	case events.Decided:
		if void != "" {
			note(&r.Voids, &r.Void, e.Seq, void)
			break
		}
		r.Decisions++
		r.compare(e.Seq, d, d.RuleSet, halted)
	case events.Declined:
		r.Declined++
		if d.BasedOn == e.Seq-1 { // else it lost a race, and tells of an older prefix
			r.compare(e.Seq, d, events.RuleSet, halted)
		}
	default:
		r.overtaken()
	}
	for _, b := range r.witness.Step(e, void != "") {
		note(&r.Breaks, &r.Broken, e.Seq, b)
	}
	r.due, _ = r.machine.Decide(s)
	return nil
}

// overtaken counts how long something that was due had to wait.
func (r *replayer) overtaken() {
	if r.due == nil {
		r.waiting = 0
		return
	}
	r.Undecided++
	r.waiting++
	r.LongestWait = max(r.LongestWait, r.waiting)
}

func (r *replayer) compare(seq uint64, got events.Data, ruleSet int, halted string) {
	r.waiting = 0
	if ruleSet != events.RuleSet || halted != "" {
		r.OtherRules++
		return
	}
	if diff := Differ(r.due, got); diff != "" {
		note(&r.Differences, &r.Different, seq, diff)
		return
	}
	r.Rederived++
}

// voided returns the alarm that a void decision raised, or "".
func voided(s fsm.State, e events.Event) string {
	if _, ok := e.Data.(events.Decided); !ok || len(s.Alarms) == 0 {
		return ""
	}
	if a := s.Alarms[len(s.Alarms)-1]; a.Seq == e.Seq {
		return a.Text
	}
	return ""
}

// Differ names the first field, in alphabetical order, in which what the rules
// say (nil: nothing follows) differs from what the log says, "" when none does.
// Who the controller was does not count.
func Differ(rules, log events.Data) string {
	if rules == nil {
		return "the rules decide nothing here"
	}
	if rules.Kind() != log.Kind() {
		return fmt.Sprintf("the rules say %s", rules.Kind())
	}
	want, got := asMap(Signed(rules, "")), asMap(Signed(log, ""))
	for _, k := range sorted(union(want, got)) {
		if string(want[k]) != string(got[k]) {
			return fmt.Sprintf("%s: the rules say %s, the log says %s", k, orNothing(want[k]), orNothing(got[k]))
		}
	}
	return ""
}

func orNothing(b json.RawMessage) string {
	if len(b) == 0 {
		return "nothing"
	}
	return strings.ToValidUTF8(string(b), "?")
}

func union(a, b map[string]json.RawMessage) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// asMap returns the fields of an event's body; nil for one that cannot be
// encoded, which then differs in every field.
func asMap(d events.Data) map[string]json.RawMessage {
	body, err := events.Encode(d)
	if err != nil {
		return nil
	}
	out := map[string]json.RawMessage{}
	if json.Unmarshal(body, &out) != nil {
		return nil
	}
	return out
}
