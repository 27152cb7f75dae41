package natslog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/logtest"
)

// childEnv makes this test binary a log server: "<store>:<keys>".
const childEnv = "INTERREX_TEST_LOG_SERVER"

func TestMain(m *testing.M) {
	if where := os.Getenv(childEnv); where != "" {
		os.Exit(serve(where))
	}
	os.Exit(m.Run())
}

// serve runs a server until its standard input ends or it is killed.
func serve(where string) int {
	store, keys, _ := strings.Cut(where, ":")
	s, err := StartServer(ServerOptions{Cluster: "demo", StoreDir: store, KeysDir: keys})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	return 0
}

// child starts a server process and returns it with its URL. Its standard input
// is a pipe of ours, so that it never outlives the test.
func child(t *testing.T, p place) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+p.store+":"+p.keys)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server process did not say its URL: %v", err)
	}
	return cmd, strings.TrimSpace(url)
}

// TestKilledServerKeepsWhatItAcknowledged kills the server process in the middle
// of appends, three times over.
func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	p := newPlace(t)
	var url atomic.Value
	cmd, at := child(t, p)
	url.Store(at)
	locate := func(o *DialOptions) {
		o.Locate = func() (string, error) { return url.Load().(string), nil }
	}
	log := dialAs(t, p, RoleAgent, locate)
	follower := logtest.Follow(t, log, events.Query{})
	ctx, stop := context.WithCancel(t.Context())
	acked := map[string]uint64{}
	var mu sync.Mutex
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			appendUntilAcked(ctx, log, logtest.Heartbeat("db1", i), func(e events.Event) {
				mu.Lock()
				defer mu.Unlock()
				acked[e.ID] = e.Seq
			})
		}
	})
	for range 3 {
		before := count()
		logtest.Eventually(t, "50 more acknowledged appends", func() bool { return count() >= before+50 })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		cmd, at = child(t, p)
		url.Store(at)
	}
	before := count()
	logtest.Eventually(t, "50 more after the last kill", func() bool { return count() >= before+50 })
	stop()
	wg.Wait()
	stored := logtest.All(t, log, 0)
	checkHistory(t, stored, acked)
	logtest.Eventually(t, "the follower has everything", func() bool { return len(follower.Got()) >= len(stored) })
	for i, e := range follower.Got()[:len(stored)] {
		if e.Seq != stored[i].Seq || e.ID != stored[i].ID {
			t.Fatalf("the follower's event %d is %d %s, stored is %d %s", i, e.Seq, e.ID, stored[i].Seq, stored[i].ID)
		}
	}
}

// appendUntilAcked retries with the same ID, as an agent does.
func appendUntilAcked(ctx context.Context, log events.Log, d events.Draft, acked func(events.Event)) {
	for ctx.Err() == nil {
		e, err := log.Append(ctx, d)
		if err == nil {
			acked(e)
			return
		}
		if !errors.Is(err, events.ErrUnavailable) {
			return
		}
		_ = pause(ctx, 2*time.Millisecond)
	}
}

// checkHistory: sequences without a gap, every ID once, every acknowledged
// event where it was acknowledged.
func checkHistory(t *testing.T, stored []events.Event, acked map[string]uint64) {
	t.Helper()
	at := map[string]uint64{}
	for i, e := range stored {
		if e.Seq != uint64(i+1) {
			t.Fatalf("event %d has sequence %d", i+1, e.Seq)
		}
		if twice, ok := at[e.ID]; ok {
			t.Fatalf("%s is stored as %d and as %d", e.ID, twice, e.Seq)
		}
		at[e.ID] = e.Seq
	}
	for id, seq := range acked {
		if at[id] != seq {
			t.Errorf("%s was acknowledged as %d and is stored as %d", id, seq, at[id])
		}
	}
	if len(stored) > len(acked)+1 { // one may have been in flight at the end
		t.Errorf("%d events are stored, %d were acknowledged", len(stored), len(acked))
	}
}

