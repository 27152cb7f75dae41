package executors

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

// PositionOptions tells FindPosition what it may assume and how long it may
// take; a zero duration means 1 s.
type PositionOptions struct {
	// Detach: the upstream may still be alive, so the standby is made to leave
	// it. Otherwise the upstream is known to be dead and its receiver ends by
	// itself.
	Detach bool
	// GoneWithin bounds the wait until nothing is received any more.
	GoneWithin time.Duration
	// ReplayWithin bounds the further wait until everything received is
	// replayed; running out of it is no error.
	ReplayWithin time.Duration
}

// Position is where a standby's WAL ends, and what it followed before.
type Position struct {
	LSN      events.LSN // end of what it has received and flushed, or replayed
	Replay   events.LSN
	Timeline uint32 // of LSN
	SystemID string
	// Final: everything on its disk is replayed, so that LSN is exact. When
	// false, LSN is a lower bound: WAL beyond it may be found by replaying on.
	Final     bool
	WasPaused bool   // its replay had been paused and was resumed
	Conninfo  string // primary_conninfo before it was detached; may hold a password
	Slot      string // primary_slot_name
	Restore   string // restore_command; it is left as it is
}

// receiverPatience is how long a receiver may take to end by itself before it
// gets SIGTERM.
const receiverPatience = 200 * time.Millisecond

// FindPosition makes sure that a standby receives nothing any more and reports
// where its WAL ends. With Detach it sets primary_conninfo to the empty string,
// durably, and believes only the effect: the setting is seen and comes from
// postgresql.auto.conf, and the receiver's process is gone. A paused replay is
// resumed and snapshots that block it are terminated, because the receiver goes
// on acknowledging until the startup process has come by; a receiver that lives
// longer than 200 ms gets SIGTERM. A server out of recovery, and a receiver that is not gone in
// time, are errors, as is ErrHole; with Detach the standby may be detached nevertheless. Conn
// may be nil. It may be called again at any time; what it followed is then no
// longer known.
func FindPosition(ctx context.Context, conn *pgx.Conn, p Postgres, o PositionOptions) (Position, error) {
	var pos Position
	if o.GoneWithin == 0 {
		o.GoneWithin = time.Second
	}
	if o.ReplayWithin == 0 {
		o.ReplayWithin = time.Second
	}
	err := withConn(ctx, conn, p, func(conn *pgx.Conn) error {
		s := detaching{p: p, conn: conn}
		if err := s.before(ctx, &pos); err != nil {
			return err
		}
		if o.Detach {
			if err := s.detach(ctx); err != nil {
				return err
			}
		}
		if err := s.wait(ctx, o); err != nil {
			return err
		}
		if err := s.settle(ctx, o, &pos); err != nil {
			return err
		}
		return s.whole(ctx)
	})
	if err != nil {
		return pos, fmt.Errorf("node %s: stop receiving and find the position: %w", p.Node, err)
	}
	return pos, nil
}

// detaching is one FindPosition under way.
type detaching struct {
	p        Postgres
	conn     *pgx.Conn
	received uint32 // the timeline that the receiver was last seen on, 0 unknown
}

