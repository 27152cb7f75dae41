package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
)

// started runs an agent; it returns its end, and a way to tell it to stop.
func started(t *testing.T, cfg Config) (a *Agent, stop func(), ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, done := New(cfg), make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	over := make(chan error, 1)
	go func() { over <- <-done }()
	t.Cleanup(cancel)
	return a, cancel, over
}

// ends waits for the end of Run.
func ends(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(leaveWithin + 10*time.Second):
		t.Fatal("the agent does not end")
		return nil
	}
}

// TestRun: an agent says that it is here and what it sees, and says when it goes.
func TestRun(t *testing.T) {
	log := memlog.New()
	cfg := config(t, log)
	a, stop, ended := started(t, cfg)
	until(t, "it says that PostgreSQL is down", func() bool { return len(logged[events.PostgresSeen](t, log)) > 0 })
	if d := logged[events.AgentStarted](t, log); len(d) != 1 || d[0].Node != "db1" || d[0].Incarnation != a.incarnation || d[0].Fence != "" {
		t.Errorf("started: %+v", d)
	}
	if d := logged[events.PostgresSeen](t, log)[0]; d.State != events.PostgresDown {
		t.Errorf("seen: %+v", d)
	}
	until(t, "a heartbeat", func() bool { return len(logged[events.Heartbeat](t, log)) > 0 })
	second, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := New(cfg).Run(second); err == nil {
		t.Error("two agents stand for one node")
	}
	stop()
	if err := ends(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if d := logged[events.AgentStopped](t, log); len(d) != 1 {
		t.Errorf("stopped: %+v", d)
	}
	// What was posted too late, or is asked now, must not wait for ever.
	a.do(func() { t.Error("run after the end") })
	if err := a.mayWrite(1); !errors.Is(err, errLeft) {
		t.Errorf("asked after the end: %v", err)
	}
	if a.heldTerm() != 0 {
		t.Error("a term after the end")
	}
}

// TestLeaveWithoutALog: an agent that cannot reach the log, not even to say that
// it is here, still turns and can be told to go.
func TestLeaveWithoutALog(t *testing.T) {
	log := &flaky{Log: memlog.New()}
	log.set(func(context.Context, events.Draft) error { return events.ErrUnavailable }, nil)
	cfg := config(t, log)
	boot := time.Now()
	a, stop, ended := started(t, cfg)
	until(t, "it has turned for a while", func() bool { return time.Since(boot) > 1200*time.Millisecond })
	probe := make(chan time.Duration, 1)
	a.do(func() { probe <- a.leaseFile.AgentIdle() })
	if idle := <-probe; idle > 2*turnEvery {
		t.Errorf("its loop stood still for %s while the log was away", idle)
	}
	stop()
	if err := ends(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// TestOrdersOfAnEarlierRun: what was ordered while no agent was here is taken up,
// and what is already answered is not.
func TestOrdersOfAnEarlierRun(t *testing.T) {
	log := memlog.New()
	done := make(chan uint64, 10)
	replace(t, events.ActClean, func(_ context.Context, p pending) (outcome, error) {
		done <- p.decision
		return outcome{}, nil
	})
	order := []events.Order{{Do: events.ActClean, Node: "db1", Term: 1}}
	first := put(t, log, events.Decided{Controller: "c1", BasedOn: 0, Term: 1, Primary: "db2", Orders: order})
	put(t, log, events.OrderDone{OrderRef: events.OrderRef{Node: "db1", Decision: first.Seq, Action: events.ActClean, Term: 1}})
	second := put(t, log, events.Decided{Controller: "c1", BasedOn: 2, Previous: first.Seq, Term: 1, Primary: "db2", Orders: order})
	_, stop, ended := started(t, config(t, log))
	until(t, "the order is carried out", func() bool { return len(logged[events.OrderDone](t, log)) == 2 })
	if n := <-done; n != second.Seq || len(done) > 0 {
		t.Errorf("carried out: the order of decision %d, and %d more", n, len(done))
	}
	stop()
	_ = ends(t, ended)
}

// TestRegressedLog: an agent that has seen more than the log holds does nothing.
func TestRegressedLog(t *testing.T) {
	for name, state := range map[string]string{
		"ends too early": `{"node":"db1","seq":50,"id":"x","term":3}`,
		"another event":  `{"node":"db1","seq":1,"id":"x","term":3}`,
	} {
		t.Run(name, func(t *testing.T) {
			log := memlog.New()
			put(t, log, events.Decided{Controller: "c1", Term: 1, Primary: "db1", Grant: &events.Grant{Term: 1, Node: "db1"}})
			cfg := config(t, log)
			if err := os.WriteFile(filepath.Join(cfg.Dir, "journal.json"), []byte(state), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, ended := started(t, cfg)
			if err := ends(t, ended); !errors.Is(err, ErrRegressed) || !strings.Contains(err.Error(), "journal.json") {
				t.Errorf("it ended with %v", err)
			}
			if d := logged[events.LeaseAcquired](t, log); len(d) > 0 {
				t.Error("it took a lease from a log that went backwards")
			}
		})
	}
}
