package logtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/interrex-ha/interrex/events"
)

// Follower reads in the background and keeps what it was given.
type Follower struct {
	mu   sync.Mutex
	got  []events.Event
	done chan error
	stop context.CancelFunc
}

// Follow starts a follower; the test's end stops it.
func Follow(t *testing.T, log events.Log, q events.Query) *Follower {
	q.Follow = true
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{done: make(chan error, 1), stop: cancel}
	go func() {
		f.done <- log.Read(ctx, q, func(e events.Event) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.got = append(f.got, e)
			return nil
		})
	}()
	t.Cleanup(cancel)
	return f
}

// Got returns what was delivered so far.
func (f *Follower) Got() []events.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

// Ended waits for Read to return by itself and gives its error.
func (f *Follower) Ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.done:
		return err
	case <-within(t).Done():
		t.Fatal("Read did not return")
		return nil
	}
}

func testBounds(t *testing.T, s Subject) {
	for i := range 10 {
		MustAppend(t, s.Log, Heartbeat("db1", i))
	}
	if got := All(t, s.Log, 10); len(got) != 0 {
		t.Errorf("reading after the tail delivered %v", seqs(got))
	}
	// What is appended while a bounded read is under way is not part of it.
	var got []uint64
	err := s.Log.Read(within(t), events.Query{}, func(e events.Event) error {
		got = append(got, e.Seq)
		if len(got) <= 3 {
			MustAppend(t, s.Log, Heartbeat("db1", 100))
		}
		return nil
	})
	if err != nil || len(got) != 10 || !ascending(got) {
		t.Errorf("a bounded read delivered %v, %v; want 1 to 10", got, err)
	}
}

func testFollow(t *testing.T, s Subject) {
	first := MustAppend(t, s.Log, Heartbeat("db1", 0))
	whole := Follow(t, s.Log, events.Query{})
	tail := Follow(t, s.Log, events.Query{After: first.Seq})
	want := []events.Event{first}
	for i := range 30 {
		want = append(want, MustAppend(t, s.Log, Heartbeat("db1", i)))
		if i%10 == 0 { // both idle readers and busy ones must be woken
			Eventually(t, "follower catches up", func() bool { return len(whole.Got()) == len(want) })
		}
	}
	Eventually(t, "31 events", func() bool { return len(whole.Got()) == 31 && len(tail.Got()) == 30 })
	same(t, whole.Got(), want)
	same(t, tail.Got(), want[1:])
	whole.stop()
	if err := whole.Ended(t); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled follower returned %v, want context.Canceled", err)
	}
}

func testClasses(t *testing.T, s Subject) {
	only := Follow(t, s.Log, events.Query{Classes: []events.Class{events.ClassDecision, events.ClassOperator}})
	MustAppend(t, s.Log, Heartbeat("db1", 1))
	MustAppend(t, s.Log, Decision("c1", 1))
	MustAppend(t, s.Log, Draft(events.PauseRequested{Request: events.Request{Who: "root@a", Actor: "root"}}))
	MustAppend(t, s.Log, Heartbeat("db1", 2))
	MustAppend(t, s.Log, Decision("c2", 4))
	MustAppend(t, s.Log, Heartbeat("db1", 3))
	for _, c := range []struct {
		classes []events.Class
		want    []uint64
	}{
		{[]events.Class{events.ClassDecision}, []uint64{2, 5}},
		{[]events.Class{events.ClassHealth, events.ClassOperator}, []uint64{1, 3, 4, 6}},
		{[]events.Class{events.ClassPolicy}, []uint64{}},
	} {
		if got := seqs(All(t, s.Log, 0, c.classes...)); !slices.Equal(got, c.want) {
			t.Errorf("classes %v delivered %v, want %v", c.classes, got, c.want)
		}
	}
	if got := seqs(All(t, s.Log, 2, events.ClassDecision)); !slices.Equal(got, []uint64{5}) {
		t.Errorf("decisions after 2: %v, want 5", got)
	}
	Eventually(t, "three events of two classes", func() bool { return len(only.Got()) == 3 })
	if got := seqs(only.Got()); !slices.Equal(got, []uint64{2, 3, 5}) {
		t.Errorf("the follower of two classes got %v, want 2 3 5", got)
	}
}

func testCancel(t *testing.T, s Subject) {
	for i := range 5 {
		MustAppend(t, s.Log, Heartbeat("db1", i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	err := s.Log.Read(ctx, events.Query{Follow: true}, func(events.Event) error {
		if n++; n == 2 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 2 {
		t.Errorf("cancelled at the second event: %d events, %v; want 2 and context.Canceled", n, err)
	}
	if err := s.Log.Read(ctx, events.Query{}, func(events.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("read with a dead context: %v, want context.Canceled", err)
	}
	if _, err := s.Log.Append(ctx, Heartbeat("db1", 9)); !errors.Is(err, context.Canceled) {
		t.Errorf("append with a dead context: %v, want context.Canceled", err)
	}
	if n := last(t, s.Log); n != 5 {
		t.Errorf("the log ends at %d, want 5", n)
	}
}

func testReaderError(t *testing.T, s Subject) {
	for i := range 5 {
		MustAppend(t, s.Log, Heartbeat("db1", i))
	}
	enough := errors.New("enough")
	for _, follow := range []bool{false, true} {
		n := 0
		err := s.Log.Read(within(t), events.Query{Follow: follow}, func(events.Event) error {
			n++
			return enough
		})
		if !errors.Is(err, enough) || n != 1 {
			t.Errorf("follow=%v: %d events, error %v; want 1 event and the reader's own error", follow, n, err)
		}
	}
}
