// Package natslog keeps a cluster's log in a NATS JetStream stream, embedded in
// the process or outside of it. It is the only importer of NATS.
//
// One stream per cluster, interrex-<cluster>, with the subjects
// interrex.<cluster>.<class>.<key>. An event's body is plain JSON; what
// surrounds it travels in headers under CloudEvents' names.
package natslog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/interrex-ha/interrex/events"
)

// ErrRegressed says that the log now ends before an event that this reader was
// given, or holds another event in its place: an older copy of the store was
// put back, for example. Nothing may be automated on such a log.
var ErrRegressed = errors.New("the log has regressed")

// ErrTrimmed says that events which a reader has not seen were removed from the
// head of the log while it was away.
var ErrTrimmed = errors.New("the log was trimmed past this reader")

// ErrDenied says that the key in use may not do this; nothing was stored.
var ErrDenied = errors.New("the log's server does not permit this key to do that")

// ErrClosed says that Close was called.
var ErrClosed = errors.New("natslog: the log was closed")

// Times of a connection. A lease is short: a dead server must be noticed and a
// new one found well within it.
const (
	connectTimeout  = 500 * time.Millisecond
	defaultDeadline = 500 * time.Millisecond // of an Append or Last whose ctx has none
	pingInterval    = 2 * time.Second        // without an answer until the next one: the connection is gone
	maxPings        = 1
	redialMin       = 100 * time.Millisecond
	redialMax       = 250 * time.Millisecond
)

// DialOptions says which log to use, and as whom. Exactly one of URL, Locate
// and Server is set.
type DialOptions struct {
	URL     string                 // fixed address, for example nats://127.0.0.1:4222
	Locate  func() (string, error) // asked for the URL before each try: the server may come back elsewhere
	Server  *Server                // a server in this process; no TCP is used
	KeyFile string                 // required, see KeyFile; read once, so that privileges can be dropped afterwards
	Cluster string                 // required
	CAFile  string                 // authority of the server's certificate, with TLS; empty: the system's
	Name    string                 // of this client, shown by the server
}

// Log is a client of one cluster's log. It implements events.Log, reconnects
// for ever by itself, and may be used by any number of goroutines.
type Log struct {
	opts   DialOptions
	key    nkeys.KeyPair
	public string
	prefix string // of subjects
	stream string
	life   context.Context // ends with Close
	end    context.CancelFunc
	over   chan struct{} // the redial loop has ended

	mu      sync.Mutex
	cur     *session
	up      chan struct{} // closed while cur is set
	lastErr error         // of the last try to connect
	guards  map[*guard]struct{}
}

var _ events.Log = (*Log)(nil)

// session is one connection. It is never repaired, only replaced.
type session struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	gone chan struct{} // closed when the connection is
}

// guard lets the server's asynchronous "permissions violation" end the request
// that caused it, which would otherwise just run out of time.
type guard struct {
	subject string
	cancel  context.CancelCauseFunc
}

// Dial connects to a cluster's log. It tries until ctx ends; a key that the
// server does not know, or a cluster that it does not hold, is returned at
// once.
func Dial(ctx context.Context, o DialOptions) (*Log, error) {
	if err := events.CheckName(o.Cluster); err != nil {
		return nil, fmt.Errorf("natslog: cluster name: %w", err)
	}
	ways := 0
	for _, set := range []bool{o.URL != "", o.Locate != nil, o.Server != nil} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return nil, fmt.Errorf("natslog: dial: exactly one of URL, Locate and Server must be set, not %d", ways)
	}
	key, err := readKey(o.KeyFile)
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("natslog: %s: %w", o.KeyFile, err)
	}
	l := &Log{
		opts: o, key: key, public: public, prefix: subjectPrefix(o.Cluster), stream: streamName(o.Cluster),
		over: make(chan struct{}), up: make(chan struct{}), guards: map[*guard]struct{}{},
	}
	l.life, l.end = context.WithCancel(context.Background())
	refused := make(chan error, 1)
	go l.keep(refused)
	if err := l.greet(ctx, refused); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// greet waits for the first connection and checks that the stream is there.
func (l *Log) greet(ctx context.Context, refused <-chan error) error {
	for {
		select {
		case err := <-refused:
			return err
		case <-ctx.Done():
			return fmt.Errorf("natslog: connect to the log: %w (last try: %w)", ctx.Err(), l.why())
		case <-l.upNow():
		}
		_, err := l.Last(ctx)
		if err == nil || errors.Is(err, ErrDenied) || errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		if err := pause(ctx, redialMin); err != nil {
			return fmt.Errorf("natslog: connect to the log: %w", err)
		}
	}
}

// keep holds one connection after the other. The first refusal of our key is
// reported; later ones may be a server that comes up with its keys still to be
// restored, and are retried like anything else.
func (l *Log) keep(refused chan<- error) {
	defer close(l.over)
	for l.life.Err() == nil {
		s, err := l.connect()
		if err != nil {
			if errors.Is(err, nats.ErrAuthorization) {
				err = fmt.Errorf("%w: key file %s: %w", ErrDenied, l.opts.KeyFile, err)
				select {
				case refused <- err:
				default:
				}
			}
			l.set(nil, err)
			wait := redialMin + rand.N(redialMax-redialMin)
			if pause(l.life, wait) != nil {
				return
			}
			continue
		}
		l.set(s, nil)
		select {
		case <-s.gone:
		case <-l.life.Done():
			s.nc.Close()
			<-s.gone
		}
		l.set(nil, errors.New("the connection was lost"))
	}
}

