package agent

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/probes"
)

// spare is a connection to a standby that is kept open, with its caches warm,
// for the moment in which the primary is gone: position and promotion then wait
// for no fork, no authentication and no catalog.
type spare struct {
	mu   sync.Mutex
	conn *pgx.Conn
	pid  int // of the postmaster that it leads to
}

// pingWithin bounds the question whether a kept connection still answers.
const pingWithin = 100 * time.Millisecond

// take hands the connection over, nil when there is none that still answers: a
// server that was restarted has forgotten its old sessions.
func (s *spare) take(ctx context.Context) *pgx.Conn {
	s.mu.Lock()
	c := s.conn
	s.conn = nil
	s.mu.Unlock()
	return answering(ctx, c)
}

// answering returns the connection when it answers, and ends it when not.
func answering(ctx context.Context, c *pgx.Conn) *pgx.Conn {
	if c == nil {
		return nil
	}
	try, cancel := context.WithTimeout(ctx, pingWithin)
	defer cancel()
	if c.Ping(try) != nil {
		go closeConn(c)
		return nil
	}
	return c
}

// give keeps a connection that still works, for the next who asks.
func (s *spare) give(c *pgx.Conn, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil || c.IsClosed() {
		go closeConn(c)
		return
	}
	s.conn, s.pid = c, pid
}

// has reports whether one is kept that leads to the postmaster.
func (s *spare) has(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.pid != pid {
		go closeConn(s.conn)
		s.conn = nil
	}
	return s.conn != nil && !s.conn.IsClosed()
}

// keepSpare opens one for a standby that streams. Called by the loop; the work
// is done beside it, one at a time.
func (a *Agent) keepSpare(ctx context.Context, f probes.Fact) {
	pid := a.watched.PID
	streaming := f.State == events.PostgresUp && f.InRecovery && f.Receiver == "streaming" && a.watcher != nil
	if !streaming || a.warming || a.spare.has(pid) || time.Since(a.warmed) < 2*time.Second {
		return
	}
	a.warming, a.warmed = true, time.Now()
	go func() {
		defer a.do(func() { a.warming = false })
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		conn, err := executors.Connect(try, a.cfg.Postgres)
		if err != nil {
			return // the next probe tries again
		}
		if executors.Warm(try, conn) != nil {
			closeConn(conn)
			return
		}
		a.spare.give(conn, pid)
	}()
}
