package probes

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// errNoMoreDials refuses the connection that pgx would open to cancel a query
// whose time is over: a frozen server would only collect them.
var errNoMoreDials = errors.New("probes: this connection opens no further ones")

// line watches the network side of one pgx connection: pgx says that it ran out
// of time, but not whether anybody had answered the call.
type line struct {
	dialer net.Dialer
	sealed atomic.Bool // no further dials
	dials  atomic.Int32
	bytes  atomic.Int64 // received

	mu   sync.Mutex
	open []net.Conn
}

// dial is pgx's DialFunc.
func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if l.sealed.Load() {
		return nil, errNoMoreDials
	}
	c, err := l.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if selfConnected(c) {
		c.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Addr: c.RemoteAddr(), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	l.dials.Add(1)
	l.mu.Lock()
	l.open = append(l.open, c)
	l.mu.Unlock()
	return &counted{Conn: c, line: l}, nil
}

// selfConnected reports that a connection has met itself: who tries a local
// port often enough on which nobody listens is given that very port as its own
// in the end, if it lies in the range for outgoing connections (after some
// thousand tries on Linux), and would then keep the server from starting.
// Nobody listens: the connection was refused.
func selfConnected(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok || tcp.LocalAddr().String() != tcp.RemoteAddr().String() {
		return false
	}
	_ = tcp.SetLinger(0) // the port is free at once
	return true
}

// reached reports that a connection was established, if only by the kernel of
// the other side.
func (l *line) reached() bool { return l.dials.Load() > 0 }

// answered reports that something was received.
func (l *line) answered() bool { return l.bytes.Load() > 0 }

// cut closes the sockets at once, without the goodbye that pgx would spend up
// to 15 s on.
func (l *line) cut() {
	l.sealed.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

type counted struct {
	net.Conn
	line *line
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.line.bytes.Add(int64(n))
	return n, err
}
