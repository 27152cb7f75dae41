package script

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/executors"
)

// seen is what one look at a server found.
type seen struct {
	recovering bool
	system     string
	timeline   uint32 // the newest it knows of, while recovering
	receiver   int    // pid of the process that receives WAL, 0: none
	receiving  string // what that says of itself
	streaming  bool
}

// lookTimeout bounds one look: a server that does not answer must not use up
// the time in which it could be seen.
const lookTimeout = 2 * time.Second

func look(ctx context.Context, conn *pgx.Conn) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var s seen
	err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()),
		greatest((SELECT timeline_id FROM pg_control_checkpoint()), (SELECT min_recovery_end_timeline FROM pg_control_recovery()), r.tli),
		coalesce(r.pid, 0), coalesce(r.status || ' from ' || r.host || ':' || r.port, 'no receiver'), coalesce(r.status = 'streaming', false)
		FROM (SELECT max(pid) AS pid, max(status) AS status, max(sender_host) AS host, max(sender_port) AS port, max(received_tli) AS tli
			FROM pg_stat_wal_receiver) r`).
		Scan(&s.recovering, &s.system, &s.timeline, &s.receiver, &s.receiving, &s.streaming)
	return s, err
}

// lookAt opens a connection for one look.
func lookAt(ctx context.Context, p executors.Postgres) (seen, error) {
	conn, err := executors.Connect(ctx, p)
	if err != nil {
		return seen{}, err
	}
	defer closeConn(conn)
	return look(ctx, conn)
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // the socket is closed in any case
}

// othersWithin bounds the look at the other nodes: a promotion waits for it, and
// of those that failed one may be silent.
const othersWithin = time.Second

// primaries looks at nodes side by side and names those of the system that are
// out of recovery, and those that did not answer.
func primaries(ctx context.Context, nodes []executors.Postgres, system string) (out, unseen []string) {
	ctx, cancel := context.WithTimeout(ctx, othersWithin)
	defer cancel()
	found := make([]seen, len(nodes))
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, p := range nodes {
		all.Go(func() { found[i], errs[i] = lookAt(ctx, p) })
	}
	all.Wait()
	for i, p := range nodes {
		switch {
		case errs[i] != nil:
			unseen = append(unseen, p.Node)
		case !found[i].recovering && found[i].system == system:
			out = append(out, p.Node)
		}
	}
	return out, unseen
}

// down says whether an error of a connection proves that nobody listens there:
// every address that was tried has refused, or has no socket. That somebody
// hangs, or refuses the login, proves the contrary, or nothing.
func down(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // each branch is looked at by itself
		for _, one := range all.Unwrap() {
			if !down(one) {
				return false
			}
		}
		return len(all.Unwrap()) > 0
	}
	if op, ok := err.(*net.OpError); ok { //nolint:errorlint // as above
		return op.Op == "dial" && (errors.Is(op, syscall.ECONNREFUSED) || errors.Is(op, syscall.ENOENT))
	}
	inner := errors.Unwrap(err)
	return inner != nil && down(inner)
}

// follower is one server that is looked at again and again over a connection
// that is replaced when it is lost.
type follower struct {
	p    executors.Postgres
	conn *pgx.Conn
}

func (f *follower) look(ctx context.Context) (seen, error) {
	if f.conn == nil || f.conn.IsClosed() {
		conn, err := executors.Connect(ctx, f.p)
		if err != nil {
			return seen{}, err
		}
		f.conn = conn
	}
	return look(ctx, f.conn)
}

func (f *follower) close() {
	if f.conn != nil {
		closeConn(f.conn)
	}
}

// until calls check every 20 ms until it is done, fails or ctx ends, which is
// no error: the caller knows what was seen last.
func until(ctx context.Context, check func() (bool, error)) (bool, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if done, err := check(); done || err != nil {
			return done, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
}

// witness is a record in the primary's WAL by which a standby is known to
// receive from this very primary, directly or through others: names and
// addresses in a script's primary_conninfo may differ from ours, and another
// server of the same system identifier may stream as well.
type witness struct {
	file  string
	at    int64
	end   string // the LSN after it
	bytes []byte
}

const (
	witnessBytes = 128 // of the record's end: its random content lies in them
	witnessTries = 8   // a record near the start of a segment is not used
)

// leaveWitness writes the record: a message for logical decoding, to which
// nobody listens, flushed by its commit.
func leaveWitness(ctx context.Context, conn *pgx.Conn, nonce string) (witness, error) {
	var w witness
	for range witnessTries {
		err := conn.QueryRow(ctx, "SELECT pg_logical_emit_message(true, 'interrex', $1)::text", nonce).Scan(&w.end)
		if err != nil {
			return w, fmt.Errorf("write a record to the primary's WAL: %w", err)
		}
		var past int64
		if err := conn.QueryRow(ctx, "SELECT file_name, file_offset FROM pg_walfile_name_offset($1::text::pg_lsn)", w.end).Scan(&w.file, &past); err != nil {
			return w, fmt.Errorf("find a record of the primary's WAL: %w", err)
		}
		if w.at = past - witnessBytes; w.at < 0 {
			continue
		}
		w.bytes, err = w.read(ctx, conn)
		return w, err
	}
	return w, errors.New("the primary's WAL is always at the start of a segment")
}

func (w witness) read(ctx context.Context, conn *pgx.Conn) ([]byte, error) {
	var b []byte
	err := conn.QueryRow(ctx, "SELECT pg_read_binary_file('pg_wal/' || $1::text, $2, $3)", w.file, w.at, witnessBytes).Scan(&b)
	return b, err
}

// arrived says whether a standby has the record.
func (w witness) arrived(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var ok bool
	err := conn.QueryRow(ctx, "SELECT coalesce(pg_last_wal_receive_lsn() >= $1::text::pg_lsn, false)", w.end).Scan(&ok)
	if err != nil || !ok {
		return false, err
	}
	b, err := w.read(ctx, conn)
	return err == nil && string(b) == string(w.bytes), err
}
