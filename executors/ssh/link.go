package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// askEvery is how often a server is asked to answer; silentAfter how long
	// nothing at all may be heard of it.
	askEvery    = 2 * time.Second
	silentAfter = 5 * time.Second
)

// link is one connection, through all its hops.
type link struct {
	to      target
	clients []*ssh.Client // the last is the host's own
	heard   *heardConn
	lost    chan struct{} // closed when it is
	once    sync.Once
	why     error // set before lost is closed

	// The pool's, under its lock.
	sessions int
	limit    int // sessions that the server takes at once, as far as is known
}

// sessionsMost is how many sessions a connection is used for: fewer than the
// ten of sshd's MaxSessions, which counts a session for a moment longer.
const sessionsMost = 8

// dial makes a connection. Ctx bounds all of it.
func dial(ctx context.Context, way []target) (*link, error) {
	l := &link{to: way[len(way)-1], lost: make(chan struct{}), limit: sessionsMost}
	for _, t := range way {
		c, err := l.login(ctx, t)
		if err != nil {
			l.lose(err)
			return nil, err
		}
		l.clients = append(l.clients, c)
	}
	go func() { l.lose(l.client().Wait()) }()
	go l.watch()
	return l, nil
}

func (l *link) client() *ssh.Client { return l.clients[len(l.clients)-1] }

// login goes one hop further.
func (l *link) login(ctx context.Context, t target) (*ssh.Client, error) {
	wrap := func(err error) error {
		var refused *keyError
		switch {
		case errors.As(err, &refused):
			err = refused // it names the host
		case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
			err = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
		}
		through := ""
		if n := len(l.clients); n > 0 {
			through = " through " + l.client().RemoteAddr().String()
		}
		return fmt.Errorf("connect to %s%s: %w", t, through, err)
	}
	known, err := newHostKeys(t)
	if err != nil {
		return nil, wrap(err)
	}
	keys, err := newKeyring(t)
	if err != nil {
		return nil, wrap(err)
	}
	defer keys.close()
	raw, err := l.open(ctx, t)
	if err != nil {
		return nil, wrap(err)
	}
	l.heard = &heardConn{Conn: raw}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, channels, requests, err := ssh.NewClientConn(l.heard, t.addr(), &ssh.ClientConfig{
		User:              t.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(keys.signers...)},
		HostKeyCallback:   known.check,
		HostKeyAlgorithms: known.db.HostKeyAlgorithms(t.keyName),
	})
	if err == nil && !stop() {
		err = ctx.Err()
		_ = conn.Close()
	}
	if err != nil {
		_ = raw.Close()
		if strings.Contains(err.Error(), "unable to authenticate") { // x/crypto has no type for it
			err = fmt.Errorf("the server refuses the login of %s with every key tried: %s; is the public key in that account's authorized_keys?", t.user, strings.Join(keys.tried, ", "))
		}
		return nil, wrap(err)
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// open reaches the next server's port.
func (l *link) open(ctx context.Context, t target) (net.Conn, error) {
	if len(l.clients) == 0 {
		return (&net.Dialer{}).DialContext(ctx, "tcp", t.addr())
	}
	return l.client().DialContext(ctx, "tcp", t.addr())
}

// lose closes the connection, once. It does not wait for the network.
func (l *link) lose(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.lost)
		for i := len(l.clients) - 1; i >= 0; i-- {
			go l.clients[i].Close()
		}
	})
}

// err is what a command is told whose connection was lost.
func (l *link) err() error { return &lostError{l.to, l.why} }

// lostError is ErrLost with its reason.
type lostError struct {
	to  target
	why error
}

func (e *lostError) Error() string        { return fmt.Sprintf("connection to %s lost: %v", e.to, e.why) }
func (e *lostError) Unwrap() error        { return e.why }
func (e *lostError) Is(target error) bool { return target == ErrLost }

func (l *link) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// watch asks the server to answer and closes a connection that has fallen
// silent: nothing else would ever notice that it was cut. Any byte counts, so
// that a slow line which carries a lot is not taken for a cut one.
func (l *link) watch() {
	l.heard.last.Store(time.Now().UnixNano())
	tick := time.NewTicker(askEvery / 2)
	defer tick.Stop()
	var asked atomic.Bool
	for n := 0; ; n++ {
		select {
		case <-l.lost:
			return
		case <-tick.C:
		}
		if quiet := time.Since(time.Unix(0, l.heard.last.Load())); quiet > silentAfter {
			l.lose(fmt.Errorf("the server has not answered for %s", quiet.Round(100*time.Millisecond)))
			return
		}
		if n%2 == 0 && asked.CompareAndSwap(false, true) {
			go func() { // it waits for the answer, or for the end of the connection
				_, _, _ = l.client().SendRequest("keepalive@openssh.com", true, nil)
				asked.Store(false)
			}()
		}
	}
}

// heardConn knows when something was last heard.
type heardConn struct {
	net.Conn
	last atomic.Int64
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
	}
	return n, err
}