// connect makes one connection that does not reconnect by itself: nats.go would
// go on with the old address and queue what it cannot send.
func (l *Log) connect() (*session, error) {
	url := l.opts.URL
	if l.opts.Locate != nil {
		var err error
		if url, err = l.opts.Locate(); err != nil {
			return nil, fmt.Errorf("natslog: locate the log's server: %w", err)
		}
	}
	s := &session{gone: make(chan struct{})}
	options := []nats.Option{
		nats.Name(l.opts.Name),
		nats.Nkey(l.public, l.key.Sign),
		nats.CustomInboxPrefix(inboxPrefix(l.public)),
		nats.Timeout(connectTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.NoReconnect(),
		nats.ReconnectBufSize(-1),
		nats.ClosedHandler(func(*nats.Conn) { close(s.gone) }),
		nats.ErrorHandler(l.asyncError),
	}
	if l.opts.CAFile != "" {
		options = append(options, nats.RootCAs(l.opts.CAFile))
	}
	if l.opts.Server != nil {
		// A pipe inside the process does not fall silent: nothing to ping for.
		options = append(options, nats.InProcessServer(l.opts.Server.ns), nats.PingInterval(time.Hour))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("natslog: %w", err)
	}
	s.nc = nc
	if s.js, err = jetstream.New(nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("natslog: %w", err)
	}
	return s, nil
}

var violation = regexp.MustCompile(`Permissions Violation for Publish to "([^"]+)"`)

// asyncError hears what the server says outside of any answer.
func (l *Log) asyncError(nc *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) {
		nc.Close() // messages were dropped: readers resume on a new connection
		return
	}
	m := violation.FindStringSubmatch(err.Error())
	if m == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for g := range l.guards {
		if g.subject == m[1] {
			g.cancel(fmt.Errorf("natslog: publish to %s: %w", m[1], ErrDenied))
		}
	}
}

// guarded bounds a request on subject by ctx, by the default deadline where
// ctx has none, and by the server's refusal.
func (l *Log) guarded(ctx context.Context, subject string) (context.Context, func()) {
	stop := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, stop = context.WithTimeout(ctx, defaultDeadline)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &guard{subject, cancel}
	l.mu.Lock()
	l.guards[g] = struct{}{}
	l.mu.Unlock()
	return ctx, func() {
		l.mu.Lock()
		delete(l.guards, g)
		l.mu.Unlock()
		cancel(nil)
		stop()
	}
}

func (l *Log) set(s *session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case s != nil:
		close(l.up)
	case l.cur != nil:
		l.up = make(chan struct{})
	}
	l.cur, l.lastErr = s, err
}

// now returns the connection, or nil while there is none.
func (l *Log) now() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur == nil || !l.cur.nc.IsConnected() {
		return nil
	}
	return l.cur
}

func (l *Log) upNow() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up
}

// why says why there is no connection.
func (l *Log) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lastErr == nil {
		return errors.New("not connected yet")
	}
	return l.lastErr
}

// wait returns a connection as soon as there is one.
func (l *Log) wait(ctx context.Context) (*session, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.life.Done():
			return nil, ErrClosed
		case <-l.upNow():
		}
		if s := l.now(); s != nil {
			return s, nil
		}
		if err := pause(ctx, time.Millisecond); err != nil { // it has just gone; keep() will see it
			return nil, err
		}
	}
}

// Connected says whether there is a connection right now. It may be false
// already when the caller looks at it.
func (l *Log) Connected() bool { return l.now() != nil }

// Close ends the connection and every Read. It waits for the connection, not
// for the readers.
func (l *Log) Close() {
	l.end()
	<-l.over
}

// Last returns the sequence of the newest event, 0 for an empty log. It waits
// for a connection until ctx ends, or 500 ms when ctx has no deadline, and
// returns events.ErrUnavailable then.
func (l *Log) Last(ctx context.Context) (uint64, error) {
	info, err := l.info(ctx)
	if err != nil {
		return 0, err
	}
	return info.LastSeq, nil
}

// info asks for the stream's first and last sequence.
func (l *Log) info(ctx context.Context) (jetstream.StreamState, error) {
	bounded, done := l.guarded(ctx, "$JS.API.STREAM.INFO."+l.stream)
	defer done()
	s, err := l.wait(bounded)
	if err != nil {
		return jetstream.StreamState{}, l.unavailable(ctx, "find the end of the log", err)
	}
	stream, err := s.js.Stream(bounded, l.stream)
	switch {
	case err == nil:
		return stream.CachedInfo().State, nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return jetstream.StreamState{}, fmt.Errorf("natslog: the server holds no log of cluster %q: %w", l.opts.Cluster, err)
	case errors.Is(context.Cause(bounded), ErrDenied):
		return jetstream.StreamState{}, context.Cause(bounded)
	}
	return jetstream.StreamState{}, l.unavailable(ctx, "find the end of the log", err)
}

// unavailable reports what could not be done, unless the caller itself gave up
// or the log was closed.
func (l *Log) unavailable(ctx context.Context, what string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if l.life.Err() != nil {
		return ErrClosed
	}
	if why := l.why(); l.now() == nil {
		err = errors.Join(err, why)
	}
	return fmt.Errorf("natslog: %s: %w: %w", what, events.ErrUnavailable, err)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
