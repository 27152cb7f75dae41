// Package controller decides for one cluster: log → fsm → log. It is the only
// writer of decisions. It knows no PostgreSQL and no ssh. Any number of
// controllers may run: the log's compare-and-swap lets one of them win each
// decision, and the others fold the winner's.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// tick bounds how long the loop sleeps: often enough to notice that this
// process itself was frozen.
const tick = 200 * time.Millisecond

// frozen is how late a tick may come before every wait starts anew: a wait
// counts only when it was uninterrupted.
const frozen = 600 * time.Millisecond

// loopLimit stops a controller whose rules chase one another.
const loopLimit = 20

// ErrRegressed says that the log is not the one that was seen before: an older
// copy, or another one. Nothing is decided on it.
var ErrRegressed = errors.New("the log went backwards")

// Memory keeps the head of the log across restarts of this program.
type Memory interface {
	Load() (Head, error)
	Save(Head) error
}

// Head is the newest place in the log that was seen.
type Head struct {
	Seq    uint64 `json:"seq"`
	Digest string `json:"digest"`
	Term   uint64 `json:"term"`
}

// Controller decides for one cluster.
type Controller struct {
	Log    events.Log
	ID     string               // subject token of its decisions
	Now    func() time.Duration // the only clock: monotonic, and slewed by nobody (CLOCK_MONOTONIC_RAW)
	Wall   func() time.Time     // for people; nothing is decided on it
	Memory Memory               // nil: remembers nothing
	Logger *slog.Logger
	// Seen, when set, is called after each event with the state that it gave,
	// from the controller's goroutine.
	Seen func(events.Event, fsm.State)

	machine *fsm.Machine
	state   fsm.State
	head    Head
	live    bool // the tail was reached once
	away    bool // an append failed, and the log has not answered since
	tail    uint64
	epoch   time.Duration // waits begin no earlier
	folded  [window]time.Duration
	begun   map[wait]time.Duration // waits that are due, and when each began
	streak  int                    // decisions in a row, anybody's, with no news between
	saved   time.Duration
}

// window is how many of the newest events have the time of their folding kept.
const window = 1 << 14

// wait tells one wait from another.
type wait struct {
	name, node string
	since      uint64
}

