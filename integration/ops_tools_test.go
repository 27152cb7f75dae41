//go:build linux

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// opsContext ends when a single action must have.
func opsContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), opsWait)
	t.Cleanup(cancel)
	return ctx
}

// opsClient is the measuring client, with what the log says of its run.
type opsClient struct {
	*lab.Client
	c    *opsCluster
	from uint64
	eyes *opsEyes
}

// client starts a writer and the eyes that see which nodes take writes.
func (c *opsCluster) client(t *testing.T) *opsClient {
	t.Helper()
	from := c.now().Seq
	w, err := lab.StartClient(opsContext(t), lab.ClientOptions{DSN: c.layout.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	x := &opsClient{Client: w, c: c, from: from, eyes: c.watchWriters()}
	t.Cleanup(func() { x.Stop(); x.eyes.stop() })
	return x
}

// settle ends the run: nothing that was acknowledged is missing, but for what
// the decisions since admit to have lost, and there never were two writers.
func (x *opsClient) settle(t *testing.T) lab.Verification {
	t.Helper()
	x.Stop()
	x.eyes.stop()
	x.eyes.check(t)
	v, err := x.Verify(opsContext(t))
	if err != nil {
		t.Fatal(err)
	}
	admitted, exact := uint64(0), true
	for _, e := range x.c.since(x.from) {
		if d, ok := e.Data.(events.Decided); ok && d.Loss != nil {
			admitted += d.Loss.Bytes
			exact = exact && d.Loss.Exact
		}
	}
	const row = 64 // a committed row takes more WAL than this
	if lost := uint64(len(v.Lost)); exact && lost*row > admitted {
		t.Errorf("%d of %d acknowledged rows are missing, and the log admits the loss of %d bytes of WAL only", lost, v.Acknowledged, admitted)
	}
	t.Logf("acknowledged %d, lost %d, admitted %d bytes; errors %v", v.Acknowledged, len(v.Lost), admitted, x.Errors())
	return v
}

// opsEyes asks every node again and again whether it takes writes.
type opsEyes struct {
	c    *opsCluster
	end  context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	seen []opsSight
}

// opsSight is one answer "not in recovery".
type opsSight struct {
	node          string
	asked, answer time.Time
}

func (c *opsCluster) watchWriters() *opsEyes {
	ctx, cancel := context.WithCancel(context.Background())
	e := &opsEyes{c: c, end: cancel}
	for _, n := range c.layout.Nodes {
		e.wg.Add(1)
		go func() {
			defer e.wg.Done()
			e.look(ctx, n.Name)
		}()
	}
	return e
}

func (e *opsEyes) stop() {
	e.end()
	e.wg.Wait()
}

func (e *opsEyes) look(ctx context.Context, node string) {
	var conn *pgx.Conn
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			opsClose(conn)
			return
		case <-tick.C:
		}
		try, cancel := context.WithTimeout(ctx, time.Second)
		asked := time.Now()
		var standby bool
		var err error
		if conn == nil {
			conn, err = pgx.Connect(try, e.c.layout.NodeDSN(node))
		}
		if err == nil {
			err = conn.QueryRow(try, "select pg_is_in_recovery()").Scan(&standby)
		}
		cancel()
		if err != nil {
			opsClose(conn)
			conn = nil
			continue
		}
		if !standby {
			e.mu.Lock()
			e.seen = append(e.seen, opsSight{node, asked, time.Now()})
			e.mu.Unlock()
		}
	}
}