// TestServerMoves: a clean restart on another port, with a reader and a writer.
func TestServerMoves(t *testing.T) {
	p := newPlace(t)
	first := p.start(t)
	var url atomic.Value
	url.Store(first.URL())
	log := dialAll(t, p, func(o *DialOptions) { o.Locate = func() (string, error) { return url.Load().(string), nil } })
	lease := log.as[events.ClassLease]
	follower := logtest.Follow(t, log, events.Query{Classes: []events.Class{events.ClassHealth}})
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 1))
	logtest.MustAppend(t, log, logtest.Decision("c1", 1))
	logtest.Eventually(t, "the first event", func() bool { return len(follower.Got()) == 1 })
	first.Shutdown()
	logtest.Eventually(t, "the loss is noticed", func() bool { return !lease.Connected() })
	start := time.Now()
	if _, err := log.Append(t.Context(), logtest.Heartbeat("db1", 2)); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("append without a server: %v, want ErrUnavailable", err)
	}
	if took := time.Since(start); took > 2*defaultDeadline {
		t.Errorf("ErrUnavailable took %s", took)
	}
	second := p.start(t)
	if second.URL() == first.URL() {
		t.Logf("the port happens to be the same: %s", second.URL())
	}
	url.Store(second.URL())
	logtest.Eventually(t, "the connection is back", lease.Connected)
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 3))
	logtest.Eventually(t, "the follower goes on", func() bool { return len(follower.Got()) == 2 })
	if got := follower.Got(); got[0].Seq != 1 || got[1].Seq != 3 {
		t.Errorf("the follower got %d and %d, want 1 and 3", got[0].Seq, got[1].Seq)
	}
}

// TestRegressed: an older store takes the place of the one that was read from.
func TestRegressed(t *testing.T) {
	for name, c := range map[string]struct {
		before, after int
		says          string
	}{
		"shorter":           {5, 2, "event 5 was read from it, but it now ends at 2"},
		"another, as long":  {5, 5, "event 5 was"},
		"another, longer":   {5, 9, "event 5 was"},
		"another, filtered": {3, 9, "event 3 was"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			first := p.start(t)
			var url atomic.Value
			url.Store(first.URL())
			log := dialAs(t, p, RoleAgent, func(o *DialOptions) { o.Locate = func() (string, error) { return url.Load().(string), nil } })
			q := events.Query{}
			if c.before == 3 {
				q.Classes = []events.Class{events.ClassHealth}
			}
			follower := logtest.Follow(t, log, q)
			for i := range c.before {
				logtest.MustAppend(t, log, logtest.Heartbeat("db1", i))
			}
			logtest.Eventually(t, "all events read", func() bool { return len(follower.Got()) == c.before })
			first.Shutdown()
			p.store = t.TempDir()
			second := p.start(t)
			other := dialAs(t, p, RoleAgent, viaTCP(second))
			for i := range c.after {
				logtest.MustAppend(t, other, logtest.Heartbeat("db1", i))
			}
			url.Store(second.URL())
			if err := follower.Ended(t); !errors.Is(err, ErrRegressed) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the follower ended with %v; want ErrRegressed, %q", err, c.says)
			}
			if got := len(follower.Got()); got != c.before {
				t.Errorf("the follower was given %d events, want %d", got, c.before)
			}
			err := log.Read(t.Context(), events.Query{After: 100}, func(events.Event) error { return nil })
			if !errors.Is(err, ErrRegressed) || !strings.Contains(err.Error(), "100") {
				t.Errorf("reading after 100: %v; want ErrRegressed", err)
			}
		})
	}
}

func TestStartRefusals(t *testing.T) {
	p := newPlace(t)
	for cluster, says := range map[string]string{"a.b": `"." is not allowed`, "": "must not be empty", "A": "not allowed"} {
		o := p.options()
		o.Cluster = cluster
		if _, err := StartServer(o); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "'", `"`), says) {
			t.Errorf("server of cluster %q: %v; want %q", cluster, err, says)
		}
		if _, err := Dial(t.Context(), DialOptions{URL: "x", Cluster: cluster}); err == nil || !strings.Contains(err.Error(), "cluster name") {
			t.Errorf("dial of cluster %q: %v", cluster, err)
		}
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	o := p.options()
	o.Port = busy.Addr().(*net.TCPAddr).Port
	if _, err := StartServer(o); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("port in use: %v", err)
	}
	s := p.start(t) // the refused starts left no lock behind
	if _, err := StartServer(p.options()); err == nil || !strings.Contains(err.Error(), "another server runs on this store") {
		t.Errorf("second server on the store: %v", err)
	}
	s.Shutdown()
	s.Shutdown()
	p.start(t)
}

