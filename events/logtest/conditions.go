package logtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/interrex-ha/interrex/events"
)

func conflict(t *testing.T, log events.Log, d events.Draft, why string) {
	t.Helper()
	if e, err := log.Append(within(t), d); !errors.Is(err, events.ErrConflict) {
		t.Errorf("%s: got event %d, error %v; want ErrConflict", why, e.Seq, err)
	}
}

func testAtTail(t *testing.T, s Subject) {
	MustAppend(t, s.Log, Heartbeat("db1", 1))
	MustAppend(t, s.Log, Decision("c1", 1))
	MustAppend(t, s.Log, Heartbeat("db2", 2))
	conflict(t, s.Log, Decision("c1", 2), "an observation came between")
	conflict(t, s.Log, Decision("c1", 0), "from the beginning")
	conflict(t, s.Log, Decision("c1", 9), "from a tail that does not exist yet")
	if e := MustAppend(t, s.Log, Decision("c1", 3)); e.Seq != 4 {
		t.Errorf("the decision got sequence %d, want 4", e.Seq)
	}
	if n := last(t, s.Log); n != 4 {
		t.Errorf("the log ends at %d, want 4: a refused append was stored", n)
	}
}

// testAtTailRace: eight controllers decide from the same prefixes while an
// agent observes. Every decision must be based on exactly what precedes it, and
// nothing that was acknowledged may be missing.
func testAtTailRace(t *testing.T, s Subject) {
	const writers, wins = 8, 15
	ctx := within(t)
	var mu sync.Mutex
	acked := map[string]uint64{}
	note := func(e events.Event) {
		mu.Lock()
		defer mu.Unlock()
		acked[e.ID] = e.Seq
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			if err := decideOften(ctx, s.Log, fmt.Sprintf("c%d", w), wins, note); err != nil {
				t.Errorf("writer %d: %v", w, err)
			}
		})
	}
	wg.Go(func() {
		for i := range 40 {
			e, err := s.Log.Append(ctx, Heartbeat("db1", i))
			if err != nil {
				t.Errorf("heartbeat %d: %v", i, err)
				return
			}
			note(e)
		}
	})
	wg.Wait()
	all := All(t, s.Log, 0)
	if len(all) != len(acked) || len(all) != writers*wins+40 {
		t.Fatalf("%d events are stored, %d were acknowledged, want %d", len(all), len(acked), writers*wins+40)
	}
	for i, e := range all {
		if e.Seq != uint64(i+1) || acked[e.ID] != e.Seq {
			t.Fatalf("event %d of the log has sequence %d and was acknowledged as %d", i+1, e.Seq, acked[e.ID])
		}
		if d, ok := e.Data.(events.Decided); ok && d.BasedOn != e.Seq-1 {
			t.Fatalf("decision %d is based on %d: two won on one prefix", e.Seq, d.BasedOn)
		}
	}
}

func decideOften(ctx context.Context, log events.Log, name string, wins int, note func(events.Event)) error {
	for won := 0; won < wins; {
		tail, err := log.Last(ctx)
		if err != nil {
			return err
		}
		e, err := log.Append(ctx, Decision(name, tail))
		switch {
		case err == nil:
			won++
			note(e)
		case !errors.Is(err, events.ErrConflict):
			return err
		}
	}
	return nil
}

func renewal(decision uint64) events.Draft {
	d := Draft(events.LeaseRenewed{Term: 1, Grant: decision, Heartbeat: events.Heartbeat{Node: "db1", State: events.PostgresUp}})
	d.If = events.Condition{AtDecision: true, Seq: decision}
	return d
}

func testAtDecision(t *testing.T, s Subject) {
	MustAppend(t, s.Log, renewal(0)) // 1: no decision yet
	conflict(t, s.Log, renewal(1), "event 1 is no decision")
	MustAppend(t, s.Log, Decision("c1", 1))                               // 2
	MustAppend(t, s.Log, renewal(2))                                      // 3
	MustAppend(t, s.Log, Heartbeat("db2", 1))                             // 4: an observation does not matter
	MustAppend(t, s.Log, Draft(events.Declined{Controller: "c2"}))        // 5
	MustAppend(t, s.Log, Draft(events.DeadlineReached{Controller: "c2"})) // 6
	if e := MustAppend(t, s.Log, renewal(2)); e.Seq != 7 {
		t.Errorf("the renewal got sequence %d, want 7", e.Seq)
	}
	MustAppend(t, s.Log, Decision("c2", 7)) // 8: by another controller, on another subject
	conflict(t, s.Log, renewal(2), "another controller decided")
	conflict(t, s.Log, renewal(0), "decisions exist")
	MustAppend(t, s.Log, renewal(8))
	MustAppend(t, s.Log, Decision("c1", 9)) // 10
	conflict(t, s.Log, renewal(8), "the first controller decided again")
	MustAppend(t, s.Log, renewal(10))
}

func testBoth(t *testing.T, s Subject) {
	MustAppend(t, s.Log, Decision("c1", 0))
	both := func(seq uint64) events.Draft {
		d := renewal(seq)
		d.If.AtTail = true
		return d
	}
	MustAppend(t, s.Log, both(1))
	conflict(t, s.Log, both(1), "the tail moved")
	conflict(t, s.Log, both(2), "event 2 is no decision")
}

func testRepeated(t *testing.T, s Subject) {
	d := Heartbeat("db1", 1)
	first := MustAppend(t, s.Log, d)
	MustAppend(t, s.Log, Heartbeat("db2", 1))
	changed := d
	changed.Data = events.Heartbeat{Node: "db1", State: events.PostgresDown}
	for _, again := range []events.Draft{d, changed} {
		same(t, []events.Event{MustAppend(t, s.Log, again)}, []events.Event{first})
	}
	if n := last(t, s.Log); n != 2 {
		t.Errorf("the log ends at %d, want 2", n)
	}
}

// testRepeatedConflict: the acknowledgement of a swap got lost; the retry fails
// its condition because of the event itself, and must be told so.
func testRepeatedConflict(t *testing.T, s Subject) {
	MustAppend(t, s.Log, Heartbeat("db1", 1))
	decision := Decision("c1", 1)
	first := MustAppend(t, s.Log, decision)
	same(t, []events.Event{MustAppend(t, s.Log, decision)}, []events.Event{first})
	MustAppend(t, s.Log, Heartbeat("db1", 2))
	same(t, []events.Event{MustAppend(t, s.Log, decision)}, []events.Event{first})

	lease := renewal(2)
	renewed := MustAppend(t, s.Log, lease)
	MustAppend(t, s.Log, Decision("c2", 4))
	same(t, []events.Event{MustAppend(t, s.Log, lease)}, []events.Event{renewed})
	conflict(t, s.Log, renewal(2), "a new renewal of the old grant")
	if n := last(t, s.Log); n != 5 {
		t.Errorf("the log ends at %d, want 5", n)
	}
}
