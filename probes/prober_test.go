package probes

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

// want checks the state of a fact and that it came in time.
func want(t *testing.T, f Fact, state events.PostgresState) Fact {
	t.Helper()
	if f.State != state {
		t.Errorf("state %q (%v), want %q", f.State, f.Err, state)
	}
	if limit := 400*time.Millisecond + 300*time.Millisecond; f.Took <= 0 || f.Took > limit {
		t.Errorf("the probe took %s, want at most %s", f.Took, limit)
	}
	if (f.State == events.PostgresUp) != (f.Err == nil) {
		t.Errorf("state %q with error %v", f.State, f.Err)
	}
	return f
}

func TestPrimary(t *testing.T) {
	ctx := context.Background()
	s := newServer(t).start().up()
	for name, dsn := range map[string]string{"tcp": s.dsn(), "socket": s.socketDSN()} {
		t.Run(name, func(t *testing.T) {
			p := prober(t, dsn)
			f := want(t, p.Probe(ctx), events.PostgresUp)
			if f.InRecovery || f.Timeline != 1 || len(f.SystemID) < 10 || f.Version < 130000 || f.LSN == 0 || f.Replay != 0 || f.ReplayPaused || f.Receiver != "" {
				t.Errorf("facts of a primary: %+v", f)
			}
			if f.Clients != 0 {
				t.Errorf("%d clients, want 0: probers are none", f.Clients)
			}
			if age := time.Since(f.Started); age < 0 || age > time.Minute {
				t.Errorf("started %s ago", age)
			}
			want(t, p.Fresh(ctx), events.PostgresUp)
			first := p.Conn()
			want(t, p.Probe(ctx), events.PostgresUp)
			if first == nil || first != p.Conn() {
				t.Error("the connection was not kept")
			}
		})
	}
	t.Run("clients", func(t *testing.T) {
		p := s.prober()
		s.client()
		f := want(t, p.Probe(ctx), events.PostgresUp)
		if f.Clients != 1 || !f.Seen("db1").ClientSeen {
			t.Errorf("%d clients, want 1", f.Clients)
		}
	})
	t.Run("take", func(t *testing.T) {
		p := s.prober()
		want(t, p.Probe(ctx), events.PostgresUp)
		taken := p.Take()
		want(t, p.Probe(ctx), events.PostgresUp)
		if taken == nil || taken == p.Conn() || taken.IsClosed() {
			t.Error("the connection taken must be the caller's alone, and open")
		}
		taken.Close(ctx)
	})
	t.Run("terminated backend", func(t *testing.T) {
		p := s.prober()
		want(t, p.Probe(ctx), events.PostgresUp)
		first := p.Conn()
		s.exec(fmt.Sprintf("select pg_terminate_backend(%d)", first.PgConn().PID()))
		want(t, p.Probe(ctx), events.PostgresUp)
		if p.Conn() == first {
			t.Error("the broken connection was not replaced")
		}
	})
}

func TestStandby(t *testing.T) {
	ctx := context.Background()
	s := newServer(t, "wal_level = replica", "max_wal_senders = 5").start().up()
	r := &server{t: t, dir: shortDir(t), port: freePort(t)}
	if _, err := run(binDir(t)+"/pg_basebackup", "-N", "-c", "fast", "-R", "-D", r.dir+"/data", "-d", s.dsn()+"&application_name=db2"); err != nil {
		t.Fatal(err)
	}
	r.configure(fmt.Sprintf("port = %d", r.port), "unix_socket_directories = '"+r.dir+"'", "max_standby_streaming_delay = 30s")
	r.start().up()
	p := r.prober()
	var f Fact
	eventually(t, func() bool { f = p.Probe(ctx); return f.Receiver == "streaming" })
	want(t, f, events.PostgresUp)
	var primary Fact
	watch := s.prober()
	eventually(t, func() bool {
		primary = want(t, watch.Probe(ctx), events.PostgresUp)
		return len(primary.Replicas) == 1 && primary.Replicas[0].Flush > 0
	})
	if !f.InRecovery || f.Timeline != 1 || f.SystemID != primary.SystemID || f.LSN == 0 || f.Replay == 0 || f.SenderHost != "127.0.0.1" || f.SenderPort != s.port {
		t.Errorf("facts of a standby: %+v", f)
	}
	if primary.Replicas[0].Node != "db2" || primary.Replicas[0].State != "streaming" {
		t.Errorf("replicas of the primary: %+v", primary.Replicas)
	}

	r.exec("select pg_wal_replay_pause()")
	eventually(t, func() bool { return p.Probe(ctx).ReplayPaused })
	s.exec("create table t (a int)")
	eventually(t, func() bool { f = p.Probe(ctx); return f.LSN > f.Replay })

	r.exec("select pg_wal_replay_resume()")
	kept := p.Conn()
	r.exec("select pg_promote(false)")
	eventually(t, func() bool { f = want(t, p.Probe(ctx), events.PostgresUp); return !f.InRecovery })
	if f.Timeline != 2 {
		t.Errorf("timeline %d right after the promotion, want 2", f.Timeline)
	}
	if kept != p.Conn() {
		t.Error("the connection did not survive the promotion")
	}
}