// TestStreamConfigIsChecked: a store whose stream was made by other means.
func TestStreamConfigIsChecked(t *testing.T) {
	for setting, spoil := range map[string]func(*jetstream.StreamConfig){
		"persist_mode":         func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode },
		"max_age":              func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"max_msgs":             func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 },
		"max_msgs_per_subject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
		"deny_delete":          func(c *jetstream.StreamConfig) { c.DenyDelete = false },
		"subjects":             func(c *jetstream.StreamConfig) { c.Subjects = []string{"interrex.demo.>"} },
		"storage":              func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
	} {
		have := streamConfig("demo")
		spoil(&have)
		if err := checkStream(streamConfig("demo"), have); err == nil || !strings.Contains(err.Error(), " has "+setting+"=") {
			t.Errorf("%s: %v; want an error that names it", setting, err)
		}
	}
	if err := checkStream(streamConfig("demo"), streamConfig("demo")); err != nil {
		t.Errorf("the right configuration: %v", err)
	}
}

func TestSyncIsAlways(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	if !s.ns.JetStreamConfig().SyncAlways {
		t.Error("the server does not sync before it acknowledges")
	}
	q := p
	q.store = filepath.Join(t.TempDir(), "new", "store")
	q.start(t)
	if info, err := os.Stat(q.store); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a new store directory: %v, %v; want mode 0700", info, err)
	}
}

func TestClose(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	l := dialAs(t, p, RoleAgent, viaTCP(s))
	follower := logtest.Follow(t, l, events.Query{})
	logtest.MustAppend(t, l, logtest.Heartbeat("db1", 1))
	logtest.Eventually(t, "the event", func() bool { return len(follower.Got()) == 1 })
	l.Close()
	l.Close()
	if err := follower.Ended(t); !errors.Is(err, ErrClosed) {
		t.Errorf("the follower ended with %v, want ErrClosed", err)
	}
	if _, err := l.Append(t.Context(), logtest.Heartbeat("db1", 2)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after Close: %v, want ErrClosed", err)
	}
	if _, err := l.Last(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("last after Close: %v, want ErrClosed", err)
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	p := newPlace(t)
	if err := EnsureKeys(p.keys); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, DialOptions{
		Locate:  func() (string, error) { return "", errors.New("no server announced") },
		KeyFile: KeyFile(p.keys, RoleAgent), Cluster: "demo",
	})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no server announced") {
		t.Errorf("dial without a server: %v; want the deadline and the reason of the last try", err)
	}
	if _, err := Dial(ctx, DialOptions{Cluster: "demo"}); err == nil || !strings.Contains(err.Error(), "exactly one of") {
		t.Errorf("dial without a way: %v", err)
	}
}

// TestForeignMessages: what is not one of our events is delivered as unknown,
// with the reason, and stops nobody.
func TestForeignMessages(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	nc := rawAs(t, s, p, RoleAgent)
	good, err := encode("demo", logtest.Heartbeat("db1", 1))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct{ header, value, body, says string }{
		{"", "", "not json", "events: kind heartbeat"},
		{headerType, "decided", `{"controller":"db1"}`, "does not name a version"},
		{headerSchema, "heartbeat", "{}", "does not name a version"},
		{headerTime, "yesterday", "{}", "ce-time"},
		{headerCause, "-1", "{}", "ce-cause"},
		{headerID, "", "{}", "must not be empty"},
		{"", "", `{"node":"db2"}`, "belongs to health.db2"},
	}
	for _, c := range cases {
		m := *good
		m.Header = map[string][]string{}
		for k, v := range good.Header {
			m.Header[k] = v
		}
		m.Header.Del(jetstream.MsgIDHeader)
		if c.header != "" {
			m.Header[c.header] = []string{c.value}
		}
		m.Data = []byte(c.body)
		if _, err := nc.RequestMsg(&m, logtest.Deadline); err != nil {
			t.Fatal(err)
		}
	}
	got := logtest.All(t, dialAs(t, p, RoleReader, viaTCP(s)), 0)
	if len(got) != len(cases) {
		t.Fatalf("read %d events, want %d", len(got), len(cases))
	}
	for i, c := range cases {
		u, ok := got[i].Data.(events.Unknown)
		if !ok || !strings.Contains(u.Reason, c.says) || string(got[i].Body) != c.body || u.ClassIn != events.ClassHealth || u.KeyIn != "db1" {
			t.Errorf("%s=%q body %q came back as %+v; want unknown, %q", c.header, c.value, c.body, got[i], c.says)
		}
	}
}
