package probes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/internal/sqldial"
)

// DefaultTimeout bounds a probe when Config gives no other time.
const DefaultTimeout = 500 * time.Millisecond

// Config says whom to probe.
type Config struct {
	// DSN is the connection string of one PostgreSQL, in URL form. An
	// application_name that begins with "interrex" keeps the probes out of
	// Fact.Clients of other probers; "interrex-probe" is added when it has none.
	DSN string
	// Timeout bounds one probe, connecting included; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Prober probes one PostgreSQL over one connection that it keeps. Its methods
// may be called by several goroutines; probes then follow one another.
type Prober struct {
	timeout atomic.Int64 // time.Duration
	config  *pgx.ConnConfig
	broken  error // of the DSN

	mu   sync.Mutex
	conn *pgx.Conn
	line *line
}

// New returns a prober; it connects at the first probe. A DSN that cannot be
// read makes every probe report unreachable, with the reason.
func New(c Config) *Prober {
	p := &Prober{}
	p.SetTimeout(c.Timeout)
	config, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		// pgx masks passwords on a best effort only: the text is not passed on.
		p.broken = errors.New("probes: the connection string cannot be read; expected postgres://user@host:port/database")
		return p
	}
	config.ConnectTimeout = 0 // the probe's own deadline bounds everything
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "interrex-probe"
	}
	p.config = config
	return p
}

// SetTimeout bounds the probes that begin after it; 0 or less means
// DefaultTimeout. It may be called at any time.
func (p *Prober) SetTimeout(d time.Duration) {
	if d <= 0 {
		d = DefaultTimeout
	}
	p.timeout.Store(int64(d))
}

func (p *Prober) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(p.timeout.Load()))
}

// Probe asks the server once and says what it found, within Config.Timeout
// (plus scheduling noise) whatever the server does. A kept connection that
// turns out to be broken is replaced within the same probe, and the new one's
// fate is the answer.
//
// A server whose postmaster is frozen still answers on a connection that its
// backend serves: Fresh asks the postmaster.
func (p *Prober) Probe(ctx context.Context) Fact {
	p.mu.Lock()
	defer p.mu.Unlock()
	began := time.Now()
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	f := p.probe(ctx)
	f.Took = time.Since(began)
	return f
}

func (p *Prober) probe(ctx context.Context) Fact {
	if p.broken != nil {
		return failed(p.broken, &line{})
	}
	if p.conn != nil && !p.conn.IsClosed() {
		f, err := ask(ctx, p.conn)
		if err == nil {
			return f
		}
		if timedOut(err) || !p.conn.IsClosed() {
			// No answer, or an error of the statement alone.
			l := p.line
			p.drop()
			return failed(err, l)
		}
	}
	p.drop()
	f, err, l := p.askAnew(ctx)
	if err != nil && lost(err) && ctx.Err() == nil {
		// A backend that dies with its postmaster closes a connection that was
		// still in the queue; who asks again learns whether anybody listens.
		f, err, l = p.askAnew(ctx)
	}
	if err != nil {
		return failed(err, l)
	}
	return f
}

// askAnew connects, asks, and keeps the connection when it got an answer.
func (p *Prober) askAnew(ctx context.Context) (Fact, error, *line) {
	l := &line{dialer: *sqldial.New()} // the connection may be taken for a promotion
	l.dialer.KeepAlive = 5 * time.Second
	config := p.config.Copy()
	config.DialFunc = l.dial
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		l.cut()
		return Fact{}, err, l
	}
	l.sealed.Store(true)
	f, err := ask(ctx, conn)
	if err != nil {
		l.cut()
		return Fact{}, err, l
	}
	p.conn, p.line = conn, l
	return f, nil, l
}

// failed is the fact that an error stands for.
func failed(err error, l *line) Fact {
	state, code := classify(err, l)
	return Fact{State: state, SQLState: code, Err: fmt.Errorf("probes: %w", concise(err))}
}

// concise leaves out the attempts that pgx lists one below the other: with
// sslmode=prefer the same failure stands there twice.
func concise(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server
	}
	if i := strings.IndexByte(err.Error(), '\n'); i >= 0 {
		lines := strings.Split(err.Error(), "\n")
		return &shortened{text: strings.TrimSpace(lines[len(lines)-1]), err: err}
	}
	return err
}

type shortened struct {
	text string
	err  error
}

func (s *shortened) Error() string { return s.text }
func (s *shortened) Unwrap() error { return s.err }

// drop ends the kept connection without waiting for the server.
func (p *Prober) drop() {
	if p.line != nil {
		p.line.cut()
	}
	p.conn, p.line = nil, nil
}

// Conn returns the kept connection, nil when there is none. It is the prober's:
// who uses it must not probe meanwhile, and must not close it. Queries that run
// into their deadline on it are not cancelled at the server. Take is the way to
// have it alone.
func (p *Prober) Conn() *pgx.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// Take hands the kept connection over: the caller closes it, the prober opens
// another one at its next probe. It is nil when there is none, and waits for a
// probe under way, at most Config.Timeout.
func (p *Prober) Take() *pgx.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn := p.conn
	if p.line != nil {
		p.line.sealed.Store(false) // its new owner's queries may be cancelled
	}
	p.conn, p.line = nil, nil
	return conn
}

// Close ends the kept connection. A later probe would open a new one.
func (p *Prober) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}
