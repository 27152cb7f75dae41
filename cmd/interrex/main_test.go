package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
)

// TestOnlyOurs: root gives a directory to another user; nothing but our own.
func TestOnlyOurs(t *testing.T) {
	for _, c := range []struct {
		files []string
		ours  bool
	}{
		{nil, true},
		{[]string{"up.lock"}, true},
		{[]string{"lost+found/"}, true},
		{[]string{"notes.txt"}, false},
		{[]string{"up.lock", "notes.txt"}, false},
		{[]string{"keys/"}, false},
		{[]string{"cluster.json", "db1/"}, true},
		{[]string{"half-made", "db1/"}, true},
		{[]string{"adopted.json", "shop/"}, true},
		{[]string{"keys/operator.nk", "up.lock", "shop/"}, true},
	} {
		dir := t.TempDir()
		for _, f := range c.files {
			make := filepath.Join(dir, filepath.Dir(f))
			if strings.HasSuffix(f, "/") {
				make = filepath.Join(dir, f)
			}
			if err := os.MkdirAll(make, 0o700); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(f, "/") {
				if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := onlyOurs(dir); (err == nil) != c.ours {
			t.Errorf("%q: ours should be %v, got %v", c.files, c.ours, err)
		}
	}
}

// TestOwnerLike: while a node is recovered its data directory has another name,
// and interrex up has to start all the same.
func TestOwnerLike(t *testing.T) {
	g := globals{dir: t.TempDir()}
	gone := config.Config{Nodes: []config.Node{{DataDirectory: g.dir}, {ID: 1, DataDirectory: filepath.Join(g.dir, "data")}}}
	if _, err := g.ownerLike(gone); err == nil || !strings.Contains(err.Error(), "INTERREX_NODE_1_DATA_DIRECTORY") {
		t.Errorf("a data directory that is not there: %v", err)
	}
	if err := os.WriteFile(takenFile(g.dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if like, err := g.ownerLike(gone); err != nil || like != takenFile(g.dir) {
		t.Errorf("of a cluster that was taken over: %q, %v", like, err)
	}
}

// TestLogSilent: the process that log.json names lives, and is not interrex up,
// as after a boot.
func TestLogSilent(t *testing.T) {
	g := globals{dir: t.TempDir()}
	if err := natslog.EnsureKeys(keysDir(g.dir)); err != nil {
		t.Fatal(err)
	}
	if err := writeAddress(g.dir, address{URL: "nats://127.0.0.1:1", Cluster: "main", PID: os.Getpid()}); err != nil {
		t.Fatal(err)
	}
	log, err := g.openLogWithin(t.Context(), 100*time.Millisecond, natslog.RoleReader, "test")
	if err == nil {
		log.Close()
		t.Fatal("a log was found")
	}
	for _, w := range []string{"nats://127.0.0.1:1", strconv.Itoa(os.Getpid()), "log.json", "interrex up --dir " + g.dir} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is missing in: %v", w, err)
		}
	}
}

// TestMoved: a verb that moves the primary says what came of it, whoever it is.
func TestMoved(t *testing.T) {
	state := func(phase events.Phase, term uint64, primary string) fsm.State {
		return fsm.State{Phase: phase, Term: term, Primary: primary}
	}
	for _, c := range []struct {
		name   string
		to     string
		states []fsm.State
		want   string
		ok     bool
	}{
		{"as asked", "db2", []fsm.State{state(events.Fencing, 1, "db1"), state(events.Healthy, 2, "db2")}, "db2 is the primary of term 2", true},
		{"any", "", []fsm.State{state(events.Fencing, 1, "db1"), state(events.Healthy, 2, "db3")}, "db3 is the primary of term 2", true},
		{"another", "db2", []fsm.State{state(events.Fencing, 1, "db1"), state(events.Healthy, 2, "db3")}, "db3 took over, in term 2, and not db2", false},
		{"itself", "", []fsm.State{state(events.Fencing, 1, "db1"), state(events.Healthy, 2, "db1")}, "db1 took over again, in term 2", false},
		{"accepted, out of a stall", "db2", []fsm.State{state(events.Promoting, 5, "db2"), state(events.Healthy, 5, "db2")}, "db2 is the primary of term 5", true},
		{"nothing came of it", "", []fsm.State{state(events.Switching, 1, "db1"), state(events.Healthy, 1, "db1")}, "db1 still is the primary", false},
		{"stalled", "", []fsm.State{state(events.Fencing, 1, "db1"), state(events.Stalled, 1, "db1")}, "stalled", false},
	} {
		over := moved("failover", c.to)
		var said string
		var err error
		for _, s := range c.states {
			said, err = over(events.Event{}, s, 1)
		}
		if err != nil {
			said = err.Error()
		}
		if (err == nil) != c.ok || !strings.Contains(said, c.want) {
			t.Errorf("%s: %q, error %v; expected %q", c.name, said, err, c.want)
		}
	}
}

// TestAttached: a node that was detached may follow a primary of the past.
func TestAttached(t *testing.T) {
	n := fsm.Node{Member: events.Member{Name: "db2"}}
	n.PG = events.PostgresSeen{State: events.PostgresUp, InRecovery: true, Receiver: "streaming", Upstream: "db1"}
	s := fsm.State{Primary: "db1", Nodes: []fsm.Node{n}}
	if said := attached("db2", s); said != "db2 attached" {
		t.Errorf("a node that streams: %q", said)
	}
	s.Primary = "db3"
	if said := attached("db2", s); !strings.Contains(said, "interrex recover db2") {
		t.Errorf("a node that follows another: %q", said)
	}
}

func TestQuantile(t *testing.T) {
	var v []time.Duration
	for i := 20; i >= 1; i-- {
		v = append(v, time.Duration(i)*100)
	}
	for q, want := range map[float64]time.Duration{0: 100, 0.5: 1050, 0.95: 1905, 1: 2000} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile %v of 1 to 20 (× 100) is %d, expected %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

// TestBenchFailed: a row that ended early says so, and shows no figure that was
// not measured.
func TestBenchFailed(t *testing.T) {
	b := bench{rows: []row{
		{Fault: "A", Nodes: 2, Load: "idle", Failed: "run 1: it broke", Floor: time.Second},
		{Fault: "B", Nodes: 2, Load: "idle", Values: []time.Duration{time.Second}, Note: "medians", Failed: "run 2: a|b\nc"},
		{Fault: "C", Nodes: 2, Load: "idle"},
	}}
	var out strings.Builder
	b.print(&out, time.Now())
	for _, want := range []string{
		"| A | 2 | idle | 0 | – | – | – | – |  | 0 |  | **FAILED**: run 1: it broke |",
		"| B | 2 | idle | 1 | 1000.0 ms | 1000.0 ms | 1000.0 ms | 1000.0 ms |  | 0 |  | medians; **FAILED**: run 2: a/b; c |",
		"| C | 2 | idle | 0 | – | – | – | – |  | 0 |  | **not measured** |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nis missing in\n%s", want, out.String())
		}
	}
}

// TestSubscriberCommand: the line can be pasted, and an old directory is told.
func TestSubscriberCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's here")
	g := globals{dir: dir}
	said := func(args ...string) (string, string, int) {
		var out, complaints strings.Builder
		code := run(t.Context(), append([]string{"subscriber", "--dir", dir}, args...), &out, &complaints)
		return out.String(), complaints.String(), code
	}
	if _, complaint, code := said(); code != exitFailed || !strings.Contains(complaint, "interrex up") {
		t.Errorf("without a cluster: %d, %s", code, complaint)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeAddress(g.dir, address{URL: "nats://127.0.0.1:4222", Cluster: "shop", PID: os.Getpid()}); err != nil {
		t.Fatal(err)
	}
	if _, complaint, code := said(); code != exitFailed || !strings.Contains(complaint, "subscriber.nk") {
		t.Errorf("without a key: %d, %s", code, complaint)
	}
	if err := natslog.EnsureKeys(keysDir(dir)); err != nil {
		t.Fatal(err)
	}
	want := "nats sub --server nats://127.0.0.1:4222 --nkey '" + strings.ReplaceAll(dir, "'", `'\''`) + "/keys/subscriber.nk' 'interrex.shop.decision.>'\n"
	if line, complaint, code := said(); line != want || code != exitDone {
		t.Errorf("got %s%s\nwant %s", line, complaint, want)
	}
	if text, _, code := said("--output", "json"); code != exitDone || !strings.Contains(text, `"subject": "interrex.shop.decision.>"`) {
		t.Errorf("as JSON: %d, %s", code, text)
	}
}
