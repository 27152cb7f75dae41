package lab

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Reads is what a Reader has seen so far.
type Reads struct {
	Done    int
	Standby int // of those done, how many a standby served
	Failed  int
	Longest time.Duration // between two reads that worked
}

// Reader reads one row at a time over a connection string that prefers a
// standby, at the pace of the measuring client, and counts what goes wrong. Its
// sessions end only when they break.
type Reader struct {
	dsn  string
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	reads Reads
	last  time.Time
}

// StartReader begins to read.
func StartReader(ctx context.Context, dsn string) *Reader {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &Reader{dsn: dsn, stop: stop, done: make(chan struct{})}
	go r.read(running)
	return r
}

// Stop ends the reader and waits until it has.
func (r *Reader) Stop() {
	r.stop()
	<-r.done
}

// Reads returns what was counted so far.
func (r *Reader) Reads() Reads {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}

func (r *Reader) read(ctx context.Context) {
	defer close(r.done)
	var s *session
	defer func() {
		if s != nil {
			s.discard()
		}
	}()
	tick := time.NewTicker(WriteEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		s = r.once(ctx, s)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// once reads once and returns the session for the next time.
func (r *Reader) once(ctx context.Context, s *session) *session {
	var err error
	if s == nil {
		s, err = open(ctx, r.dsn, WriteTimeout, "lab-reader")
	}
	var standby bool
	if err == nil {
		reading, cancel := context.WithTimeout(ctx, WriteTimeout)
		defer cancel()
		const sql = `select pg_is_in_recovery() from (select count(*) from (select 1 from ` + Table + ` limit 1) one) t`
		err = s.QueryRow(reading, sql, pgx.QueryExecModeExec).Scan(&standby)
	}
	if ctx.Err() == nil {
		r.count(err == nil, standby)
	}
	if err != nil && s != nil {
		s.discard()
		return nil
	}
	return s
}

func (r *Reader) count(ok, standby bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok {
		r.reads.Failed++
		return
	}
	now := time.Now()
	if !r.last.IsZero() {
		r.reads.Longest = max(r.reads.Longest, now.Sub(r.last))
	}
	r.last = now
	r.reads.Done++
	if standby {
		r.reads.Standby++
	}
}
