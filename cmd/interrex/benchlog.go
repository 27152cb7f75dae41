package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/controller"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
)

// latencyRuns is how many requests the log's latency is measured with.
const latencyRuns = 300

// timed is a Log that remembers when each event was stored.
type timed struct {
	events.Log
	mu     sync.Mutex
	stored map[uint64]time.Time // by the request that a decision answers
}

func (t *timed) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	e, err := t.Log.Append(ctx, d)
	if x, ok := d.Data.(events.Decided); ok && err == nil {
		t.mu.Lock()
		t.stored[x.Request] = time.Now()
		t.mu.Unlock()
	}
	return e, err
}

func (t *timed) at(request uint64) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.stored[request]
	return at, ok
}

// measureLog measures the way from an event to the decision that it causes, and
// the fold.
func (b *bench) measureLog() error {
	b.say("the log: event to decision, fold")
	dir, err := os.MkdirTemp("", "interrex-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sync := syncTimes(dir)
	latency, err := b.decisionLatency(dir)
	if err != nil {
		return err
	}
	rate := foldRate()
	b.notes = append(b.notes,
		fmt.Sprintf("Event stored → decision stored, %d runs: p50 %s, p99 %s; fsync of 400 bytes on that disk: p50 %s, p99 %s (bars: p50 ≤ fsync + 1 ms, p99 ≤ fsync + 5 ms).",
			len(latency), ms(quantile(latency, 0.5)), ms(quantile(latency, 0.99)), ms(quantile(sync, 0.5)), ms(quantile(sync, 0.99))),
		fmt.Sprintf("Fold without decoding, one core: %.2f M events/s (bar ≥ 1 M). Replay from the stored log: `go test -bench Replay ./events/natslog`.", rate/1e6))
	return nil
}

// syncTimes measures a small append with fsync.
func syncTimes(dir string) []time.Duration {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []time.Duration
	buf := make([]byte, 400)
	for range latencyRuns {
		began := time.Now()
		if _, err := f.Write(buf); err != nil || f.Sync() != nil {
			return out
		}
		out = append(out, time.Since(began))
	}
	return out
}

// decisionLatency runs a log and a controller and asks for pauses, which are
// decided at once.
func (b *bench) decisionLatency(dir string) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	keys := filepath.Join(dir, "keys")
	if err := natslog.EnsureKeys(keys); err != nil {
		return nil, err
	}
	srv, err := natslog.StartServer(natslog.ServerOptions{Cluster: "bench", StoreDir: filepath.Join(dir, "log"), KeysDir: keys})
	if err != nil {
		return nil, err
	}
	defer srv.Shutdown()
	dial := func(role natslog.Role) (*natslog.Log, error) {
		return natslog.Dial(ctx, natslog.DialOptions{URL: srv.URL(), KeyFile: natslog.KeyFile(keys, role), Cluster: "bench", Name: string(role)})
	}
	deciding, err := dial(natslog.RoleController)
	if err != nil {
		return nil, err
	}
	defer deciding.Close()
	asking, err := dial(natslog.RoleOperator)
	if err != nil {
		return nil, err
	}
	defer asking.Close()
	seeing, err := dial(natslog.RoleAgent)
	if err != nil {
		return nil, err
	}
	defer seeing.Close()
	if err := oneNodeStory(ctx, asking, seeing); err != nil {
		return nil, err
	}
	t := &timed{Log: deciding, stored: map[uint64]time.Time{}}
	began := time.Now()
	c := &controller.Controller{Log: t, ID: "bench", Now: func() time.Duration { return time.Since(began) }, Wall: time.Now, Logger: b.g.logger(b.log, "bench")}
	go func() { _ = c.Run(ctx) }()
	return askPauses(ctx, asking, t)
}

func askPauses(ctx context.Context, asking events.Log, t *timed) ([]time.Duration, error) {
	var out []time.Duration
	r := request("bench")
	for i := range latencyRuns + 1 {
		e, err := appendAs(ctx, asking, "operator/bench", events.PauseRequested{Request: r, For: events.Duration(time.Hour)})
		if err != nil {
			return nil, err
		}
		stored := time.Now()
		for {
			if at, ok := t.at(e.Seq); ok {
				if i > 0 { // the first waits for the controller to start
					out = append(out, max(0, at.Sub(stored)))
				}
				break
			}
			if time.Since(stored) > 10*time.Second {
				return nil, fmt.Errorf("request %d was not decided within 10 s", e.Seq)
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	return out, nil
}

// oneNodeStory writes what makes a cluster of one node healthy.
func oneNodeStory(ctx context.Context, asking, seeing events.Log) error {
	p := events.DefaultPolicy()
	node := events.Member{Name: "db1", Host: "127.0.0.1", Port: 1, Weight: 1000}
	for _, step := range []struct {
		log  events.Log
		data events.Data
	}{
		{asking, events.ClusterFormed{Cluster: "bench", Members: []events.Member{node}, Actor: "bench"}},
		{asking, events.RulesActivated{RuleSet: events.RuleSet, Actor: "bench"}},
		{asking, events.PolicySet{Policy: p, Hash: p.Hash(), Actor: "bench", Who: "bench"}},
		{seeing, events.AgentStarted{Node: "db1", PID: 1}},
		{seeing, events.PostgresSeen{Node: "db1", State: events.PostgresUp, Timeline: 1, SystemID: "1"}},
	} {
		if _, err := appendAs(ctx, step.log, "bench", step.data); err != nil {
			return err
		}
	}
	return nil
}

// foldRate folds a stream of heartbeats and renewals, decoded beforehand.
func foldRate() float64 {
	const n = 500_000
	node := events.Member{Name: "db1", Host: "127.0.0.1", Port: 1, Weight: 1000}
	body := make([]byte, 200)
	f := fsm.NewFolder()
	_ = f.Fold(events.Event{Seq: 1, Data: events.ClusterFormed{Cluster: "bench", Members: []events.Member{node}}, Body: body})
	id := uuid.NewString()
	began := time.Now()
	for i := range uint64(n) {
		h := events.Heartbeat{Node: "db1", State: events.PostgresUp, LSN: events.LSN(i)}
		var d events.Data = h
		if i%2 == 0 {
			d = events.LeaseRenewed{Term: 1, Grant: 1, Heartbeat: h}
		}
		_ = f.Fold(events.Event{Seq: i + 2, ID: id, Source: "agent/db1", Version: 1, Data: d, Body: body})
	}
	return n / time.Since(began).Seconds()
}
