// Package scenarios plays stories (events in, decisions out), re-derives what a
// recorded log decided, and states what must hold of every log whatever
// happened. It decides nothing itself: it asks fsm.
package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// step is how far the story's clock moves before each event.
const step = 100 * time.Millisecond

// loopLimit is how many decisions in a row one event may cause: more is a loop.
const loopLimit = 10

// controllerID names the one controller of a story.
const controllerID = "c1"

// begin is when every story begins.
var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Player plays a story on a log of its own: it appends an event for each step,
// and after each event everything that a controller would decide. The same
// steps give the same log, byte for byte. It is not safe for concurrent use.
type Player struct {
	log     []events.Event
	state   fsm.State
	machine *fsm.Machine
	clock   time.Duration
	due     map[string]bool // deadlines told of
	out     strings.Builder
}

// NewPlayer returns a player at the beginning of an empty log.
func NewPlayer() *Player {
	return &Player{state: fsm.Initial(), machine: fsm.NewMachine(), due: map[string]bool{}}
}

// Log returns the events so far.
func (p *Player) Log() []events.Event { return p.log }

// State returns the state after the last event.
func (p *Player) State() fsm.State { return p.state }

// Play carries out steps, one a line, and returns what was decided: one line a
// decision with its details indented below. Empty lines and lines that begin
// with # are skipped. An error names the line, counted from 1, and the column.
func (p *Player) Play(steps string) (string, error) {
	p.out.Reset()
	for i, line := range strings.Split(steps, "\n") {
		if line = strings.TrimRight(line, " \t\r"); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := p.step(line); err != nil {
			return p.out.String(), fmt.Errorf("line %d, %w", i+1, err)
		}
	}
	p.tellDeadlines()
	return p.out.String(), nil
}

// step carries out one line: a macro, or an event by its kind.
func (p *Player) step(line string) error {
	a, err := words(line)
	if err != nil {
		return err
	}
	first, rest := a[0], a[1:]
	if first.valued {
		return wrong(first.column, "a step begins with its name, not with %s=", first.name)
	}
	if at, ok := rest.pop("at"); ok {
		d, err := time.ParseDuration(at)
		if err != nil || d < p.clock {
			return wrong(first.column, "at=%s must be a duration since the beginning of the story, and not before %s", at, p.clock)
		}
		p.clock = d - step
	}
	if m, ok := macros[first.name]; ok {
		return m.play(p, first, rest)
	}
	if !slices.Contains(events.Kinds(), first.name) {
		return wrong(first.column, "there is no step %q; steps are the kinds of events and: %s", first.name, strings.Join(sorted(macros), " "))
	}
	blank, err := events.Decode(first.name, events.VersionOf(first.name), "", "", []byte("{}"))
	if err != nil {
		return err
	}
	return p.happen(blank, rest)
}

// happen appends data with the fields that the arguments name, and decides.
func (p *Player) happen(data events.Data, a args) error {
	data, err := with(data, a)
	if err != nil {
		return err
	}
	p.clock += step
	if err := p.append(data); err != nil {
		return err
	}
	return p.decide()
}

// decide appends what follows until nothing does.
func (p *Player) decide() error {
	for range loopLimit {
		data, ok := p.machine.Decide(p.state)
		if !ok {
			return nil
		}
		data = Signed(data, controllerID)
		p.tell(data)
		if err := p.append(data); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d decisions in a row after event %d: the rules chase one another", loopLimit, p.state.Seq)
}

// append stores and folds an event as a log would: the data is read back from
// its own bytes.
func (p *Player) append(data events.Data) error {
	e, err := Store(p.state.Seq+1, begin.Add(p.clock), data)
	if err != nil {
		return err
	}
	alarms := p.state.Alarms
	if p.state, err = fsm.Fold(p.state, e); err != nil {
		return err
	}
	p.log = append(p.log, e)
	for _, a := range p.state.Alarms {
		if a.Seq == e.Seq && !slices.Contains(alarms, a) {
			fmt.Fprintf(&p.out, "alarm: %s\n", a.Text)
		}
	}
	return nil
}

// Store makes the event that a log would hold: with an identity that follows
// from its sequence, and data that was read back from its own bytes.
func Store(seq uint64, at time.Time, data events.Data) (events.Event, error) {
	if u, ok := data.(events.Unknown); ok {
		return events.Event{Seq: seq, ID: idOf(seq), Time: at, Source: sourceOf(data), Version: u.Version, Data: u, Body: []byte("{}")}, nil
	}
	body, err := events.Encode(data)
	if err != nil {
		return events.Event{}, err
	}
	version := events.VersionOf(data.Kind())
	if data, err = events.Decode(data.Kind(), version, data.Class(), data.Key(), body); err != nil {
		return events.Event{}, err
	}
	return events.Event{Seq: seq, ID: idOf(seq), Time: at, Source: sourceOf(data), Version: version, Data: data, Body: body}, nil
}

func idOf(seq uint64) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", seq) }

func sourceOf(d events.Data) string {
	switch d.Class() {
	case events.ClassDecision, events.ClassDeclined, events.ClassDeadline:
		return "controller/" + d.Key()
	case events.ClassOperator, events.ClassPolicy:
		return "operator/" + d.Key()
	}
	return "agent/" + d.Key()
}

// Signed returns what the rules decided with a controller's name on it.
func Signed(data events.Data, controller string) events.Data {
	switch d := data.(type) {
	case events.Decided:
		d.Controller = controller
		return d
	case events.Declined:
		d.Controller = controller
		return d
	}
	return data
}
