package controller

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/fsm"
)

// The tests run in a bubble of testing/synctest: the time is made up, so that a
// wait of three seconds takes none and is exact.

// run is one controller under test.
type run struct {
	t      *testing.T
	c      *Controller
	cancel context.CancelFunc
	ended  chan error
	jump   *time.Duration // added to its clock

	mu    sync.Mutex
	state fsm.State
}

// begin starts a controller; it is stopped with the test.
func begin(t *testing.T, log events.Log, id string, change ...func(*Controller)) *run {
	t.Helper()
	r := &run{t: t, ended: make(chan error, 1), jump: new(time.Duration), state: fsm.Initial()}
	born := time.Now()
	r.c = &Controller{
		Log: log, ID: id, Wall: time.Now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: func() time.Duration {
			r.mu.Lock()
			defer r.mu.Unlock()
			return time.Since(born) + *r.jump
		},
		Seen: func(_ events.Event, s fsm.State) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.state = s
		},
	}
	for _, f := range change {
		f(r.c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.ended <- r.c.Run(ctx) }()
	return r
}

// stop ends it and returns what Run said.
func (r *run) stop() error {
	r.cancel()
	return <-r.ended
}

func (r *run) now() fsm.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *run) freeze(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.jump += d
}

// tell appends facts.
func tell(t *testing.T, log events.Log, data ...events.Data) (last events.Event) {
	t.Helper()
	for _, d := range data {
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		if last, err = log.Append(t.Context(), events.Draft{ID: id.String(), Time: time.Now(), Source: "agent/test", Data: d}); err != nil {
			t.Fatalf("append %s: %v", d.Kind(), err)
		}
	}
	return last
}

// all returns the whole log.
func all(t *testing.T, log events.Log) []events.Event {
	t.Helper()
	var out []events.Event
	if err := log.Read(t.Context(), events.Query{}, func(e events.Event) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// of returns the events of one type, in order.
func of[T events.Data](es []events.Event) (out []T) {
	for _, e := range es {
		if d, ok := e.Data.(T); ok {
			out = append(out, d)
		}
	}
	return out
}

func members(n int) []events.Member {
	names := []string{"db1", "db2", "db3"}
	var out []events.Member
	for i := range n {
		out = append(out, events.Member{ID: i, Name: names[i], Host: "127.0.0.1", Port: 5432 + i, DataDir: "/data/" + names[i], Weight: 1000})
	}
	return out
}

func primarySeen(node string) events.PostgresSeen {
	return events.PostgresSeen{Node: node, State: events.PostgresUp, PID: 7, Timeline: 1, SystemID: "sys", Version: 150000, LSN: 1000}
}

func standbySeen(node, of string) events.PostgresSeen {
	d := primarySeen(node)
	d.InRecovery, d.Receiver, d.Upstream = true, "streaming", of
	return d
}

func agentStarted(node string) events.AgentStarted {
	return events.AgentStarted{Node: node, PID: 1, Incarnation: node + "-run", BootID: "boot", Fence: "guardian"}
}

// found is what the agents of a cluster that was just made say: db1 takes writes.
func found(nodes int) []events.Data {
	p := events.DefaultPolicy()
	out := []events.Data{
		events.ClusterFormed{Cluster: "shop", Members: members(nodes), Created: true, Actor: "test"},
		events.RulesActivated{RuleSet: events.RuleSet, Actor: "test"},
		events.PolicySet{Policy: p, Hash: p.Hash(), Actor: "test", Who: "test"},
	}
	for i, m := range members(nodes) {
		out = append(out, agentStarted(m.Name))
		if i == 0 {
			out = append(out, primarySeen(m.Name))
		} else {
			out = append(out, standbySeen(m.Name, "db1"))
		}
	}
	return out
}

// serve makes db1 take its lease and settle; the controller must have named it.
func serve(t *testing.T, log events.Log, r *run) {
	t.Helper()
	until(t, "db1 is named", func() bool { return r.now().Primary == "db1" })
	g := r.now().Grant
	tell(t, log,
		events.LeaseAcquired{Node: "db1", Term: g.Term, Grant: g.Seq, Fence: "guardian", Incarnation: "db1-run", BootID: "boot"},
		events.OrderDone{OrderRef: events.OrderRef{Node: "db1", Decision: g.Seq, Action: events.ActSettle, Term: g.Term}})
	until(t, "the cluster is healthy", func() bool { return r.now().Phase == events.Healthy })
	renew(t, log, r)
}

// renew renews the primary's lease under the newest grant.
func renew(t *testing.T, log events.Log, r *run) events.Event {
	t.Helper()
	g := r.now().Grant
	e := tell(t, log, events.LeaseRenewed{Term: g.Term, Grant: g.Seq, Heartbeat: events.Heartbeat{Node: g.Node, State: events.PostgresUp, LSN: 1000}})
	until(t, "the renewal is folded", func() bool { return r.now().Seq >= e.Seq })
	return e
}

// until lets the made-up time pass until ok, a minute at most.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 60_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("not within a minute: %s", what)
}

// rung returns the first deadline of a name that was reached after seq.
func rung(t *testing.T, log events.Log, name string, after uint64) (events.DeadlineReached, events.Event) {
	t.Helper()
	var e events.Event
	until(t, "deadline "+name, func() bool {
		es := all(t, log)
		i := slices.IndexFunc(es, func(e events.Event) bool {
			d, ok := e.Data.(events.DeadlineReached)
			return ok && d.Name == name && e.Seq > after
		})
		if i >= 0 {
			e = es[i]
		}
		return i >= 0
	})
	return e.Data.(events.DeadlineReached), e
}

// hooked is a log in memory whose answers a test can change.
type hooked struct {
	*memlog.Log
	mu        sync.Mutex
	onAppend  func(events.Draft, events.Event, error) (events.Event, error)
	onLast    func(uint64) uint64
	connected bool
}

func hook() *hooked { return &hooked{Log: memlog.New(), connected: true} }

func (h *hooked) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	e, err := h.Log.Append(ctx, d)
	h.mu.Lock()
	f := h.onAppend
	h.mu.Unlock()
	if f != nil {
		return f(d, e, err)
	}
	return e, err
}

func (h *hooked) Last(ctx context.Context) (uint64, error) {
	seq, err := h.Log.Last(ctx)
	if h.onLast != nil {
		seq = h.onLast(seq)
	}
	return seq, err
}

func (h *hooked) Connected() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connected
}

func (h *hooked) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}
