package executors

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

// source is the upstream of a recovery, as its administrator's connection sees
// it.
type source struct {
	conn     *pgx.Conn
	systemID string
	timeline uint32
	flush    events.LSN
	history  []pastTimeline
	segment  uint64
}

// adminDSN reaches the upstream's database as the agent's superuser. It may
// hold a password: never log it.
func adminDSN(p Postgres, up Upstream) string {
	q := url.Values{"application_name": {ApplicationName}}
	if p.Password == "" && up.Passfile != "" {
		q.Set("passfile", up.Passfile)
	}
	return p.dsnTo(up.Host, up.Port, up.SSLMode, q)
}

// openSource connects and reads; the connection is the caller's to close.
func openSource(ctx context.Context, dial func(context.Context) (*pgx.Conn, error)) (source, error) {
	var s source
	conn, err := dial(ctx)
	if err != nil {
		return s, fmt.Errorf("connect to the upstream: %w", err)
	}
	s.conn = conn
	if err := s.read(ctx); err != nil {
		closeConn(conn)
		return source{}, fmt.Errorf("read the upstream's state: %w", err)
	}
	return s, nil
}

func (s *source) read(ctx context.Context) error {
	var recovering bool
	var name, history string
	var checkpointed uint32
	if err := s.conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering); err != nil {
		return err
	}
	if recovering {
		return errors.New("it is itself in recovery: only a primary can take a node back")
	}
	err := s.conn.QueryRow(ctx, `SELECT system_identifier::text, pg_walfile_name(pg_current_wal_insert_lsn()),
		(SELECT timeline_id FROM pg_control_checkpoint()), (SELECT bytes_per_wal_segment FROM pg_control_init()) FROM pg_control_system()`).
		Scan(&s.systemID, &name, &checkpointed, &s.segment)
	if err != nil {
		return err
	}
	timeline, err := strconv.ParseUint(name[:min(8, len(name))], 16, 32)
	if err != nil {
		return fmt.Errorf("pg_walfile_name returned %q, expected 24 hexadecimal digits", name)
	}
	s.timeline = uint32(timeline)
	if s.timeline > 1 {
		if err := s.conn.QueryRow(ctx, "SELECT pg_read_file($1)", fmt.Sprintf("pg_wal/%08X.history", s.timeline)).Scan(&history); err != nil {
			return fmt.Errorf("timeline history: %w", err)
		}
		s.history = parseHistory(history)
	}
	if checkpointed != s.timeline {
		// Freshly promoted: before version 16 pg_rewind believes the timeline of
		// the last checkpoint.
		_, err = s.conn.Exec(ctx, "CHECKPOINT")
	}
	return err
}

// readFlush reads how far the upstream's WAL goes at this moment.
func (s *source) readFlush(ctx context.Context) error {
	var flush string
	if err := s.conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&flush); err != nil {
		return fmt.Errorf("read the end of the upstream's WAL: %w", err)
	}
	var err error
	s.flush, err = events.ParseLSN(flush)
	return err
}

// segmentBytes reads a part of a WAL segment of the upstream; nil when it has no
// such file.
func (s *source) segmentBytes(ctx context.Context, name string, from, length uint64) ([]byte, error) {
	var b []byte
	err := s.conn.QueryRow(ctx, "SELECT pg_read_binary_file($1, $2, $3, true)", "pg_wal/"+name, int64(from), int64(length)).Scan(&b)
	if err != nil {
		return nil, fmt.Errorf("read the upstream's WAL segment %s: %w", name, err)
	}
	return b, nil
}

// size is what a base backup of the upstream needs, in bytes: all databases and
// the WAL.
func (s *source) size(ctx context.Context) (uint64, error) {
	var n int64
	err := s.conn.QueryRow(ctx, `SELECT ((SELECT sum(pg_database_size(oid)) FROM pg_database) + (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()))::bigint`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("size of the upstream: %w", err)
	}
	return uint64(max(n, 0)), nil
}

// slotWithin bounds the wait for the walsender of the stopped standby to let go
// of its slot.
const slotWithin = 10 * time.Second

// claimSlot makes sure that the standby's slot exists and is free.
func (s *source) claimSlot(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if err := ensureSlot(ctx, s.conn, name); err != nil {
		return fmt.Errorf("slot %s of the upstream: %w", name, err)
	}
	limited, cancel := context.WithTimeout(ctx, slotWithin)
	defer cancel()
	var pid int
	err := await(limited, 20*time.Millisecond, func() (bool, error) {
		err := s.conn.QueryRow(limited, "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", name).Scan(&pid)
		return pid == 0, err
	})
	if err != nil {
		return fmt.Errorf("slot %s of the upstream is in use by its process %d, expected nobody; see whether another standby uses this node's name: %w", name, pid, err)
	}
	return nil
}

// ProvideSlot makes sure, within 2 s, that the slot which up names exists on the
// upstream, before the node's receiver asks for it: a receiver whose slot is
// missing tries again only after wal_retrieve_retry_interval, 5 s by default. An
// upstream in recovery is refused. An empty name needs no slot.
func ProvideSlot(ctx context.Context, p Postgres, up Upstream) error {
	if up.Slot == "" {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connect(limited, adminDSN(p, up))
	if err != nil {
		return fmt.Errorf("node %s: slot %s on %s: connect: %w", p.Node, up.Slot, up.Node, err)
	}
	defer closeConn(conn)
	var recovering bool
	err = conn.QueryRow(limited, "SELECT pg_is_in_recovery()").Scan(&recovering)
	if err == nil && recovering {
		err = errors.New("it is in recovery itself")
	}
	if err == nil {
		err = ensureSlot(limited, conn, up.Slot)
	}
	if err != nil {
		return fmt.Errorf("node %s: slot %s on %s: %w", p.Node, up.Slot, up.Node, err)
	}
	return nil
}

// tablespaces returns the directories of the upstream's tablespaces by oid;
// those inside its data directory are left out.
func (s *source) tablespaces(ctx context.Context) (map[uint32]string, error) {
	rows, err := s.conn.Query(ctx, "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'")
	if err != nil {
		return nil, fmt.Errorf("tablespaces of the upstream: %w", err)
	}
	out := map[uint32]string{}
	var oid uint32
	var dir string
	if _, err := pgx.ForEachRow(rows, []any{&oid, &dir}, func() error { out[oid] = dir; return nil }); err != nil {
		return nil, fmt.Errorf("tablespaces of the upstream: %w", err)
	}
	return out, nil
}
