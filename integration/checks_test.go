package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/lab"
)

// client starts a measuring client that writes every 10 ms, and lets it write
// for a while first. It ends with the test.
func (c *cluster) client() *lab.Client {
	c.t.Helper()
	return c.clientWith(lab.ClientOptions{})
}

// calmClient is a client that waits long for its answers: only a session that
// was ended disturbs it, a busy machine does not.
func (c *cluster) calmClient() *lab.Client {
	c.t.Helper()
	return c.clientWith(lab.ClientOptions{Timeout: patience / 2})
}

func (c *cluster) clientWith(o lab.ClientOptions) *lab.Client {
	c.t.Helper()
	o.DSN = c.layout.DSN()
	client, err := lab.StartClient(c.ctx(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(client.Stop)
	c.until("20 writes", func() bool { return len(client.Acks()) >= 20 })
	return client
}

// busy starts a session on one node that commits as fast as it can.
func (c *cluster) busy(node string) *lab.Busy {
	c.t.Helper()
	if err := lab.MakeTable(c.ctx(), c.layout.DSN()); err != nil {
		c.t.Fatal(err)
	}
	b, err := lab.StartBusy(c.ctx(), c.layout.NodeDSN(node))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(b.Stop)
	return b
}

// session opens a session of a superuser on one node, over TCP.
func (c *cluster) session(node string) *pgx.Conn {
	c.t.Helper()
	dsn := strings.Replace(c.layout.NodeDSN(node), lab.AppUser+"@", lab.Superuser+"@", 1)
	conn, err := pgx.Connect(c.ctx(), dsn)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// exec runs SQL in a session.
func (c *cluster) exec(conn *pgx.Conn, sql string) {
	c.t.Helper()
	if _, err := conn.Exec(c.ctx(), sql); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
}

// text reads one value.
func (c *cluster) text(conn *pgx.Conn, sql string) string {
	c.t.Helper()
	var v string
	if err := conn.QueryRow(c.ctx(), sql).Scan(&v); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// port is a node's.
func (c *cluster) port(node string) int {
	c.t.Helper()
	n, err := c.layout.Node(node)
	if err != nil {
		c.t.Fatal(err)
	}
	return n.Port
}

// firstWrite waits for the first write acknowledged by another node after a
// fault.
func (c *cluster) firstWrite(client *lab.Client, at time.Time, node string) lab.Ack {
	c.t.Helper()
	a, err := client.AwaitPort(c.ctx(), at, c.port(node))
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// oneWriter checks that the old primary acknowledged nothing after the new one
// had acknowledged its first write, to none of the busy sessions on it.
func (c *cluster) oneWriter(first time.Time, old string, client *lab.Client, busy ...*lab.Busy) {
	c.t.Helper()
	late := 0
	for _, a := range client.Acks() {
		if a.Port == c.port(old) && a.At.After(first) {
			late++
		}
	}
	for _, b := range busy {
		acks, _ := b.Since(first)
		late += len(acks)
	}
	if late > 0 {
		c.t.Errorf("%s acknowledged %d writes after the new primary's first one", old, late)
	}
}

// lostAsLogged reads back what the client was acknowledged and compares with the
// loss that the decisions after a sequence admit. It returns the lost rows.
func (c *cluster) lostAsLogged(client *lab.Client, after uint64) int {
	c.t.Helper()
	v, err := client.Verify(c.ctx())
	if err != nil {
		c.t.Fatal(err)
	}
	c.admitted(len(v.Lost), after)
	c.t.Logf("acknowledged %d, lost %d", v.Acknowledged, len(v.Lost))
	return len(v.Lost)
}

// smallestRow is less than the WAL of any committed row.
const smallestRow = 60

// admitted checks a number of lost rows against the log's accounting. Where the
// end of the old primary's WAL was not read the log promises no exact figure.
func (c *cluster) admitted(lost int, after uint64) {
	c.t.Helper()
	for _, e := range c.story.decisions(after) {
		d := e.Data.(events.Decided)
		if d.Loss == nil {
			continue
		}
		if d.Loss.Exact && d.Loss.Bytes < uint64(lost)*smallestRow {
			c.t.Errorf("%d acknowledged rows are lost, and decision %d admits %d bytes only", lost, e.Seq, d.Loss.Bytes)
		}
		return
	}
	if lost > 0 {
		c.t.Errorf("%d acknowledged rows are lost, and no decision admits a loss", lost)
	}
}

// sameTerm checks that nothing was failed over: same primary, same term.
func (c *cluster) sameTerm(term uint64, primary string) {
	c.t.Helper()
	if s := c.state(); s.Term != term || s.Primary != primary {
		c.t.Errorf("the primary is %s in term %d; expected no failover: %s in term %d", s.Primary, s.Term, primary, term)
	}
}

// undisturbed checks that a client was never thrown out.
func (c *cluster) undisturbed(client *lab.Client) {
	c.t.Helper()
	if errs := client.Errors(); len(errs) > 0 {
		c.t.Errorf("the client was disturbed: %v", errs)
	}
}

// moreWrites waits for n more acknowledged writes.
func (c *cluster) moreWrites(client *lab.Client, n int) {
	c.t.Helper()
	have := len(client.Acks())
	c.until("more writes", func() bool { return len(client.Acks()) >= have+n })
}

// nothingLeft checks that no process works in a node's data directory.
func (c *cluster) nothingLeft(node string) {
	c.t.Helper()
	if left := c.processes(node); len(left) > 0 {
		c.t.Errorf("processes of %s are left: %v", node, left)
	}
}

// gone reports that a process has ended.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// proofOf returns the proof of the decision that began the present term.
func (c *cluster) proofOf(after uint64) events.Proof {
	c.t.Helper()
	var p events.Proof
	for _, e := range c.story.decisions(after) {
		if d := e.Data.(events.Decided); d.Proof != nil {
			p = *d.Proof
		}
	}
	return p
}

// processes are those of a node's server.
func (c *cluster) processes(node string) []executors.Process {
	c.t.Helper()
	n, err := c.layout.Node(node)
	if err != nil {
		c.t.Fatal(err)
	}
	found, err := executors.ProcessesOf(n.DataDir)
	if err != nil {
		c.t.Fatal(err)
	}
	return found
}

// takeConnections opens sessions of a superuser until none is free, and returns
// what ends each.
func (c *cluster) takeConnections(node string) []func() {
	c.t.Helper()
	dsn := strings.Replace(c.layout.NodeDSN(node), lab.AppUser+"@", lab.Superuser+"@", 1)
	var taken []func()
	for {
		conn, err := pgx.Connect(c.ctx(), dsn)
		var full *pgconn.PgError
		if errors.As(err, &full) && full.Code == "53300" {
			return taken
		}
		if err != nil {
			c.t.Fatal(err)
		}
		taken = append(taken, func() { _ = conn.Close(context.Background()) })
	}
}

// undisturbedBusy checks that a session was never thrown out.
func (c *cluster) undisturbedBusy(b *lab.Busy) {
	c.t.Helper()
	select {
	case <-b.Ended():
		c.t.Errorf("the session was ended: %v", b.Errors())
	default:
	}
}

// startupOf returns the process of a postmaster that replays WAL, 0 when there
// is none.
func startupOf(postmaster int) int {
	pid := strconv.Itoa(postmaster)
	children, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	for _, child := range strings.Fields(string(children)) {
		title, _ := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
		if strings.Contains(string(title), "startup") {
			n, _ := strconv.Atoi(child)
			return n
		}
	}
	return 0
}