func (s *detaching) before(ctx context.Context, pos *Position) error {
	var recovering bool
	err := s.conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
		current_setting('primary_conninfo'), current_setting('primary_slot_name'), current_setting('restore_command'),
		(SELECT system_identifier::text FROM pg_control_system()),
		coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0)`).
		Scan(&recovering, &pos.WasPaused, &pos.Conninfo, &pos.Slot, &pos.Restore, &pos.SystemID, &s.received)
	if err != nil {
		return fmt.Errorf("read what it follows: %w", err)
	}
	if !recovering {
		return errors.New("it is not in recovery: a primary has no receiver to stop; demote it instead")
	}
	return nil
}

func (s *detaching) detach(ctx context.Context) error {
	if err := alterSystem(ctx, s.conn, "primary_conninfo", ""); err != nil {
		return err
	}
	return reloadConfiguration(ctx, s.conn)
}

// wait returns when nothing is received any more. Without detaching, a receiver
// that only tries to connect to the dead upstream receives nothing.
func (s *detaching) wait(ctx context.Context, o PositionOptions) error {
	limited, cancel := context.WithTimeoutCause(ctx, o.GoneWithin, errStillReceiving)
	defer cancel()
	began, signalled := time.Now(), 0
	var r receiver
	err := await(limited, 3*time.Millisecond, func() (bool, error) {
		err := s.look(limited, &r)
		r.ending = r.pid != 0 && r.pid == signalled
		if err != nil || r.gone(o.Detach) {
			return err == nil, err
		}
		if !o.Detach {
			return false, nil
		}
		if err := s.unblock(limited, r); err != nil {
			return false, err
		}
		if r.pid != 0 && r.pid != signalled && time.Since(began) > receiverPatience {
			signalled = r.pid
			return false, s.terminate(limited, r.pid)
		}
		return false, nil
	})
	if err != nil && errors.Is(context.Cause(limited), errStillReceiving) {
		return fmt.Errorf("%w after %s: %s", errStillReceiving, o.GoneWithin, r)
	}
	return err
}

var errStillReceiving = errors.New("it still receives WAL")

// receiver is what can be seen of the process that receives WAL.
type receiver struct {
	pid               int  // 0 when there is no such process
	fed               bool // it is connected to an upstream
	ending            bool // it was told to end
	from              string
	paused            bool
	conninfo, setFrom string // primary_conninfo and where it is set
	fileError         string // the first error in the configuration files
}

func (r receiver) gone(detach bool) bool {
	if !detach {
		return !r.fed
	}
	// One that looks up the name of a host that is gone hears SIGTERM only when
	// that is over, seconds later; but before it would receive anything, and it
	// has no connection yet.
	return (r.pid == 0 || r.ending) && !r.fed && r.conninfo == ""
}

func (r receiver) String() string {
	switch {
	case r.conninfo != "" && r.fileError != "":
		return "the reload was refused because of an error in the configuration, repair it: " + r.fileError
	case r.conninfo != "" && r.setFrom == "command line":
		return "primary_conninfo is set on the server's command line, which ALTER SYSTEM cannot override; remove it there"
	case r.pid != 0:
		return fmt.Sprintf("process %d is connected to %q", r.pid, r.from)
	}
	return fmt.Sprintf("primary_conninfo is set by %q", r.setFrom)
}

func (s *detaching) look(ctx context.Context, r *receiver) error {
	var timeline uint32
	err := s.conn.QueryRow(ctx, `SELECT
		coalesce((SELECT min(pid) FROM pg_stat_activity WHERE backend_type = 'walreceiver'), 0),
		EXISTS (SELECT FROM pg_stat_wal_receiver),
		coalesce((SELECT sender_host || ':' || sender_port FROM pg_stat_wal_receiver), ''),
		coalesce((SELECT received_tli FROM pg_stat_wal_receiver), 0),
		pg_is_wal_replay_paused(), setting, source,
		CASE WHEN setting <> '' THEN coalesce((SELECT concat_ws(': ', sourcefile || ' line ' || sourceline, name, error) FROM pg_file_settings WHERE error IS NOT NULL LIMIT 1), '') ELSE '' END
		FROM pg_settings WHERE name = 'primary_conninfo'`).
		Scan(&r.pid, &r.fed, &r.from, &timeline, &r.paused, &r.conninfo, &r.setFrom, &r.fileError)
	if sqlState(err) != "" && ctx.Err() == nil && !s.conn.IsClosed() {
		return nil // a recovery conflict may cancel the question; r keeps its last state, which is not "gone"
	}
	s.received = max(s.received, timeline)
	return err
}

// unblock lets the startup process come by: it is the one that ends the
// receiver.
func (s *detaching) unblock(ctx context.Context, r receiver) error {
	if r.paused {
		if _, err := s.conn.Exec(ctx, "SELECT pg_wal_replay_resume()"); err != nil && sqlState(err) == "" {
			return err
		}
	}
	if err := terminateObstacles(ctx, s.conn, false); err != nil && sqlState(err) == "" {
		return err
	}
	return nil
}

// terminate signals the receiver by its number: pg_terminate_backend does not
// reach it.
func (s *detaching) terminate(ctx context.Context, pid int) error {
	_, err := s.p.Runner.Run(ctx, Command{Path: "sh", Args: []string{"-c", `kill -TERM "$1" 2>/dev/null || :`, "sh", strconv.Itoa(pid)}, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("end the receiver %d: %w", pid, err)
	}
	return nil
}

// Warm asks everything that FindPosition and Promote will ask, once, on a
// connection that is kept for them: the first question on a new session takes
// some 20 ms for reading catalogs, and a failover waits for the answer.
func Warm(ctx context.Context, conn *pgx.Conn) error {
	s := detaching{conn: conn}
	var pos Position
	var r receiver
	if err := s.before(ctx, &pos); err != nil {
		return err
	}
	if err := s.look(ctx, &r); err != nil {
		return err
	}
	if err := s.read(ctx, &pos); err != nil {
		return err
	}
	if err := s.whole(ctx); !errors.Is(err, ErrHole) {
		return err
	}
	return nil
}

// settle waits a bounded time until everything received is replayed, then reads
// the position.
func (s *detaching) settle(ctx context.Context, o PositionOptions, pos *Position) error {
	limited, cancel := context.WithTimeout(ctx, o.ReplayWithin)
	defer cancel()
	for looked := time.Now(); ; {
		if err := s.read(ctx, pos); err != nil {
			return err
		}
		if pos.Final || limited.Err() != nil {
			return nil
		}
		if time.Since(looked) > obstaclesAfter {
			if err := s.unblock(ctx, receiver{paused: o.Detach}); err != nil {
				return err
			}
			looked = time.Now()
		}
		if err := pause(limited, 3*time.Millisecond); err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// ErrHole: on the newest timeline the standby lacks WAL that it has replayed. A
// receiver that follows its upstream to a new timeline begins at the start of
// the segment; when it is cut off before it is back where replay was, that
// segment is not whole, and at the end of recovery PostgreSQL reads its last
// record again, from there: PANIC (xlogrecovery.c, FinishWalRecovery).
var ErrHole = errors.New("it cannot be promoted: PostgreSQL would end with PANIC")

// whole looks at the WAL before the replay position, in the newest timeline's
// file, where the receiver has not come back to it. What never came is zeros, or
// what the file held before it was recycled: a page with another address. A
// replay that stands at a segment's end has followed a switch of segments, whose
// record came; a receiver never begins before it again.
func (s *detaching) whole(ctx context.Context) error {
	var timeline uint32
	var receive, replay string
	var zero, ended bool
	var page int64
	var header []byte
	err := s.conn.QueryRow(ctx, `WITH l AS (SELECT pg_last_wal_receive_lsn() AS receive, pg_last_wal_replay_lsn() AS replay),
		b AS (SELECT receive, replay, (SELECT bytes_per_wal_segment FROM pg_control_init())::numeric AS size, 4294967296 / (SELECT bytes_per_wal_segment FROM pg_control_init())::numeric AS per,
			div(replay - '0/0'::pg_lsn - 1, 8192) * 8192 AS page, replay - '0/0'::pg_lsn AS past FROM l WHERE receive < replay),
		g AS (SELECT b.*, greatest(receive - '0/0'::pg_lsn, page) AS first FROM b),
		f AS (SELECT g.*, name FROM g, pg_ls_waldir() AS w (name, bytes, changed) WHERE name ~ '^[0-9A-F]{24}$'
			AND right(name, 16) = upper(lpad(to_hex(div(div(page, g.size), g.per)::bigint), 8, '0') || lpad(to_hex(mod(div(page, g.size), g.per)::bigint), 8, '0'))
			ORDER BY name DESC LIMIT 1)
		SELECT ('x' || left(name, 8))::bit(32)::int, receive::text, replay::text, mod(past, size) = 0, page::bigint,
			pg_read_binary_file('pg_wal/' || name, mod(page, size)::bigint, 16),
			pg_read_binary_file('pg_wal/' || name, mod(first, f.size)::bigint, (past - first)::bigint) = decode(repeat('00', (past - first)::int), 'hex') FROM f`).
		Scan(&timeline, &receive, &replay, &ended, &page, &header, &zero)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // everything replayed was received, or nothing was received since its start
	}
	if err != nil {
		return fmt.Errorf("look for the WAL before its replay position: %w", err)
	}
	const addressAt = 8 // xlp_pageaddr
	stale := len(header) < addressAt+8 || binary.NativeEndian.Uint64(header[addressAt:]) != uint64(page)
	if !ended && (zero || stale) {
		return fmt.Errorf("%w: on timeline %d it has received WAL up to %s only, and replayed up to %s; it needs the rest from a primary of that timeline, or a recovery", ErrHole, timeline, receive, replay)
	}
	return nil
}

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// read takes all in one statement. The startup process waits in one of the two
// events only when it has found no more WAL on disk. The timeline is the newest
// that WAL of this position was written for; pg_control alone is behind until
// the next restartpoint.
func (s *detaching) read(ctx context.Context, pos *Position) error {
	var receive, replay string
	var control, recovery, disk uint32
	var waiting bool
	err := s.conn.QueryRow(ctx, `WITH l AS (SELECT pg_last_wal_receive_lsn() AS receive, coalesce(pg_last_wal_replay_lsn(), '0/0') AS replay),
		e AS (SELECT greatest(coalesce(receive, '0/0'), replay) AS at, (SELECT bytes_per_wal_segment FROM pg_control_init())::numeric AS size FROM l),
		n AS (SELECT div(greatest(at - '0/0'::pg_lsn - 1, 0), size) AS segment, 4294967296 / size AS per FROM e)
		SELECT coalesce(receive, '0/0')::text, replay::text,
		coalesce((SELECT wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream', 'RecoveryWalAll') FROM pg_stat_activity WHERE backend_type = 'startup'), false),
		(SELECT timeline_id FROM pg_control_checkpoint()), (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
		coalesce((SELECT max(('x' || left(name, 8))::bit(32)::int) FROM pg_ls_waldir(), n WHERE name ~ '^[0-9A-F]{24}$'
			AND right(name, 16) = upper(lpad(to_hex(div(segment, per)::bigint), 8, '0') || lpad(to_hex(mod(segment, per)::bigint), 8, '0'))), 0)
		FROM l`).Scan(&receive, &replay, &waiting, &control, &recovery, &disk)
	if sqlState(err) != "" && !s.conn.IsClosed() {
		pos.Final = false
		if sqlState(err) == "40001" {
			return nil // a recovery conflict; asked again
		}
	}
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	received, err := events.ParseLSN(receive)
	replayed, err2 := events.ParseLSN(replay)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	pos.LSN, pos.Replay = max(received, replayed), replayed
	pos.Timeline = max(s.received, control, recovery, disk)
	pos.Final = waiting && replayed >= received
	return nil
}
