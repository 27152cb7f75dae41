package executors

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

const (
	// A promotion asked for once can be overlooked for as long as
	// wal_retrieve_retry_interval (5 s by default) when the primary has just
	// died: asking again wakes the startup process.
	promoteAgainEvery = 30 * time.Millisecond
	// Sessions that may block the replay are given this long, and twice as long.
	obstaclesAfter   = 100 * time.Millisecond
	promotePollEvery = 5 * time.Millisecond
	promoteReconnect = 20 * time.Millisecond
)

// Promoted is what a promotion ended in.
type Promoted struct {
	LSN      events.LSN // where the new timeline begins
	Timeline uint32
	Calls    int // how often pg_promote was called
}

// PromoteUnknown says that a promotion was asked for at least once and that its
// end was not seen: the node counts as a possible primary until it is fenced.
type PromoteUnknown struct {
	Node  string
	Calls int
	Err   error // why it was not pursued
}

// Error names the node and the reason.
func (e *PromoteUnknown) Error() string {
	return fmt.Sprintf("node %s: promotion was asked for %d times and its outcome is unknown; treat the node as a possible primary until it is fenced: %v", e.Node, e.Calls, e.Err)
}

// Unwrap returns why the promotion was not pursued.
func (e *PromoteUnknown) Unwrap() error { return e.Err }

// Promote makes a standby the primary and returns when it is out of recovery.
// It asks with pg_promote(false) and asks again every 30 ms, each time only if
// check returns nil; check says whether the right to promote still stands and
// should return within milliseconds. Its first error, or the end of ctx, ends the promotion
// with a *PromoteUnknown once anything was sent; before that the error is an
// ordinary one and nothing has happened. A server that is already out of
// recovery is a success with 0 calls.
//
// A paused replay is resumed. After 100 ms sessions that hold an old snapshot are terminated,
// after 200 ms all that are in a transaction: they can block the replay for
// max_standby_streaming_delay. Conn may be nil; a lost one is replaced by a new
// connection, never used again.
func Promote(ctx context.Context, conn *pgx.Conn, p Postgres, check func() error) (Promoted, error) {
	a := promotion{p: p, conn: conn, check: check}
	defer func() {
		if a.own {
			closeConn(a.conn)
		}
	}()
	err := a.run(ctx)
	if err != nil && a.calls > 0 {
		return Promoted{Calls: a.calls}, &PromoteUnknown{Node: p.Node, Calls: a.calls, Err: err}
	}
	if err != nil {
		return Promoted{}, fmt.Errorf("node %s: promotion was not begun: %w", p.Node, err)
	}
	return Promoted{LSN: a.lsn, Timeline: a.timeline, Calls: a.calls}, nil
}

// promotion is one Promote under way.
type promotion struct {
	p        Postgres
	conn     *pgx.Conn
	own      bool // conn was opened here
	check    func() error
	resumed  bool
	calls    int
	began    time.Time // of the first request
	asked    time.Time // of the last
	lsn      events.LSN
	timeline uint32
}

