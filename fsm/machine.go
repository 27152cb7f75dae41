package fsm

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/looplab/fsm"

	"github.com/interrex-ha/interrex/events"
)

// Machine holds the two tables. Inside are looplab's FSMs, used as tables and
// nothing more: no callbacks, no async, no metadata. Whoever adds a callback
// breaks determinism (docs/decisions/0003). It is not safe for concurrent use:
// one goroutine, one machine.
type Machine struct {
	phases   *fsm.FSM
	statuses *fsm.FSM
	rules    map[step]Rule
	moves    map[step]StatusRule
}

type step struct{ from, on string }

// NewMachine builds the tables and panics when they are malformed: two rows for
// one step, an ID that is not new and odd, a row without a reason. looplab
// would accept all of that.
func NewMachine() *Machine {
	m := &Machine{rules: map[step]Rule{}, moves: map[step]StatusRule{}}
	last := 0
	var phases, statuses fsm.Events
	for _, r := range Rules {
		last = wellFormed(last, r.ID, r.Why)
		for _, from := range r.From {
			to := r.To
			if to == same {
				to = from
			}
			m.rules[once(m.rules, from, r.On, r.ID)] = r
			phases = append(phases, fsm.EventDesc{Name: string(r.On), Src: []string{string(from)}, Dst: string(to)})
		}
	}
	for _, r := range StatusRules {
		last = wellFormed(last, r.ID, r.Why)
		for _, from := range r.From {
			m.moves[once(m.moves, events.Phase(strconv.Itoa(from)), r.On, r.ID)] = r
			statuses = append(statuses, fsm.EventDesc{Name: string(r.On), Src: []string{strconv.Itoa(from)}, Dst: strconv.Itoa(r.To)})
		}
	}
	m.phases = fsm.NewFSM(string(events.Forming), phases, nil)
	m.statuses = fsm.NewFSM(strconv.Itoa(StatusUnused), statuses, nil)
	return m
}

func wellFormed(last, id int, why string) int {
	if id <= last || id%2 == 0 || why == "" {
		panic(fmt.Sprintf("fsm: rule %d after %d: IDs are odd and grow, and each rule says why", id, last))
	}
	return id
}

func once[R any](have map[step]R, from events.Phase, on Trigger, id int) step {
	k := step{string(from), string(on)}
	if _, twice := have[k]; twice {
		panic(fmt.Sprintf("fsm: rule %d: a second row for %s in %s", id, on, from))
	}
	return k
}

// move returns the rule that a trigger fires in a phase and the phase that
// follows; false when there is none.
func (m *Machine) move(p events.Phase, t Trigger) (Rule, events.Phase, bool) {
	to, ok := ask(m.phases, string(p), string(t))
	return m.rules[step{string(p), string(t)}], events.Phase(to), ok
}

// knows reports whether move would find a rule. It asks our own index, which is
// far cheaper than looplab, for each of the many conclusions that do not hold; a
// test compares the two for every step.
func (m *Machine) knows(p events.Phase, t Trigger) bool {
	_, ok := m.rules[step{string(p), string(t)}]
	return ok
}

// status returns the row that a trigger fires for a node's status.
func (m *Machine) status(from int, t Trigger) (StatusRule, bool) {
	_, ok := ask(m.statuses, strconv.Itoa(from), string(t))
	return m.moves[step{strconv.Itoa(from), string(t)}], ok
}

func ask(table *fsm.FSM, from, on string) (string, bool) {
	table.SetState(from)
	if !table.Can(on) {
		return "", false
	}
	// Never a context that can end: a cancelled one wedges looplab's machine
	// for good (looplab/fsm issue 115).
	err := table.Event(context.Background(), on)
	if self := (fsm.NoTransitionError{}); errors.As(err, &self) {
		err = self.Err // a row from a phase to itself is a legal move
	}
	if err != nil {
		panic(fmt.Sprintf("fsm: %s in %s: %v", on, from, err))
	}
	return table.Current(), true
}

// Mermaid draws the phase table as a state diagram, from a fresh machine:
// looplab draws the current state as the initial one.
func Mermaid() (phases, statuses string, err error) {
	m := NewMachine()
	if phases, err = fsm.VisualizeForMermaidWithGraphType(m.phases, fsm.StateDiagram); err != nil {
		return "", "", fmt.Errorf("fsm: %w", err)
	}
	if statuses, err = fsm.VisualizeForMermaidWithGraphType(m.statuses, fsm.StateDiagram); err != nil {
		return "", "", fmt.Errorf("fsm: %w", err)
	}
	return phases, statuses, nil
}