func TestRefusing(t *testing.T) {
	ctx := context.Background()
	s := newServer(t, "max_connections = 6", "superuser_reserved_connections = 1", "max_wal_senders = 0").start().up()
	s.exec("create role app login password 'right'")
	hba := "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\nhost all app 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(s.dir+"/data/pg_hba.conf", []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	s.exec("select pg_reload_conf()")
	as := func(user, db string) string {
		return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=prefer", user, s.port, db)
	}
	eventually(t, func() bool { return prober(t, as("app:wrong", "postgres")).Probe(ctx).SQLState == "28P01" })
	for _, c := range []struct{ name, dsn, sqlstate string }{
		{"wrong password", as("app:wrong", "postgres"), "28P01"},
		{"no password", as("app", "postgres"), "28P01"}, // an empty one is sent
		{"no such role", as("nobody", "postgres"), "28000"},
		{"no such database", as("postgres", "nowhere"), "3D000"},
	} {
		p := prober(t, c.dsn)
		f := want(t, p.Probe(ctx), events.PostgresRefusing)
		if f.SQLState != c.sqlstate {
			t.Errorf("%s: SQLSTATE %q (%v), want %q", c.name, f.SQLState, f.Err, c.sqlstate)
		}
		if f.Err != nil && strings.Contains(f.Err.Error(), "wrong") {
			t.Errorf("%s: the error shows the password: %v", c.name, f.Err)
		}
		want(t, p.Fresh(ctx), events.PostgresUp)
	}
	for range 5 { // the superuser's last slot stays free, app's are gone
		if c, err := pgx.Connect(ctx, s.dsn()); err == nil {
			defer c.Close(ctx)
		}
	}
	f := want(t, prober(t, as("app:right", "postgres")).Probe(ctx), events.PostgresRefusing)
	if f.SQLState != "53300" {
		t.Errorf("too many clients: SQLSTATE %q (%v), want 53300", f.SQLState, f.Err)
	}
}

func TestStartingAndStopping(t *testing.T) {
	ctx := context.Background()
	starting := newServer(t, "hot_standby = off", "primary_conninfo = 'host=127.0.0.1 port=1'")
	if err := os.WriteFile(starting.dir+"/data/standby.signal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	starting.start()
	p := starting.prober()
	eventually(t, func() bool { return p.Probe(ctx).SQLState == "57P03" })
	want(t, p.Probe(ctx), events.PostgresStarting)
	want(t, p.Fresh(ctx), events.PostgresUp)

	stopping := newServer(t).start().up()
	stopping.client() // keeps a smart shutdown waiting
	stopping.signal(syscall.SIGTERM, false)
	q := stopping.prober()
	eventually(t, func() bool { return q.Probe(ctx).SQLState == "57P03" })
	want(t, q.Probe(ctx), events.PostgresStopping)
}

func TestFrozen(t *testing.T) {
	ctx := context.Background()
	s := newServer(t).start().up()
	for name, dsn := range map[string]string{"tcp": s.dsn(), "socket": s.socketDSN()} {
		t.Run(name, func(t *testing.T) {
			kept, anew := prober(t, dsn), prober(t, dsn)
			want(t, kept.Probe(ctx), events.PostgresUp)

			s.signal(syscall.SIGSTOP, false)
			defer s.signal(syscall.SIGCONT, true)
			want(t, kept.Probe(ctx), events.PostgresUp) // its backend lives
			want(t, kept.Fresh(ctx), events.PostgresSilent)
			want(t, anew.Probe(ctx), events.PostgresSilent)

			s.signal(syscall.SIGSTOP, true)
			for range 3 {
				want(t, kept.Probe(ctx), events.PostgresSilent)
			}
			s.signal(syscall.SIGCONT, true)
			eventually(t, func() bool { return kept.Probe(ctx).State == events.PostgresUp })
			want(t, kept.Fresh(ctx), events.PostgresUp)
		})
	}
}

func TestKilled(t *testing.T) {
	ctx := context.Background()
	s := newServer(t).start().up()
	tcp, socket := s.prober(), prober(t, s.socketDSN())
	want(t, tcp.Probe(ctx), events.PostgresUp)
	want(t, socket.Probe(ctx), events.PostgresUp)
	s.signal(syscall.SIGKILL, true)
	<-s.done
	for _, p := range []*Prober{tcp, socket} {
		for range 2 { // with the kept connection, and without
			want(t, p.Probe(ctx), events.PostgresDown)
		}
		want(t, p.Fresh(ctx), events.PostgresDown)
	}
}

// A server with TLS logs each client that goes away after its answer to the SSL
// request; Fresh must not fill its log.
func TestFreshLeavesNoComplaint(t *testing.T) {
	ctx := context.Background()
	s := newServer(t, "ssl = on", "log_connections = off")
	certificate(t, s.dir+"/data")
	s.start()
	p := s.prober()
	eventually(t, func() bool { return p.Fresh(ctx).State == events.PostgresUp })
	for range 20 {
		want(t, p.Fresh(ctx), events.PostgresUp)
	}
	want(t, p.Probe(ctx), events.PostgresUp)
	log, err := os.ReadFile(s.dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"SSL", "could not", "incomplete"} {
		if strings.Contains(string(log), bad) {
			t.Errorf("the server's log contains %q:\n%s", bad, log)
		}
	}
}

func BenchmarkProbe(b *testing.B) {
	s := newServer(b).start().up()
	p := s.prober()
	for b.Loop() {
		if f := p.Probe(context.Background()); f.Err != nil {
			b.Fatal(f.Err)
		}
	}
}
