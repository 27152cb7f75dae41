package executors_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// The defaults are for a failover; a busy machine needs more.
var (
	inTime       = executors.PositionOptions{GoneWithin: patience, ReplayWithin: patience}
	detachInTime = executors.PositionOptions{Detach: true, GoneWithin: patience, ReplayWithin: patience}
)

func TestPositionAfterTheUpstreamsDeath(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	stop := a.write()
	soloUntil(t, "rows arrive", func() bool { return b.text("select count(*) > 300 from t") == "true" })
	conn := b.agent()
	a.crash()
	stop()
	end := a.dead(0).EndLSN
	began := time.Now()
	pos, err := executors.FindPosition(within(t), conn, b.Postgres, inTime)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("position in %s: %+v", time.Since(began), pos)
	if pos.LSN == 0 || pos.LSN > end || pos.Replay != pos.LSN || !pos.Final || pos.Timeline != 1 || len(pos.SystemID) < 18 {
		t.Fatalf("got %+v, expected a final position not beyond the primary's end %s", pos, end)
	}
	if pos.Conninfo == "" || b.text("current_setting('primary_conninfo')") != pos.Conninfo {
		t.Fatalf("it follows %q, expected what it followed before", pos.Conninfo)
	}
}

// The position of a restarted standby: pg_last_wal_receive_lsn() is NULL.
func TestPositionAfterARestart(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	a.exec("insert into t (v) select 'x' from generate_series(1, 1000)")
	b.caughtUp(a)
	a.crash()
	if err := executors.Stop(within(t), b.Postgres, "fast"); err != nil {
		t.Fatal(err)
	}
	b.up(true)
	pos, err := executors.FindPosition(within(t), nil, b.Postgres, inTime)
	if err != nil || !pos.Final || pos.LSN != b.lsn("pg_last_wal_replay_lsn()") || pos.Timeline != 1 {
		t.Fatalf("got %+v, %v; expected its replay position on timeline 1", pos, err)
	}
}

// The timeline of a standby that has just followed a promotion: pg_control still
// has the old one.
func TestPositionOnANewTimeline(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	c := standbyOf(t, a, "db3")
	a.crash()
	b.promote()
	b.exec("select pg_create_physical_replication_slot('interrex_db3', true)")
	if err := executors.Follow(within(t), nil, c.Postgres, c.upstream(b)); err != nil {
		t.Fatal(err)
	}
	if err := executors.WaitStreaming(within(t), nil, c.Postgres, c.upstream(b)); err != nil {
		t.Fatal(err)
	}
	b.exec("insert into t (v) values ('new')")
	c.caughtUp(b)
	b.crash()
	pos, err := executors.FindPosition(within(t), nil, c.Postgres, inTime)
	if err != nil || pos.Timeline != 2 || !pos.Final {
		t.Fatalf("got %+v, %v; expected timeline 2", pos, err)
	}
}

// A standby that has just followed a promotion and is cut off before its receiver
// has come back to where replay was: PostgreSQL cannot be promoted so.
func TestPositionWithAHole(t *testing.T) {
	for _, recycle := range []string{"on", "off"} {
		t.Run("recycled segments "+recycle, func(t *testing.T) { positionWithAHole(t, recycle) })
	}
}

