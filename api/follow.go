package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/operator"
	"github.com/interrex-ha/interrex/view"
)

// StaleAfter is how old the state may be that an answer is made of. A primary
// whose agent was cut off keeps its lease for the policy's lease (3 s) at most;
// within less than that the API stops calling it one.
const StaleAfter = 2 * time.Second

// pollEvery is how often the log is asked where it ends: the only way to know
// that nothing was missed while nothing was heard.
const pollEvery = 250 * time.Millisecond

// keepEvents bounds the events in memory that explanations are made of.
const keepEvents = 20_000

var errStop = errors.New("stop")

// follower reads the log from its beginning, folds it once, and remembers what
// answers are made of. Its state is that of the log at the moment asOf: when the
// log was asked for its end then, nothing was there that is not folded.
type follower struct {
	log     events.Log
	stale   time.Duration
	keep    int // keepEvents
	metrics *metrics

	mu        sync.Mutex
	fold      *fsm.Folder
	asOf      time.Time // zero: never caught up
	asked     time.Time // when the log told an end that is still to be reached; zero: none
	end       uint64    // that end
	tail      uint64    // the newest one
	away      error     // why the log did not tell its end the last time
	failed    error     // the reading ended: there is no more to come
	kept      []events.Event
	forgotten uint64 // events up to here may be missing in kept
	decisions []decided
	requests  map[uint64]*asked
	byID      map[string]*asked
	renewed   time.Time     // the lease, as seen here
	news      chan struct{} // closed, and replaced, when something came
}

// decided is a decision in the list of all.
type decided struct {
	seq     uint64
	healthy uint64 // the decision before it that found the cluster healthy
	story   bool   // one that a person asks about
	brief   Decision
}

// asked is an operator's request and its answer.
type asked struct {
	event    events.Event
	decision uint64 // 0: not decided
	refused  string
	answered bool
}

func newFollower(log events.Log, stale time.Duration, m *metrics) *follower {
	return &follower{
		log: log, stale: stale, keep: keepEvents, metrics: m, fold: fsm.NewFolder(), requests: map[uint64]*asked{}, byID: map[string]*asked{},
		news: make(chan struct{}),
	}
}

// run follows the log until ctx ends. A log that cannot be reached is waited for.
func (f *follower) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		f.askEnd(ctx)
	}()
	err := f.log.Read(ctx, events.Query{Follow: true}, f.take)
	f.mu.Lock()
	if ctx.Err() == nil {
		f.failed = err
	}
	f.wake()
	f.mu.Unlock()
	wg.Wait()
}

// askEnd asks the log again and again where it ends.
func (f *follower) askEnd(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		_ = f.askOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *follower) askOnce(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	at := time.Now()
	tail, err := f.log.Last(bounded)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = err
	if err != nil {
		return err
	}
	f.tail = max(f.tail, tail)
	if seq := f.fold.View().Seq; seq >= tail {
		f.caughtUp(at)
	} else if f.asked.IsZero() {
		f.asked, f.end = at, tail
	}
	return nil
}

// caughtUp wants f.mu held.
func (f *follower) caughtUp(at time.Time) {
	if at.After(f.asOf) {
		f.asOf = at
		f.wake()
	}
}

// take folds one event.
func (f *follower) take(e events.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.fold.View()
	phase, since := before.Phase, before.PhaseSince
	if err := f.fold.Fold(e); err != nil {
		return err
	}
	now := f.fold.View()
	f.remember(e, now)
	f.metrics.seen(e, phase, since, now)
	if !f.asked.IsZero() && now.Seq >= f.end {
		f.caughtUp(f.asked)
		f.asked = time.Time{}
	}
	f.wake()
	return nil
}

// wake wants f.mu held.
func (f *follower) wake() {
	close(f.news)
	f.news = make(chan struct{})
}

