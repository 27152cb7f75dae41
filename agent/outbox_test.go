package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
)

// flaky is a log in memory whose answers a test can change.
type flaky struct {
	*memlog.Log
	mu     sync.Mutex
	before func(context.Context, events.Draft) error // an error: nothing is stored
	after  func(events.Draft) error
}

func (f *flaky) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, d); err != nil {
			return events.Event{}, err
		}
	}
	e, err := f.Log.Append(ctx, d)
	if after != nil && err == nil {
		err = after(d)
	}
	return e, err
}

func (f *flaky) set(before func(context.Context, events.Draft) error, after func(events.Draft) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func outboxOn(t *testing.T, log events.Log) *outbox {
	t.Helper()
	o := newOutbox(log, "agent/db1", quiet)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); o.run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return o
}

func stopped(n int) events.AgentStopped {
	return events.AgentStopped{Node: "db1", Incarnation: fmt.Sprint(n), Reason: "test"}
}

// TestOutboxKeepsOrder: events arrive in the order in which they were put.
func TestOutboxKeepsOrder(t *testing.T) {
	log := memlog.New()
	o := outboxOn(t, log)
	for n := range 200 {
		o.put(stopped(n), 0)
	}
	until(t, "all is sent", o.empty)
	for n, d := range logged[events.AgentStopped](t, log) {
		if d.Incarnation != fmt.Sprint(n) {
			t.Fatalf("event %d carries %s", n, d.Incarnation)
		}
	}
	if n := len(logged[events.AgentStopped](t, log)); n != 200 {
		t.Errorf("%d events arrived, expected 200", n)
	}
}

// TestOutboxWhileTheLogIsAway: nothing is lost; of what is only of passing
// interest the newest is kept, and stands where it was put.
func TestOutboxWhileTheLogIsAway(t *testing.T) {
	log := memlog.New()
	log.SetUnavailable(true)
	o := outboxOn(t, log)
	o.put(stopped(0), 0)
	until(t, "the first is under way", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.busy })
	for n := range 5 {
		o.put(events.Heartbeat{Node: "db1", LSN: events.LSN(n)}, 0)
		o.put(events.PostgresSeen{Node: "db1", PID: n}, 0)
		o.put(events.PeerSeen{Node: "db2", By: "db1", Error: fmt.Sprint(n)}, 0)
		o.put(events.PeerSeen{Node: "db3", By: "db1", Error: fmt.Sprint(n)}, 0)
		o.put(stopped(n+1), 0)
	}
	log.SetUnavailable(false)
	until(t, "all is sent", o.empty)
	var got []string
	for _, d := range logged[events.Data](t, log) {
		switch d := d.(type) {
		case events.AgentStopped:
			got = append(got, "stopped "+d.Incarnation)
		case events.Heartbeat:
			got = append(got, "beat "+d.LSN.String())
		case events.PostgresSeen:
			got = append(got, fmt.Sprint("seen ", d.PID))
		case events.PeerSeen:
			got = append(got, d.Node+" "+d.Error)
		}
	}
	want := []string{"stopped 0", "stopped 1", "stopped 2", "stopped 3", "stopped 4", "beat 0/4", "seen 4", "db2 4", "db3 4", "stopped 5"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("arrived: %q, expected %q", got, want)
	}
}

// TestOutboxKeepsWhatIsUnderWay: a newer letter of the same sort does not replace
// one that may have arrived already.
func TestOutboxKeepsWhatIsUnderWay(t *testing.T) {
	log := memlog.New()
	log.SetUnavailable(true)
	o := outboxOn(t, log)
	o.put(events.Heartbeat{Node: "db1", LSN: 1}, 0)
	until(t, "it is under way", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.busy })
	o.put(events.Heartbeat{Node: "db1", LSN: 2}, 0)
	log.SetUnavailable(false)
	until(t, "all is sent", o.empty)
	if d := logged[events.Heartbeat](t, log); len(d) != 2 || d[0].LSN != 1 || d[1].LSN != 2 {
		t.Errorf("arrived: %+v", d)
	}
}

// TestOutboxTriesAgain: an append that nobody knows the end of is repeated under
// its own ID, however the not knowing is worded: it is stored once.
func TestOutboxTriesAgain(t *testing.T) {
	for name, unknown := range map[string]error{
		"unavailable": fmt.Errorf("test: %w", events.ErrUnavailable),
		"deadline":    fmt.Errorf("test: %w", context.DeadlineExceeded),
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var ids []string
			log := &flaky{Log: memlog.New()}
			log.set(nil, func(d events.Draft) error {
				mu.Lock()
				defer mu.Unlock()
				if ids = append(ids, d.ID); len(ids) < 3 {
					return unknown
				}
				return nil
			})
			o := outboxOn(t, log)
			o.put(stopped(1), 0)
			until(t, "it is sent", o.empty)
			mu.Lock()
			defer mu.Unlock()
			if len(ids) != 3 || len(slices.Compact(ids)) != 1 {
				t.Errorf("tried as %q, expected three times under one ID", ids)
			}
			if n := len(logged[events.AgentStopped](t, log)); n != 1 {
				t.Errorf("stored %d times", n)
			}
		})
	}
}

// TestOutboxDropsWhatIsRefused: what the log will never take does not stop the
// rest.
func TestOutboxDropsWhatIsRefused(t *testing.T) {
	log := &flaky{Log: memlog.New()}
	tried := 0
	log.set(func(_ context.Context, d events.Draft) error {
		if d.Data.(events.AgentStopped).Incarnation == "1" {
			tried++
			return errors.New("refused by the test")
		}
		return nil
	}, nil)
	o := outboxOn(t, log)
	for n := range 3 {
		o.put(stopped(n), 0)
	}
	until(t, "all is done", o.empty)
	if d := logged[events.AgentStopped](t, log); len(d) != 2 || d[0].Incarnation != "0" || d[1].Incarnation != "2" || tried != 1 {
		t.Errorf("arrived: %+v; the refused one was tried %d times", d, tried)
	}
}
