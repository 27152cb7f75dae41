package ssh_test

import (
	"net"
	"strconv"
	"sync"
	"testing"
)

// proxy stands before a server. Cut, it forwards nothing any more in either
// direction and closes nothing, as a network does that is gone.
type proxy struct {
	port  int
	l     net.Listener
	to    string
	mu    sync.Mutex
	cut   bool
	ended bool
	conns []net.Conn
}

func newProxy(t *testing.T, to int) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, port: l.Addr().(*net.TCPAddr).Port, to: net.JoinHostPort("127.0.0.1", strconv.Itoa(to))}
	go p.serve()
	t.Cleanup(p.end)
	return p
}

func (p *proxy) serve() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.keep(c) {
			continue
		}
		s, err := net.Dial("tcp", p.to)
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
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	if p.ended {
		_ = c.Close()
	}
	return !p.cut
}

func (p *proxy) forward(from, to net.Conn) {
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
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

func (p *proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	_ = p.l.Close()
	for _, c := range p.conns {
		_ = c.Close()
	}
}
