package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/probes"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// config is of an agent whose PostgreSQL is a directory that nobody serves.
func config(t *testing.T, log events.Log) Config {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	return Config{
		Node: "db1", Dir: dir, Log: log, Version: "test", Logger: quiet,
		Postgres: executors.Postgres{Runner: local.New(), Node: "db1", DataDir: data, BinDir: "/nowhere", SocketDir: dir, Port: 1, User: "postgres"},
		Upstream: func(string) (executors.Upstream, error) { return executors.Upstream{}, fmt.Errorf("no upstream here") },
	}
}

// still returns an agent whose loop does not turn by itself: the test calls what
// the loop would, and carry runs what others post to it. Nothing leaves its
// outbox.
func still(t *testing.T, log events.Log) *Agent {
	t.Helper()
	a := New(config(t, log))
	var err error
	if a.journal, err = openJournal(a.cfg.Dir, a.cfg.Node); err != nil {
		t.Fatal(err)
	}
	if a.leaseFile, err = OpenLease(LeasePath(a.cfg.Dir), "boot"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What still kills looks for a directory by its inode, which the next
		// test's may get.
		carry(t, a, "nothing is under way any more", func() bool { return !a.expecting() })
		close(a.ended)
		a.leaseFile.Close()
	})
	a.prober = probes.New(probes.Config{DSN: a.cfg.Postgres.DSN("interrex-test")})
	a.out = newOutbox(log, "agent/db1", quiet)
	a.view.ready = true
	return a
}

// carry runs what is posted to the loop until ok.
func carry(t *testing.T, a *Agent, what string, ok func() bool) {
	t.Helper()
	end := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case fn := <-a.post:
			fn()
		case <-tick.C:
		case <-end:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// until polls.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// said returns what waits in the outbox, of one type.
func said[T events.Data](a *Agent) (out []T) {
	a.out.mu.Lock()
	defer a.out.mu.Unlock()
	for _, l := range a.out.queue {
		if d, ok := l.draft.Data.(T); ok {
			out = append(out, d)
		}
	}
	return out
}

// logged returns what a log holds, of one type.
func logged[T events.Data](t *testing.T, log events.Log) (out []T) {
	t.Helper()
	err := log.Read(t.Context(), events.Query{}, func(e events.Event) error {
		if d, ok := e.Data.(T); ok {
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func put(t *testing.T, log events.Log, d events.Data) events.Event {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	e, err := log.Append(t.Context(), events.Draft{ID: id.String(), Time: time.Now(), Source: "controller/c1", Data: d})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// decide appends a valid decision and lets the agent hear it.
func decide(t *testing.T, a *Agent, d events.Decided) events.Event {
	t.Helper()
	log := a.cfg.Log.(*memlog.Log)
	tail, err := log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Controller, d.BasedOn, d.Previous = "c1", tail, a.view.lastDecision
	e := put(t, log, d)
	a.hear(t.Context(), e)
	return e
}

// grant names a node primary of a term.
func grant(term uint64, node string, stay bool, orders ...events.Order) events.Decided {
	for i := range orders {
		orders[i].Term = term
	}
	return events.Decided{
		From: events.Healthy, To: events.Promoting, Term: term, Primary: node,
		Grant: &events.Grant{Term: term, Node: node, Stay: stay}, Orders: orders,
	}
}

// server stands for a PostgreSQL: a process that works in the data directory.
// With a lock file it is found as the postmaster.
type server struct {
	pid   int
	ended chan struct{}
}

func serveIn(t *testing.T, dataDir string, lock bool) *server {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "sleep", "600")
	cmd.Dir = dataDir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-s.ended
	})
	if lock {
		text := fmt.Sprintf("%d\n%s\n%d\n1\n\n\n", s.pid, dataDir, time.Now().Unix())
		if err := os.WriteFile(filepath.Join(dataDir, "postmaster.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *server) dead() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// attached makes the agent watch a server that takes writes.
func attached(t *testing.T, a *Agent) *server {
	t.Helper()
	s := serveIn(t, a.cfg.Postgres.DataDir, true)
	until(t, "the process works in the data directory", func() bool { a.attach(); return a.watcher != nil })
	a.fact.State = events.PostgresUp
	return s
}

// has the lease of a term, as if the log had acknowledged it just now.
func has(t *testing.T, a *Agent, term uint64) {
	t.Helper()
	decide(t, a, grant(term, "db1", false))
	now := Now()
	var n uint64
	a.lease, n, _ = a.lease.Send(now, a.terms())
	a.answered(n, events.LeaseAcquired{}, nil, now)
	if !a.lease.Held {
		t.Fatal("the lease was not taken")
	}
}

func fileHeld(a *Agent) bool {
	v, ok := a.leaseFile.Read()
	return !ok || v.Held
}