// Run follows the log and decides until ctx ends. A lost compare-and-swap is
// news, not an error. It returns ctx.Err(), or an error wrapping ErrRegressed.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.begin(ctx); err != nil {
		return err
	}
	news := make(chan events.Event, 4096)
	failed := make(chan error, 1)
	go func() {
		failed <- c.Log.Read(ctx, events.Query{After: 0, Follow: true}, func(e events.Event) error {
			select {
			case news <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return c.loop(ctx, news, failed)
}

func (c *Controller) begin(ctx context.Context) error {
	c.machine, c.state = fsm.NewMachine(), fsm.Initial()
	if c.Memory != nil {
		head, err := c.Memory.Load()
		if err != nil {
			return err
		}
		c.head = head
	}
	tail, err := c.Log.Last(ctx)
	for errors.Is(err, events.ErrUnavailable) && ctx.Err() == nil {
		pause(ctx, tick)
		tail, err = c.Log.Last(ctx)
	}
	c.tail = tail
	return err
}

func (c *Controller) loop(ctx context.Context, news <-chan events.Event, failed <-chan error) error {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	expected := c.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case e := <-news:
			if err := c.fold(e); err != nil {
				return err
			}
			for more := true; more; { // all that is there before deciding once
				select {
				case e := <-news:
					if err := c.fold(e); err != nil {
						return err
					}
				default:
					more = false
				}
			}
		case <-timer.C:
		}
		now := c.Now()
		if now-expected > frozen || !c.heard(ctx) {
			c.epoch = c.Now()
		}
		if err := c.catchUp(ctx); err != nil {
			return err
		}
		wait := tick
		if c.live {
			wait = c.act(ctx)
		}
		timer.Reset(wait)
		expected = c.Now() + wait
	}
}

// heard: a wait during which the log could not be heard is no wait. A log that
// did not take an append is away until it answers a question.
func (c *Controller) heard(ctx context.Context) bool {
	if l, ok := c.Log.(interface{ Connected() bool }); ok && !l.Connected() {
		return false
	}
	if !c.away {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := c.Log.Last(ctx)
	c.away = err != nil
	return false
}

func (c *Controller) fold(e events.Event) error {
	if e.Seq <= c.state.Seq {
		return nil // our own append, folded when it was acknowledged
	}
	s, err := fsm.Fold(c.state, e)
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	c.state = s
	c.folded[e.Seq%window] = c.Now()
	c.count(e)
	for _, a := range s.Alarms {
		if a.Seq == e.Seq {
			c.Logger.Error("alarm", "seq", a.Seq, "text", a.Text)
		}
	}
	if e.Seq == c.head.Seq && c.head.Digest != "" && s.Digest.String() != c.head.Digest {
		return fmt.Errorf("controller: %w: event %d is not the one that was seen there before; restore the log, or accept this one by removing its head file", ErrRegressed, e.Seq)
	}
	if c.Seen != nil {
		c.Seen(e, s)
	}
	c.remember(e)
	return nil
}

// count tells rules that chase one another from a cluster in which much happens:
// the passing of time is news, too.
func (c *Controller) count(e events.Event) {
	switch e.Data.Class() {
	case events.ClassDecision, events.ClassDeclined:
		c.streak++
	default:
		c.streak = 0
	}
}

func (c *Controller) remember(e events.Event) {
	_, decision := e.Data.(events.Decided)
	if c.Memory == nil || !c.live || e.Seq <= c.head.Seq || !decision && c.Now()-c.saved < 5*time.Second {
		return
	}
	c.head = Head{e.Seq, c.state.Digest.String(), c.state.Term}
	c.saved = c.Now()
	if err := c.Memory.Save(c.head); err != nil {
		c.Logger.Error("the head of the log cannot be kept", "error", err)
	}
}

// catchUp notices the tail, and that a log ends before what was seen once: that
// is certain only after an acknowledged append of our own (TRIED 18).
func (c *Controller) catchUp(ctx context.Context) error {
	if c.live || c.state.Seq < c.tail {
		return nil
	}
	if c.state.Seq < c.head.Seq {
		e, err := c.append(ctx, events.DeadlineReached{Controller: c.ID, Name: "catch-up"}, events.Condition{})
		if err != nil {
			return nil // asked again at the next tick
		}
		if e.Seq <= c.head.Seq {
			return fmt.Errorf("controller: %w: it ends at event %d, and event %d was seen before; restore the log, or accept this one by removing its head file", ErrRegressed, e.Seq, c.head.Seq)
		}
		c.tail = e.Seq
		return nil
	}
	c.live, c.epoch = true, c.Now()
	return nil
}

// act appends what is due and returns how long the loop may sleep.
func (c *Controller) act(ctx context.Context) time.Duration {
	for c.streak < loopLimit {
		data, ok := c.machine.Decide(c.state)
		if !ok {
			break
		}
		if !c.propose(ctx, signed(data, c.ID)) {
			return tick
		}
	}
	if c.streak >= loopLimit {
		c.Logger.Error("the rules chase one another; waiting for news", "phase", c.state.Phase, "seq", c.state.Seq)
		return tick
	}
	return c.ring(ctx)
}

// signed writes the controller's name into what the rules decided.
func signed(data events.Data, id string) events.Data {
	switch d := data.(type) {
	case events.Decided:
		d.Controller = id
		return d
	case events.Declined:
		d.Controller = id
		return d
	}
	return data
}

// propose appends by compare-and-swap at the prefix that was decided on; it
// reports whether the event is stored and folded.
func (c *Controller) propose(ctx context.Context, data events.Data) bool {
	before := c.state.Seq
	e, err := c.append(ctx, data, events.Condition{AtTail: true, Seq: before})
	if err != nil {
		if !errors.Is(err, events.ErrConflict) && ctx.Err() == nil {
			c.Logger.Warn("cannot append", "kind", data.Kind(), "error", err)
			c.epoch, c.away = c.Now(), true
		}
		return false
	}
	if e.Seq != before+1 { // stored by an earlier try: it comes through the reader
		return false
	}
	if err := c.fold(e); err != nil {
		c.Logger.Error("cannot fold our own event", "error", err)
		return false
	}
	return true
}

func (c *Controller) append(ctx context.Context, data events.Data, cond events.Condition) (events.Event, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return events.Event{}, fmt.Errorf("controller: no randomness for an event id: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return c.Log.Append(ctx, events.Draft{ID: id.String(), Time: c.Wall(), Source: "controller/" + c.ID, Data: data, If: cond})
}

// ring appends the deadline that is over, if any, and returns the time until
// the next one.
func (c *Controller) ring(ctx context.Context) time.Duration {
	now := c.Now()
	sleep := tick
	due := fsm.Deadlines(c.state)
	c.beginWaits(due)
	for _, d := range due {
		waited := now - max(c.epoch, c.begun[wait{d.Name, d.Node, d.Since}])
		if waited < d.Wait {
			sleep = min(sleep, d.Wait-waited)
			continue
		}
		data := events.DeadlineReached{
			Controller: c.ID, BasedOn: c.state.Seq, Name: d.Name, Node: d.Node, Since: d.Since, Waited: events.Duration(waited),
		}
		if c.propose(ctx, data) {
			return 0 // decide on it at once
		}
		return time.Millisecond
	}
	return max(sleep, time.Millisecond)
}

// beginWaits notes when each wait began: when this controller folded the event
// that it counts from. What is due no more is forgotten.
func (c *Controller) beginWaits(due []fsm.Deadline) {
	begun := make(map[wait]time.Duration, len(due))
	for _, d := range due {
		w := wait{d.Name, d.Node, d.Since}
		at, ok := c.begun[w]
		if !ok {
			at = c.foldedAt(d.Since)
		}
		begun[w] = at
	}
	c.begun = begun
}

// foldedAt is when event seq was folded. Of one too old for the window it says
// when the oldest there was: a wait may last too long, never too short.
func (c *Controller) foldedAt(seq uint64) time.Duration {
	if seq+window <= c.state.Seq {
		seq = c.state.Seq - window + 1
	}
	return c.folded[seq%window]
}

// State returns the state as of the last event folded. Call it from Seen only.
func (c *Controller) State() fsm.State { return c.state }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