func (f *follower) remember(e events.Event, s fsm.State) {
	switch d := e.Data.(type) {
	case events.Heartbeat, events.OrderProgress:
		return
	case events.LeaseRenewed, events.LeaseAcquired:
		if s.Grant.Renewed == e.Seq {
			f.renewed = f.moment(e)
		}
		if _, renewed := d.(events.LeaseRenewed); renewed && s.Grant.Acquired != e.Seq {
			return
		}
	case events.Decided:
		f.answered(e, d.Request)
		n := decided{seq: e.Seq, brief: brief(e, d), story: view.Story(d)}
		if i := len(f.decisions); i > 0 {
			last := f.decisions[i-1]
			if n.healthy = last.healthy; last.brief.To == events.Healthy {
				n.healthy = last.seq
			}
		}
		f.decisions = append(f.decisions, n)
	case events.Declined:
		f.answered(e, d.Request)
	default:
		if e.Data.Class() == events.ClassOperator {
			a := &asked{event: e}
			f.requests[e.Seq], f.byID[e.ID] = a, a
		}
	}
	if f.kept = append(f.kept, e); len(f.kept) > f.keep {
		f.forgotten = f.kept[f.keep/2].Seq
		f.kept = slices.Clone(f.kept[f.keep/2+1:])
	}
}

// moment is when an event happened, as far as this host can tell: when it was
// heard, or, of what was read late, when its writer says if that is earlier.
func (f *follower) moment(e events.Event) time.Time {
	now := time.Now()
	if age := now.Sub(e.Time); age > 0 && now.Sub(f.asOf) > f.stale {
		return now.Add(-age)
	}
	return now
}

func (f *follower) answered(e events.Event, req uint64) {
	a := f.requests[req]
	if a == nil || a.answered {
		return
	}
	seq, err := operator.Answer(e, req)
	if r := (operator.Refused{}); errors.As(err, &r) {
		a.refused = r.Text
	}
	a.decision, a.answered = seq, true
}

// state returns a copy of the folded state, or says why it is too old to answer
// from.
func (f *follower) state() (fsm.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.tooOld(); err != nil {
		return fsm.State{}, err
	}
	return f.fold.State(), nil
}

// peek returns what is known of the state however old it is.
func (f *follower) peek() (s fsm.State, sinceRenewal time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fold.State(), time.Since(f.renewed), f.tooOld()
}

// tooOld wants f.mu held.
func (f *follower) tooOld() error {
	age := time.Since(f.asOf)
	switch {
	case f.failed != nil:
		return fmt.Errorf("the log can be followed no more: %w; see to the log, then restart the API", f.failed)
	case f.asOf.IsZero() && f.away != nil:
		return fmt.Errorf("the log was not reached yet: %w; is interrex up running?", f.away)
	case f.asOf.IsZero():
		return fmt.Errorf("the log is still being read: event %d of %d", f.fold.View().Seq, f.tail)
	case age <= f.stale:
		return nil
	case f.away != nil:
		return fmt.Errorf("the log was not heard for %s (at most %s may pass): %w; is interrex up running?", age.Round(time.Millisecond), f.stale, f.away)
	}
	return fmt.Errorf("the log is %d events ahead of what was read, for %s (at most %s may pass)", f.tail-min(f.tail, f.fold.View().Seq), age.Round(time.Millisecond), f.stale)
}

// until waits until ok holds, which is called with f.mu held, or ctx ends.
func (f *follower) until(ctx context.Context, ok func() bool) error {
	for {
		f.mu.Lock()
		done, news, failed := ok(), f.news, f.failed
		f.mu.Unlock()
		switch {
		case done:
			return nil
		case failed != nil:
			return failed
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
		}
	}
}

// catchUp waits until everything is folded that the log holds now.
func (f *follower) catchUp(ctx context.Context) error {
	if err := f.askOnce(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	tail := f.tail
	f.mu.Unlock()
	return f.until(ctx, func() bool { return f.fold.View().Seq >= tail })
}

// request returns a copy of a request by its sequence.
func (f *follower) request(seq uint64) (asked, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.requests[seq]
	if a == nil {
		return asked{}, false
	}
	return *a, true
}

// requestByID returns a copy of a request by the ID of its event.
func (f *follower) requestByID(id string) (asked, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.byID[id]
	if a == nil {
		return asked{}, false
	}
	return *a, true
}

// history returns the events in memory from a sequence on, and the last one that
// may be missing there.
func (f *follower) history(from uint64) (kept []events.Event, forgotten uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, _ := slices.BinarySearchFunc(f.kept, from, func(e events.Event, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	return slices.Clone(f.kept[i:]), f.forgotten
}
