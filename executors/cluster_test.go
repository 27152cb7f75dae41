package executors_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// newPrimary starts a PostgreSQL that standbys can be made of.
func newPrimary(t *testing.T, name string, settings ...string) solo {
	t.Helper()
	s := newSolo(t)
	s.Node = name
	s.configure(append([]string{"wal_log_hints = on", "hot_standby = on", "wal_retrieve_retry_interval = 200ms", "test.own = '" + name + "'"}, settings...)...)
	s.up(false)
	s.exec("create table t (id bigserial primary key, v text)")
	return s
}

// configure appends to its own postgresql.conf.
func (s solo) configure(lines ...string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(f, l); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// standbyOf makes another node that streams from a primary. All data directories
// come from one template and have one system identifier, so that WAL alone makes
// it a copy: the primary keeps all of it.
func standbyOf(t *testing.T, primary solo, name string) solo {
	t.Helper()
	s := newSolo(t)
	s.Node = name
	s.configure("wal_log_hints = on", "hot_standby = on", "wal_retrieve_retry_interval = 200ms", "test.own = '"+name+"'")
	primary.exec("select pg_create_physical_replication_slot($1, true) where not exists (select from pg_replication_slots where slot_name = $1)", events.SlotName(name))
	up := s.upstream(primary)
	conf := executors.MergeAutoConf("", [][2]string{{"primary_conninfo", up.Conninfo(name)}, {"primary_slot_name", up.Slot}}, nil)
	if err := os.WriteFile(filepath.Join(s.DataDir, "postgresql.auto.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s.up(true)
	if err := executors.WaitStreaming(within(t), nil, s.Postgres, up); err != nil {
		t.Fatal(err)
	}
	s.caughtUp(primary)
	return s
}

func (s solo) upstream(primary solo) executors.Upstream {
	return executors.Upstream{Node: primary.Node, Host: primary.SocketDir, Port: primary.Port, User: "postgres", Slot: events.SlotName(s.Node)}
}

// caughtUp waits until everything that the primary has is replayed.
func (s solo) caughtUp(primary solo) {
	s.t.Helper()
	end := primary.lsn("pg_current_wal_flush_lsn()")
	c := s.connect()
	soloUntil(s.t, s.Node+" has caught up", func() bool {
		var ok bool
		err := c.QueryRow(s.t.Context(), "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end.String()).Scan(&ok)
		return err == nil && ok
	})
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// write inserts rows until the function that it returns is called; it stops by
// itself when the server goes.
func (s solo) write() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	conn := s.connect()
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := conn.Exec(ctx, "insert into t (v) select repeat('x', 200) from generate_series(1, 20)"); err != nil {
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (s solo) agent() *pgx.Conn {
	s.t.Helper()
	c, err := executors.Connect(within(s.t), s.Postgres)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func yes() error { return nil }

func (s solo) promote() (executors.Promoted, time.Duration) {
	s.t.Helper()
	conn := s.agent()
	began := time.Now()
	got, err := executors.Promote(within(s.t), conn, s.Postgres, yes)
	took := time.Since(began)
	if err != nil {
		s.t.Fatal(err)
	}
	return got, took
}

// recoverFrom recovers and expects the way.
func (s solo) recoverFrom(primary solo, want string, o executors.RecoverOptions) executors.Recovered {
	s.t.Helper()
	if o.Decision == 0 {
		o.Decision = 7
	}
	began := time.Now()
	got, err := executors.Recover(within(s.t), s.Postgres, s.upstream(primary), o)
	if err != nil {
		s.t.Fatalf("%+v: %v", got, err)
	}
	s.t.Logf("%s: %s in %s: %s", s.Node, got.How, time.Since(began).Round(time.Millisecond), got.Why)
	if got.How != want {
		s.t.Fatalf("came back by %q because %s; expected %q", got.How, got.Why, want)
	}
	s.isStandbyOf(primary)
	return got
}

// isStandbyOf: read-only, with the primary's rows, new ones included.
func (s solo) isStandbyOf(primary solo) {
	s.t.Helper()
	if got := s.text("pg_is_in_recovery()"); got != "true" {
		s.t.Fatalf("%s is in recovery: %s, expected true", s.Node, got)
	}
	primary.exec("insert into t (v) values ('after')")
	s.caughtUp(primary)
	sum := "count(*) || ' ' || coalesce(sum(hashtext(v) # id), 0) from t"
	if a, b := primary.text("select "+sum), s.text("select "+sum); a != b {
		s.t.Fatalf("%s has the rows %s, expected the primary's %s", s.Node, b, a)
	}
	if name := s.text("current_setting('test.own', true)"); s.Port != portOfNothing && name != s.Node {
		s.t.Fatalf("%s runs with the configuration of %q, expected its own", s.Node, name)
	}
}

// portOfNothing is that of a node which has no configuration of its own.
const portOfNothing = 5499

// freePort is one that nobody listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
