// Package cuttest stands between a client and a server, for tests of a network
// that goes away. It is for tests only.
package cuttest

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy forwards connections to a server. Cut, it forwards nothing any more in
// either direction and closes nothing, as a network does that is gone.
type Proxy struct {
	Addr net.Addr // where it listens

	l     net.Listener
	dial  func() (net.Conn, error)
	mu    sync.Mutex
	cut   bool
	ended bool
	conns []net.Conn
}

// New listens until the test ends: on a free port of loopback for "tcp", at the
// path for "unix".
func New(t *testing.T, network, listen, server string) *Proxy {
	t.Helper()
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr(), l: l, dial: func() (net.Conn, error) { return net.Dial(network, server) }}
	go p.serve()
	t.Cleanup(p.end)
	return p
}

func (p *Proxy) serve() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.keep(c) {
			continue
		}
		s, err := p.dial()
		if err != nil {
			_ = c.Close()
			continue
		}
		p.keep(s)
		go p.forward(c, s)
		go p.forward(s, c)
	}
}

// keep notes a connection; false when it is to be left alone.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	if p.ended {
		_ = c.Close()
	}
	return !p.cut
}

func (p *Proxy) forward(from, to net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		cut := p.cut
		p.mu.Unlock()
		if cut {
			return // what was read is lost, and nobody is told
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
			_ = half.CloseWrite() // the other direction may go on
			return
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// Cut takes the network away, or brings it back for new connections; what was
// under way when it was cut stays dead.
func (p *Proxy) Cut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	_ = p.l.Close()
	for _, c := range p.conns {
		_ = c.Close()
	}
}
