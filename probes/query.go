package probes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/events"
)

// factSQL is the whole probe: one statement costs 0.06 ms on a kept connection,
// as much as select 1. It runs on PostgreSQL 13 to 18.
//
// pg_control_checkpoint() names the old timeline until the first checkpoint
// after a promotion, so a primary's comes from the name of the segment that it
// writes. A standby's is the greatest that any source knows: the receiver's is
// absent when it is not connected, the control file's lags behind it.
const factSQL = `
with r as materialized (select pg_is_in_recovery() as rec)
select r.rec,
  case when r.rec
    then greatest(c.timeline_id, v.min_recovery_end_timeline, w.received_tli)::bigint
    else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint end,
  s.system_identifier::text,
  current_setting('server_version_num')::int,
  coalesce(case when r.rec
    then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    else pg_current_wal_flush_lsn() end::text, ''),
  coalesce(case when r.rec then pg_last_wal_replay_lsn() end::text, ''),
  case when r.rec then pg_is_wal_replay_paused() else false end,
  coalesce(w.status, ''), coalesce(w.sender_host, ''), coalesce(w.sender_port, 0),
  coalesce((select json_agg(json_build_object('node', application_name, 'state', coalesce(state, ''),
      'sync', coalesce(sync_state, ''), 'flush', coalesce(flush_lsn::text, '')) order by application_name, pid)
    from pg_stat_replication), '[]')::text,
  (select count(*) from pg_stat_activity
    where backend_type = 'client backend' and application_name not like 'interrex%' and pid <> pg_backend_pid())::int,
  pg_postmaster_start_time()
from r, pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() v
left join pg_stat_wal_receiver w on true`

// ask runs the statement. A promotion between two of its functions, a recovery
// conflict or a cancel by an operator ends it with an error of the statement
// only: the server lives, so it is asked once more.
func ask(ctx context.Context, conn *pgx.Conn) (Fact, error) {
	f, err := askOnce(ctx, conn)
	var server *pgconn.PgError
	if errors.As(err, &server) && !conn.IsClosed() {
		f, err = askOnce(ctx, conn)
	}
	return f, err
}

func askOnce(ctx context.Context, conn *pgx.Conn) (Fact, error) {
	var (
		f                     = Fact{State: events.PostgresUp}
		timeline              int64
		lsn, replay, replicas string
		started               time.Time
	)
	err := conn.QueryRow(ctx, factSQL).Scan(&f.InRecovery, &timeline, &f.SystemID, &f.Version, &lsn, &replay,
		&f.ReplayPaused, &f.Receiver, &f.SenderHost, &f.SenderPort, &replicas, &f.Clients, &started)
	if err != nil {
		return Fact{}, err
	}
	f.Timeline, f.Started = uint32(timeline), started
	if f.LSN, err = position(lsn); err != nil {
		return Fact{}, err
	}
	if f.Replay, err = position(replay); err != nil {
		return Fact{}, err
	}
	if err := json.Unmarshal([]byte(replicas), &f.Replicas); err != nil {
		return Fact{}, fmt.Errorf("probes: pg_stat_replication as JSON %q: %w", replicas, err)
	}
	return f, nil
}

// position reads a WAL position; an empty text is unknown.
func position(s string) (events.LSN, error) {
	if s == "" {
		return 0, nil
	}
	return events.ParseLSN(s)
}
