// Package journal is the agent's memory across restarts, as a pure step
// function: which orders it has begun, the highest term and sequence it has
// seen, and whether an order may be begun at all. The agent writes the state to
// disk, fsynced, before it acts on what a step returned.
package journal

import (
	"fmt"
	"slices"

	"github.com/interrex-ha/interrex/events"
)

// State is what the agent keeps on disk.
type State struct {
	Node    string   `json:"node"`
	Cluster string   `json:"cluster"`
	Seq     uint64   `json:"seq"`     // highest sequence of the log seen
	ID      string   `json:"id"`      // identity of the event at Seq: another one there means another log
	Term    uint64   `json:"term"`    // highest term seen in a decision
	Held    uint64   `json:"held"`    // highest term that this node itself held
	Intents []Intent `json:"intents"` // orders begun and not yet finished
	Done    []Mark   `json:"done"`    // the newest orders that were finished
	Floor   uint64   `json:"floor"`   // orders of this decision and older ones are no longer listed in Done
}

// Mark identifies an order.
type Mark struct {
	Decision uint64        `json:"decision"`
	Action   events.Action `json:"action"`
}

// Intent is an order that was begun.
type Intent struct {
	Mark
	Term uint64 `json:"term"`
	Step string `json:"step,omitempty"` // of a long action: the last step that was begun
}

// keep bounds the list of finished orders; older ones are refused by their
// decision's sequence.
const keep = 64

// Verdict is what to do with an order.
type Verdict int

const (
	Begin  Verdict = iota // journal the intent, then act
	Resume                // it was begun by an earlier run: inspect, then go on
	Ignore                // it was finished
	Refuse                // an older term: a newer decision has been seen
)

// Observe remembers how far the log was read.
func (s State) Observe(seq uint64, id string, term uint64) State {
	if seq > s.Seq {
		s.Seq, s.ID = seq, id
	}
	s.Term = max(s.Term, term)
	return s
}

// Regressed says why the log at hand is not the one that was seen before, or
// "": it ends before the remembered sequence after an acknowledged publish of
// our own (TRIED 18), or has another event there.
func (s State) Regressed(tailAfterOwnPublish uint64, idAtSeq string) string {
	if s.Seq == 0 {
		return ""
	}
	if tailAfterOwnPublish != 0 && tailAfterOwnPublish <= s.Seq {
		return fmt.Sprintf("the log ends at event %d, but this node has seen event %d", tailAfterOwnPublish, s.Seq)
	}
	if idAtSeq != "" && idAtSeq != s.ID {
		return fmt.Sprintf("event %d of the log is %s, but this node has seen %s there", s.Seq, idAtSeq, s.ID)
	}
	return ""
}

// Consider judges an order against what was seen and done.
func (s State) Consider(m Mark, term uint64) (Verdict, string) {
	if slices.Contains(s.Done, m) {
		return Ignore, "it was carried out"
	}
	if s.Intends(m) {
		return Resume, ""
	}
	if m.Decision <= s.Floor {
		return Refuse, fmt.Sprintf("its decision %d is older than the orders that are remembered (after %d)", m.Decision, s.Floor)
	}
	if term < s.Term {
		return Refuse, fmt.Sprintf("its term %d is older than %d", term, s.Term)
	}
	return Begin, ""
}

// Intend records that an order begins.
func (s State) Intend(m Mark, term uint64) State {
	s.Intents = append(slices.Clone(s.Intents), Intent{Mark: m, Term: term})
	return s
}

// Intends reports whether an order was begun whose end is not recorded.
func (s State) Intends(m Mark) bool {
	return slices.ContainsFunc(s.Intents, func(in Intent) bool { return in.Mark == m })
}

// AtStep records how far a long action is.
func (s State) AtStep(m Mark, step string) State {
	s.Intents = slices.Clone(s.Intents)
	for i := range s.Intents {
		if s.Intents[i].Mark == m {
			s.Intents[i].Step = step
		}
	}
	return s
}

// Finish records that an order is over, well or not.
func (s State) Finish(m Mark) State {
	s.Intents = slices.DeleteFunc(slices.Clone(s.Intents), func(i Intent) bool { return i.Mark == m })
	s.Done = append(slices.Clone(s.Done), m)
	if extra := len(s.Done) - keep; extra > 0 {
		for _, d := range s.Done[:extra] {
			s.Floor = max(s.Floor, d.Decision)
		}
		s.Done = s.Done[extra:]
	}
	return s
}

// Hold records that this node takes a term.
func (s State) Hold(term uint64) State {
	s.Held = max(s.Held, term)
	return s
}