func positionWithAHole(t *testing.T, recycle string) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	c := standbyOf(t, a, "db3")
	c.exec("alter system set wal_recycle = " + recycle)
	c.exec("select pg_reload_conf()")
	a.exec("select pg_switch_wal()")
	a.exec("insert into t (v) select repeat('x', 200) from generate_series(1, 1500)") // far into a segment
	b.caughtUp(a)
	c.caughtUp(a)
	a.crash()
	b.promote()
	// The segment comes twice: to its end on timeline 1, then from its begin on 2.
	segment := c.lsn("pg_last_wal_replay_lsn()") % events.LSN(c.lsn("'0/0'::pg_lsn + (select bytes_per_wal_segment from pg_control_init())"))
	b.exec("select pg_create_physical_replication_slot('interrex_db3', true)")
	up := c.upstream(b)
	up.Host, up.Port = narrow(t, filepath.Join(b.SocketDir, ".s.PGSQL."+itoa(b.Port)), int64(segment+segment/2))
	if err := executors.Follow(within(t), nil, c.Postgres, up); err != nil {
		t.Fatal(err)
	}
	conn := c.agent()
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(c.ServerLog())
			t.Logf("db3's log:\n%s", log)
		}
	})
	soloUntil(t, "the receiver is back at the segment's start, in the file of timeline 2", func() bool {
		return c.text("coalesce(pg_last_wal_receive_lsn() < pg_last_wal_replay_lsn(), false) and exists (select from pg_ls_waldir() where name ~ '^00000002[0-9A-F]{16}$')") == "true"
	})
	b.crash()
	_, err := executors.FindPosition(within(t), conn, c.Postgres, detachInTime)
	if !errors.Is(err, executors.ErrHole) || !strings.Contains(err.Error(), "timeline 2") {
		t.Fatalf("got %v, expected ErrHole on timeline 2", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	promoted := make(chan error, 1)
	go func() {
		_, err := executors.Promote(ctx, conn, c.Postgres, yes)
		promoted <- err
	}()
	soloUntil(t, "the PANIC that was foretold", func() bool {
		log, err := os.ReadFile(c.ServerLog())
		return err == nil && strings.Contains(string(log), "PANIC")
	})
	stop()
	if err := <-promoted; err == nil {
		t.Error("it was promoted all the same")
	}
}

// A standby that has the record of a switch of segments goes on behind it, at the
// next segment, though the rest has not come: that is no hole.
func TestPositionBehindASwitchedSegment(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	b.exec("alter system set wal_recycle = off") // what has not come is zeros
	b.exec("select pg_reload_conf()")
	b.exec("checkpoint")
	a.exec("select pg_switch_wal()")
	b.caughtUp(a)
	up := b.upstream(a)
	up.Host, up.Port = narrow(t, filepath.Join(a.SocketDir, ".s.PGSQL."+itoa(a.Port)), 300<<10)
	if err := executors.Follow(within(t), nil, b.Postgres, up); err != nil {
		t.Fatal(err)
	}
	if err := executors.WaitStreaming(within(t), nil, b.Postgres, up); err != nil {
		t.Fatal(err)
	}
	a.exec("insert into t (v) values ('the last one')")
	a.exec("select pg_switch_wal()")
	const behind = `coalesce(pg_last_wal_receive_lsn() < pg_last_wal_replay_lsn(), false)
		and (pg_last_wal_replay_lsn() - '0/0') % (select bytes_per_wal_segment from pg_control_init()) = 0`
	soloUntil(t, "it has replayed to the segment's end and received less", func() bool { return b.text(behind) == "true" })
	a.crash()
	conn := b.agent()
	pos, err := executors.FindPosition(within(t), conn, b.Postgres, detachInTime)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := executors.Promote(within(t), conn, b.Postgres, yes); err != nil {
		t.Fatal(err)
	}
	if n := b.text("select count(*) from t where v = 'the last one'"); n != "1" {
		t.Errorf("behind %s there are %s of the last row, expected 1", pos.LSN, n)
	}
}

// narrow is a way to a server that lets so many bytes of its answers through.
func narrow(t *testing.T, socket string, bytes int64) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", socket)
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.CopyN(in, out, bytes) }() // and then silence
		}
	}()
	return "127.0.0.1", l.Addr().(*net.TCPAddr).Port
}