func opsClose(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// check finds a node that took writes after another one had served a newer term.
func (e *opsEyes) check(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	grants := map[string][]events.Event{}
	for _, x := range e.c.since(0) {
		if d, ok := x.Data.(events.Decided); ok && d.Grant != nil {
			grants[d.Grant.Node] = append(grants[d.Grant.Node], x)
		}
	}
	term := func(node string, at time.Time) (newest uint64) {
		for _, g := range grants[node] {
			if !g.Time.After(at) {
				newest = g.Data.(events.Decided).Grant.Term
			}
		}
		return newest
	}
	for _, old := range e.seen {
		for _, other := range e.seen {
			if other.node != old.node && other.answer.Before(old.asked) && term(other.node, other.asked) > term(old.node, old.answer) {
				t.Errorf("two writers: %s took writes in term %d, and %s still in term %d, asked %s later",
					other.node, term(other.node, other.asked), old.node, term(old.node, old.answer), old.asked.Sub(other.answer))
				return
			}
		}
	}
}

// super opens a superuser's session on one node.
func (c *opsCluster) super(t *testing.T, node string) *pgx.Conn {
	t.Helper()
	dsn := strings.Replace(c.layout.NodeDSN(node), lab.AppUser+"@", lab.Superuser+"@", 1)
	conn, err := pgx.Connect(opsContext(t), dsn)
	if err != nil {
		t.Fatalf("connect to %s: %v", node, err)
	}
	t.Cleanup(func() { opsClose(conn) })
	return conn
}

// sql runs statements as superuser on one node.
func (c *opsCluster) sql(t *testing.T, node string, statements ...string) {
	t.Helper()
	conn := c.super(t, node)
	for _, s := range statements {
		if _, err := conn.Exec(opsContext(t), s); err != nil {
			t.Fatalf("%s on %s: %v", s, node, err)
		}
	}
}

// kill sends SIGKILL to a node's postmaster.
func (c *opsCluster) kill(t *testing.T, node string) time.Time {
	t.Helper()
	_, at, err := c.layout.KillPostmaster(node)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// other is the standby of a pair.
func (c *opsCluster) other(node string) string {
	if node == "db1" {
		return "db2"
	}
	return "db1"
}

// failedOver waits until node is the primary of a term newer than term.
func (c *opsCluster) failedOver(term uint64, node string) fsm.State {
	c.t.Helper()
	return c.await("term "+fmt.Sprint(term+1)+" of "+node, func(s fsm.State) bool {
		return s.Term > term && s.Primary == node && s.Phase == events.Healthy
	})
}

// recover brings a node back and waits for the whole cluster.
func (c *opsCluster) recover(node string, flags ...string) string {
	c.t.Helper()
	said := c.must(append([]string{"recover", node, "--yes"}, flags...)...)
	c.healthy()
	return said
}

// data is a node's data directory.
func (c *opsCluster) data(t *testing.T, node string) string {
	t.Helper()
	n, err := c.layout.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	return n.DataDir
}

// receiver is the process number of a node's walreceiver.
func (c *opsCluster) receiver(t *testing.T, node string) int {
	t.Helper()
	var pid int
	err := c.super(t, node).QueryRow(opsContext(t), "select pid from pg_stat_wal_receiver").Scan(&pid)
	if err != nil {
		t.Fatalf("walreceiver of %s: %v", node, err)
	}
	return pid
}

// freeze stops processes and returns how to let them go on; it is called at the
// end in any case.
func opsFreeze(t *testing.T, pids ...int) (thaw func()) {
	t.Helper()
	f, err := lab.Freeze(opsContext(t), pids...)
	if err != nil {
		t.Fatal(err)
	}
	thaw = func() {
		if err := f.Thaw(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// onlyRoot says loudly why a test cannot be made by an ordinary user.
func onlyRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOT TESTED: this needs root, and the tests run as uid %d: %s", os.Geteuid(), why)
	}
}

// decidedBy matches a decision of a rule.
func decidedBy(rule int) func(events.Event) bool {
	return func(e events.Event) bool {
		d, ok := e.Data.(events.Decided)
		return ok && d.Rule == rule
	}
}

// orderDone matches the end of an order that worked.
func orderDone(node string, do events.Action) func(events.Event) bool {
	return func(e events.Event) bool {
		d, ok := e.Data.(events.OrderDone)
		return ok && d.Node == node && d.Action == do
	}
}

// beside lists what stands beside a data directory under a pattern.
func beside(t *testing.T, data, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(data + pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// alive reports that a process is there and no zombie: the parent of a server
// may be frozen.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(raw), ") ")
	return ok && rest[0] != 'Z'
}
