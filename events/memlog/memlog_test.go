package memlog_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/logtest"
	"github.com/interrex-ha/interrex/events/memlog"
)

func TestLog(t *testing.T) {
	logtest.Run(t, func(*testing.T) logtest.Subject { return logtest.Subject{Log: memlog.New()} })
}

func TestUnavailable(t *testing.T) {
	log := memlog.New()
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 1))
	follower := logtest.Follow(t, log, events.Query{})
	logtest.Eventually(t, "the first event", func() bool { return len(follower.Got()) == 1 })
	log.SetUnavailable(true)
	if _, err := log.Append(t.Context(), logtest.Heartbeat("db1", 2)); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("append: %v, want ErrUnavailable", err)
	}
	if _, err := log.Last(t.Context()); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("last: %v, want ErrUnavailable", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := log.Read(ctx, events.Query{}, func(events.Event) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a bounded read of an unavailable log: %v, want it to wait until its deadline", err)
	}
	log.SetUnavailable(false)
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 2))
	logtest.Eventually(t, "the second event", func() bool { return len(follower.Got()) == 2 })
}

func TestLoad(t *testing.T) {
	source := memlog.New()
	logtest.MustAppend(t, source, logtest.Heartbeat("db1", 1))
	logtest.MustAppend(t, source, logtest.Decision("c1", 1))
	logtest.MustAppend(t, source, logtest.Heartbeat("db1", 2))
	recorded := logtest.All(t, source, 1)

	log := memlog.New()
	if err := log.Load(recorded...); err != nil {
		t.Fatal(err)
	}
	if got := logtest.All(t, log, 0); len(got) != 2 || got[0].Seq != 2 || got[1].Seq != 3 {
		t.Fatalf("loaded events came back as %+v", got)
	}
	if e := logtest.MustAppend(t, log, logtest.Decision("c1", 3)); e.Seq != 4 {
		t.Errorf("the log went on at %d, want 4", e.Seq)
	}
	if err := log.Load(recorded[0]); err == nil {
		t.Error("an event from the past was loaded behind the tail")
	}
	taken := recorded[0]
	taken.Seq = 9
	if err := log.Load(taken); err == nil {
		t.Error("an ID that is taken was loaded again")
	}
	if err := log.Load(events.Event{Seq: 10, ID: "x"}); err == nil {
		t.Error("an event without data was loaded")
	}
}