func (a *promotion) run(ctx context.Context) error {
	tick := time.NewTicker(promotePollEvery)
	defer tick.Stop()
	for {
		err := a.step(ctx)
		if err == nil && a.timeline != 0 {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// step asks when it is time to, and then looks. A server's own error is no
// reason to end: a recovery conflict may cancel the very question.
func (a *promotion) step(ctx context.Context) error {
	if err := a.connected(ctx); err != nil {
		return err
	}
	if time.Since(a.asked) >= promoteAgainEvery {
		if err := a.ask(ctx); err != nil && sqlState(err) == "" && !a.conn.IsClosed() {
			return err
		}
	}
	if a.conn.IsClosed() {
		return nil // the next step connects again
	}
	var recovering bool
	err := a.conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering)
	if err == nil && !recovering {
		return a.inspect(ctx)
	}
	return nil
}

func (a *promotion) connected(ctx context.Context) error {
	if a.conn != nil && !a.conn.IsClosed() {
		return nil
	}
	return await(ctx, promoteReconnect, func() (bool, error) {
		conn, err := Connect(ctx, a.p)
		if err != nil {
			if a.calls == 0 {
				return false, err
			}
			return false, a.check()
		}
		a.conn, a.own = conn, true
		return true, nil
	})
}

// A paused startup process notices a promotion only when its sleep of one second
// is over; resumed, at once. Resuming is an error once the promotion is noticed,
// so it is asked for only the first time. Targets are evaluated from the left.
const resumeAndPromote = "SELECT CASE WHEN pg_is_wal_replay_paused() THEN pg_wal_replay_resume() END, pg_promote(false)"

func (a *promotion) ask(ctx context.Context) error {
	if err := a.check(); err != nil {
		return fmt.Errorf("the right to promote is not certain any more: %w", err)
	}
	a.asked = time.Now()
	a.calls++
	sql := "SELECT pg_promote(false)"
	if !a.resumed {
		a.resumed, sql = true, resumeAndPromote
	}
	_, err := a.conn.Exec(ctx, sql)
	if sqlState(err) == stateNotPrerequisite { // not in recovery: this call did nothing
		a.calls--
	}
	if a.began.IsZero() {
		a.began = a.asked
	}
	waited := time.Since(a.began)
	if err != nil || waited < obstaclesAfter {
		return err
	}
	return terminateObstacles(ctx, a.conn, waited >= 2*obstaclesAfter)
}

// terminateObstacles ends client sessions that hold up the replay: those with a
// snapshot older than 50 ms, or, when all is set, every one in a transaction,
// since an open transaction may hold a lock that the primary's WAL takes away.
func terminateObstacles(ctx context.Context, conn *pgx.Conn, all bool) error {
	which := "backend_xmin IS NOT NULL"
	if all {
		which = "xact_start IS NOT NULL"
	}
	_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
		AND application_name NOT LIKE 'interrex%' AND xact_start < clock_timestamp() - interval '50 ms' AND `+which)
	return err
}

// inspect reads where the new timeline began; what the server itself refuses is
// asked again.
func (a *promotion) inspect(ctx context.Context) error {
	got, err := TimelineOf(ctx, a.conn)
	if err != nil {
		if sqlState(err) != "" || a.conn.IsClosed() {
			return nil // asked again
		}
		return err
	}
	a.lsn, a.timeline = got.LSN, got.Timeline
	return nil
}

// TimelineOf reads the timeline of a server that is out of recovery, and where
// that began, from its history file: the position after it has already moved
// on. Calls stays 0.
func TimelineOf(ctx context.Context, conn *pgx.Conn) (Promoted, error) {
	var name, lsn string
	err := conn.QueryRow(ctx, "SELECT pg_walfile_name(l), l::text FROM pg_current_wal_insert_lsn() l").Scan(&name, &lsn)
	if err != nil {
		return Promoted{}, fmt.Errorf("read the timeline: %w", err)
	}
	timeline, err := strconv.ParseUint(name[:min(8, len(name))], 16, 32)
	if err != nil {
		return Promoted{}, fmt.Errorf("pg_walfile_name returned %q, expected 24 hexadecimal digits", name)
	}
	got := Promoted{Timeline: uint32(timeline)}
	if got.LSN, err = events.ParseLSN(lsn); err != nil {
		return Promoted{}, err
	}
	var history string
	err = conn.QueryRow(ctx, "SELECT coalesce(pg_read_file($1, 0, 1000000, true), '')", fmt.Sprintf("pg_wal/%08X.history", timeline)).Scan(&history)
	if err == nil {
		if h := parseHistory(history); len(h) > 0 {
			got.LSN = h[len(h)-1].End
		}
	}
	return got, nil
}

// pastTimeline is one line of a timeline's history: a timeline that ended, and
// where.
type pastTimeline struct {
	Timeline uint32
	End      events.LSN
}

// parseHistory reads a .history file, oldest timeline first; what is not a line
// of it is passed over, as PostgreSQL does with comments.
func parseHistory(text string) []pastTimeline {
	var out []pastTimeline
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		timeline, err := strconv.ParseUint(fields[0], 10, 32)
		end, err2 := events.ParseLSN(fields[1])
		if err == nil && err2 == nil {
			out = append(out, pastTimeline{uint32(timeline), end})
		}
	}
	return out
}
