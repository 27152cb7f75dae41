// Package memlog is a cluster's log in memory: for tests and for simulation.
// It keeps the promises of events.Log except durability: what it holds ends
// with the process.
package memlog

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"

	"github.com/interrex-ha/interrex/events"
)

// Log implements events.Log in memory. Any number of goroutines may use it.
// Events share their Body with every reader: it must not be written to.
type Log struct {
	mu           sync.Mutex
	stored       []events.Event // ascending Seq
	byID         map[string]int // index in stored
	lastDecision uint64
	unavailable  bool
	news         chan struct{} // closed, and replaced, whenever a reader may go on
}

var _ events.Log = (*Log)(nil)

// New returns an empty log.
func New() *Log {
	return &Log{byID: map[string]int{}, news: make(chan struct{})}
}

// SetUnavailable makes the log unreachable, as a partition or a stopped server
// would: Append and Last return events.ErrUnavailable, Read waits. SetUnavailable(false)
// ends that; nothing was lost and nothing was stored meanwhile.
func (l *Log) SetUnavailable(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unavailable = away
	l.wake()
}

// Load appends events as they are, with their own sequences and bytes: a
// recorded log, for example. It stops at the first whose sequence does not
// grow, or whose ID is taken; the ones before it stay.
func (l *Log) Load(recorded ...events.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.wake()
	for _, e := range recorded {
		if e.Seq <= l.last() {
			return fmt.Errorf("memlog: event %q has sequence %d, but the log already ends at %d; load events in ascending order", e.ID, e.Seq, l.last())
		}
		if _, taken := l.byID[e.ID]; taken {
			return fmt.Errorf("memlog: event %d has the ID %q of an earlier one", e.Seq, e.ID)
		}
		if e.Data == nil {
			return fmt.Errorf("memlog: event %d has no data; decode it first (events.Stored.Import)", e.Seq)
		}
		l.store(e)
	}
	return nil
}

// Append stores an event and returns it as readers will see it. An ID that is
// stored already returns the stored event, whatever the condition says now.
// It returns events.ErrConflict when the condition does not hold,
// events.ErrUnavailable after SetUnavailable(true), and another error for a
// draft that no log takes.
func (l *Log) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	if err := ctx.Err(); err != nil {
		return events.Event{}, err
	}
	e, err := stage(d)
	if err != nil {
		return events.Event{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unavailable {
		return events.Event{}, fmt.Errorf("memlog: %w: set unavailable by the test", events.ErrUnavailable)
	}
	if i, ok := l.byID[d.ID]; ok {
		return l.stored[i], nil
	}
	if d.If.AtTail && l.last() != d.If.Seq {
		return events.Event{}, fmt.Errorf("memlog: %w: it ends at %d, not at %d", events.ErrConflict, l.last(), d.If.Seq)
	}
	if d.If.AtDecision && l.lastDecision != d.If.Seq {
		return events.Event{}, fmt.Errorf("memlog: %w: its last decision is %d, not %d", events.ErrConflict, l.lastDecision, d.If.Seq)
	}
	e.Seq = l.last() + 1
	l.store(e)
	l.wake()
	return e, nil
}

// Last returns the sequence of the newest event, 0 for an empty log, or
// events.ErrUnavailable.
func (l *Log) Last(ctx context.Context) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unavailable {
		return 0, fmt.Errorf("memlog: %w: set unavailable by the test", events.ErrUnavailable)
	}
	return l.last(), nil
}

// Read implements events.Log. While the log is unavailable it waits.
func (l *Log) Read(ctx context.Context, q events.Query, fn func(events.Event) error) error {
	tail, err := l.tailOf(ctx, q)
	if err != nil {
		return err
	}
	after := q.After
	for {
		batch, news := l.since(after, tail)
		for _, e := range batch {
			after = e.Seq
			if len(q.Classes) > 0 && !slices.Contains(q.Classes, e.Data.Class()) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		if !q.Follow && news == nil {
			return nil
		}
		if len(batch) > 0 {
			continue
		}
		if err := wait(ctx, news); err != nil {
			return err
		}
	}
}

// tailOf returns the last sequence that q may deliver: the tail as of now, or
// no bound for a follower. It waits while the log is unavailable.
func (l *Log) tailOf(ctx context.Context, q events.Query) (uint64, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		l.mu.Lock()
		last, away, news := l.last(), l.unavailable, l.news
		l.mu.Unlock()
		switch {
		case q.Follow:
			return math.MaxUint64, nil
		case !away:
			return last, nil
		}
		if err := wait(ctx, news); err != nil {
			return 0, err
		}
	}
}

// batchSize bounds what a reader copies under the lock at a time.
const batchSize = 1024

// since returns events in (after, tail], and, when there may be more later, the
// channel that says so. A nil channel means that everything up to tail was
// returned.
func (l *Log) since(after, tail uint64) ([]events.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unavailable {
		return nil, l.news
	}
	from := sort.Search(len(l.stored), func(i int) bool { return l.stored[i].Seq > after })
	to := sort.Search(len(l.stored), func(i int) bool { return l.stored[i].Seq > tail })
	end := max(from, min(to, from+batchSize))
	batch := slices.Clone(l.stored[from:end])
	if tail <= l.last() && end >= to {
		return batch, nil
	}
	return batch, l.news
}

// last, store and wake want l.mu held.
func (l *Log) last() uint64 {
	if len(l.stored) == 0 {
		return 0
	}
	return l.stored[len(l.stored)-1].Seq
}

func (l *Log) store(e events.Event) {
	l.byID[e.ID] = len(l.stored)
	l.stored = append(l.stored, e)
	if e.Data.Class() == events.ClassDecision {
		l.lastDecision = e.Seq
	}
}

func (l *Log) wake() {
	close(l.news)
	l.news = make(chan struct{})
}

func wait(ctx context.Context, news <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-news:
		return nil
	}
}
