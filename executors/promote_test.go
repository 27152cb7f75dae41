package executors_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

func TestPromoteUnderLoad(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	stop := a.write()
	c := b.connect()
	soloUntil(t, "the standby replays rows", func() bool {
		var n int
		err := c.QueryRow(t.Context(), "select count(*) from t").Scan(&n)
		return err == nil && n > 500
	})
	a.crash()
	stop()
	got, took := b.promote()
	if got.Timeline != 2 || got.LSN == 0 || got.Calls < 1 {
		t.Fatalf("promoted to %+v in %s, expected timeline 2", got, took)
	}
	if end := b.lsn("pg_current_wal_insert_lsn()"); end < got.LSN {
		t.Fatalf("timeline begins at %s, behind the WAL's end %s", got.LSN, end)
	}
	b.exec("insert into t (v) values ('writable')")
	again, _ := b.promote()
	if again.Calls != 0 || again.Timeline != 2 || again.LSN != got.LSN {
		t.Fatalf("a second promotion gave %+v, expected 0 calls and the same place %s", again, got.LSN)
	}
}

// A paused replay, and a snapshot that vacuum's WAL conflicts with, would each
// hold a promotion up for max_standby_streaming_delay, 30 s.
func TestPromoteIsNotHeldUp(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	a.exec("insert into t (v) select 'x' from generate_series(1, 2000)")
	b.caughtUp(a)
	reader := b.connect()
	for _, sql := range []string{"begin isolation level repeatable read", "select count(*) from t"} {
		if _, err := reader.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	b.exec("select pg_wal_replay_pause()")
	a.exec("delete from t")
	a.exec("vacuum t")
	a.exec("insert into t (v) values ('last')")
	end := a.lsn("pg_current_wal_flush_lsn()")
	soloUntil(t, "everything is received", func() bool { return b.lsn("pg_last_wal_receive_lsn()") >= end })
	a.crash()
	got, took := b.promote()
	if took > 20*time.Second || got.Calls < 2 {
		t.Fatalf("promoted by %d calls in %s, expected at least 2 calls and much less than 30s", got.Calls, took)
	}
	if n := b.text("select string_agg(v, ',') from t"); n != "last" {
		t.Fatalf("the promoted standby holds the rows %q, expected \"last\"", n)
	}
	t.Logf("promoted in %s by %d calls", took, got.Calls)
}

func TestPromoteStopsWhenTheRightIsGone(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	gone := errors.New("the lease is over")
	if _, err := executors.Promote(within(t), b.agent(), b.Postgres, func() error { return gone }); !errors.Is(err, gone) || errors.As(err, new(*executors.PromoteUnknown)) {
		t.Fatalf("got %v, expected a refusal that is no PromoteUnknown", err)
	}
	if b.text("pg_is_in_recovery()") != "true" {
		t.Fatal("it was promoted without the right to")
	}
	// The startup process is frozen, so that no promotion comes to its end.
	var pid int
	if err := b.connect().QueryRow(t.Context(), "select pid from pg_stat_activity where backend_type = 'startup'").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	soloSignal(t, pid, 19)
	var asked atomic.Int32
	_, err := executors.Promote(within(t), b.agent(), b.Postgres, func() error {
		if asked.Add(1) > 3 {
			return gone
		}
		return nil
	})
	var unknown *executors.PromoteUnknown
	if !errors.As(err, &unknown) || !errors.Is(err, gone) || unknown.Calls != 3 {
		t.Fatalf("got %v, expected a PromoteUnknown after 3 calls because the lease is over", err)
	}
}

// The agent's connection may have died with something else; the promotion goes
// on with a new one.
func TestPromoteWithALostConnection(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	conn := b.agent()
	b.exec("select pg_terminate_backend($1)", conn.PgConn().PID())
	if got, err := executors.Promote(within(t), conn, b.Postgres, yes); err != nil || got.Timeline != 2 {
		t.Fatalf("got %+v, %v; expected timeline 2", got, err)
	}
}

// Failovers back and forth: kill, promote, bring the old one back.
func TestManyPromotions(t *testing.T) {
	n := 12
	if testing.Short() {
		n = 3
	}
	primary := newPrimary(t, "db1")
	standby := standbyOf(t, primary, "db2")
	var worst, sum time.Duration
	for i := range n {
		stop := primary.write()
		before := primary.lsn("pg_current_wal_flush_lsn()")
		soloUntil(t, "more is written", func() bool { return primary.lsn("pg_current_wal_flush_lsn()") > before+20000 })
		conn := standby.agent()
		primary.crash()
		stop()
		began := time.Now()
		got, err := executors.Promote(within(t), conn, standby.Postgres, yes)
		took := time.Since(began)
		if err != nil || got.Timeline != uint32(i+2) {
			t.Fatalf("promotion %d: %+v, %v; expected timeline %d", i, got, err, i+2)
		}
		worst, sum = max(worst, took), sum+took
		if err := executors.Settle(within(t), conn, standby.Postgres, uint64(i+2), uint64(i), []string{events.SlotName(primary.Node)}); err != nil {
			t.Fatal(err)
		}
		up := primary.upstream(standby)
		back, err := executors.Recover(within(t), primary.Postgres, up, executors.RecoverOptions{Decision: uint64(i)})
		if err != nil || back.How == executors.HowBaseBackup {
			t.Fatalf("recovery %d: %+v, %v; expected start or rewind", i, back, err)
		}
		primary.isStandbyOf(standby)
		primary, standby = standby, primary
	}
	t.Logf("%d promotions: mean %s, worst %s", n, sum/time.Duration(n), worst)
}