// Replay is paused, an old snapshot conflicts, and the upstream lives and is
// busy: the receiver would go on acknowledging.
func TestDetachByEffect(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	stop := a.write()
	defer stop()
	reader := b.connect()
	for _, sql := range []string{"begin isolation level repeatable read", "select count(*) from t"} {
		if _, err := reader.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	b.exec("select pg_wal_replay_pause()")
	a.exec("delete from t where id < 100")
	a.exec("vacuum t")
	was := b.text("current_setting('primary_conninfo')")
	began := time.Now()
	pos, err := executors.FindPosition(within(t), b.agent(), b.Postgres, detachInTime)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("detached in %s: %+v", time.Since(began), pos)
	if !pos.WasPaused || pos.Conninfo != was || !pos.Final || pos.Slot != "interrex_db2" {
		t.Fatalf("got %+v, expected a paused standby with the conninfo %q and a final position", pos, was)
	}
	soloUntil(t, "the primary feeds nobody", func() bool { return a.text("select count(*) from pg_stat_replication") == "0" })
	a.exec("insert into t (v) values ('later')")
	if got := b.lsn("pg_last_wal_replay_lsn()"); got != pos.LSN {
		t.Fatalf("it has gone on from %s to %s", pos.LSN, got)
	}
	again, err := executors.FindPosition(within(t), nil, b.Postgres, detachInTime)
	if err != nil || again.LSN != pos.LSN || again.Conninfo != "" {
		t.Fatalf("again: %+v, %v; expected the same position %s", again, err, pos.LSN)
	}
	stop()
	if err := executors.Follow(within(t), nil, b.Postgres, b.upstream(a)); err != nil {
		t.Fatal(err)
	}
	b.isStandbyOf(a)
}

// A startup process that cannot come by: the receiver is ended by a signal.
func TestDetachSignalsTheReceiver(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	conn := b.agent()
	var pid int
	if err := conn.QueryRow(t.Context(), "select pid from pg_stat_activity where backend_type = 'startup'").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	soloSignal(t, pid, 19)
	a.exec("insert into t (v) values ('received only')")
	end := a.lsn("pg_current_wal_flush_lsn()")
	soloUntil(t, "the row is received", func() bool { return b.lsn("pg_last_wal_receive_lsn()") >= end })
	pos, err := executors.FindPosition(within(t), conn, b.Postgres, executors.PositionOptions{Detach: true, GoneWithin: patience, ReplayWithin: 50 * time.Millisecond})
	if err != nil || pos.Final || pos.LSN < end {
		t.Fatalf("got %+v, %v; expected a position that is not final, from %s on", pos, err, end)
	}
}

func TestDetachSaysWhatIsInTheWay(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	if _, err := executors.FindPosition(within(t), nil, a.Postgres, detachInTime); err == nil || !strings.Contains(err.Error(), "not in recovery") {
		t.Errorf("of a primary: %v, expected a refusal", err)
	}
	if _, err := executors.FindPosition(within(t), nil, b.Postgres, executors.PositionOptions{GoneWithin: time.Second}); err == nil || !strings.Contains(err.Error(), a.SocketDir) {
		t.Errorf("of a standby that is fed: %v, expected an error that names the upstream", err)
	}
	b.configure("this is no = 'setting' at all")
	_, err := executors.FindPosition(within(t), nil, b.Postgres, executors.PositionOptions{Detach: true, GoneWithin: time.Second})
	if err == nil || !strings.Contains(err.Error(), "configuration") {
		t.Errorf("with a broken configuration: %v, expected an error that says so", err)
	}
}

func TestFollowByReload(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	c := standbyOf(t, a, "db3")
	began := c.text("pg_postmaster_start_time()")
	a.exec("insert into t (v) select 'x' from generate_series(1, 100)")
	b.caughtUp(a)
	a.crash()
	b.promote()
	settle(t, b, 2, c)
	up := c.upstream(b)
	up.Password = `se:cr\et`
	conn := c.agent()
	if err := executors.Follow(within(t), conn, c.Postgres, up); err != nil {
		t.Fatal(err)
	}
	if err := executors.WaitStreaming(within(t), conn, c.Postgres, up); err != nil {
		t.Fatal(err)
	}
	c.isStandbyOf(b)
	if now := c.text("pg_postmaster_start_time()"); now != began {
		t.Errorf("it was restarted at %s, expected a reload only", now)
	}
	if info := c.text("current_setting('primary_conninfo')"); strings.Contains(info, "se:cr") || !strings.Contains(info, "passfile") {
		t.Errorf("primary_conninfo is %q, expected a passfile and no password", info)
	}
	if err := executors.Follow(within(t), nil, b.Postgres, up); err == nil || !strings.Contains(err.Error(), "not in recovery") {
		t.Errorf("a primary was led away: %v", err)
	}
}

// What cannot work is said at once, with the server's own words.
func TestWaitStreamingSaysWhy(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	c := standbyOf(t, a, "db3")
	b.promote() // alone: a goes on, and c with it
	a.exec("insert into t (v) select 'x' from generate_series(1, 100)")
	c.caughtUp(a)
	b.exec("select pg_create_physical_replication_slot('interrex_db3', true)")
	if err := executors.Follow(within(t), nil, c.Postgres, c.upstream(b)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err := executors.WaitStreaming(within(t), nil, c.Postgres, c.upstream(b))
	if err == nil || !strings.Contains(err.Error(), "before current recovery point") || time.Since(began) > patience/2 {
		t.Fatalf("after %s: %v; expected soon an error that quotes the server's log", time.Since(began), err)
	}
}

func settle(t *testing.T, s solo, term uint64, standbys ...solo) {
	t.Helper()
	var slots []string
	for _, o := range standbys {
		slots = append(slots, o.upstream(s).Slot)
	}
	if err := executors.Settle(within(t), s.agent(), s.Postgres, term, term+100, slots); err != nil {
		t.Fatal(err)
	}
}

func TestSettleMayBeRepeated(t *testing.T) {
	a := newPrimary(t, "db1", "synchronous_standby_names = 'nobody'", "synchronous_commit = local")
	a.exec("select pg_create_physical_replication_slot('interrex_db1', true)")
	for range 2 {
		if err := executors.Settle(within(t), nil, a.Postgres, 5, 42, []string{"interrex_db2", "interrex_db3"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.text("select string_agg(slot_name || (restart_lsn is not null), ' ' order by slot_name) from pg_replication_slots"); got != "interrex_db2true interrex_db3true" {
		t.Errorf("slots %q, expected those of db2 and db3, with WAL reserved, and none of its own", got)
	}
	rows, err := executors.TermRows(within(t), a.agent())
	if err != nil || len(rows) != 1 || rows[0].Term != 5 || rows[0].Node != "db1" || rows[0].Decision != 42 || rows[0].At.IsZero() {
		t.Errorf("rows %+v, %v; expected term 5 of db1 by decision 42", rows, err)
	}
	if err := executors.Settle(within(t), nil, a.Postgres, 5, 43, nil); err == nil || !strings.Contains(err.Error(), "another history") {
		t.Errorf("another decision for the same term: %v, expected an error", err)
	}
}

func TestNoTermRowsWithoutTheTable(t *testing.T) {
	a := newPrimary(t, "db1")
	if rows, err := executors.TermRows(within(t), a.agent()); err != nil || rows != nil {
		t.Errorf("%v, %v; expected none", rows, err)
	}
	b := standbyOf(t, a, "db2")
	if err := executors.Settle(within(t), nil, b.Postgres, 1, 1, nil); err == nil {
		t.Error("a standby was settled")
	}
}

// A standby that was connected has received everything, to the byte.
func TestDemoteHandsEverythingOver(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	stop := a.write()
	soloUntil(t, "rows arrive", func() bool { return b.text("select count(*) > 300 from t") == "true" })
	began := time.Now()
	dead, err := executors.Demote(within(t), a.agent(), a.Postgres)
	stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("demoted in %s: %+v", time.Since(began), dead)
	if !dead.Clean || !dead.StandbySignal {
		t.Fatalf("got %+v, expected a clean shutdown and standby.signal", dead)
	}
	pos, err := executors.FindPosition(within(t), nil, b.Postgres, inTime)
	if err != nil || pos.LSN != dead.EndLSN || !pos.Final {
		t.Fatalf("the standby stands at %+v, %v; expected exactly %s", pos, err, dead.EndLSN)
	}
	again, err := executors.Demote(within(t), nil, a.Postgres)
	if err != nil || again.EndLSN != dead.EndLSN {
		t.Fatalf("again: %+v, %v; expected the same end %s", again, err, dead.EndLSN)
	}
	if _, err := executors.Demote(within(t), nil, b.Postgres); err == nil {
		t.Fatal("a standby was demoted")
	}
	var conn *pgx.Conn
	if _, err := executors.Promote(within(t), conn, b.Postgres, yes); err != nil {
		t.Fatal(err)
	}
	settle(t, b, 2, a)
	a.recoverFrom(b, executors.HowStart, executors.RecoverOptions{})
}
