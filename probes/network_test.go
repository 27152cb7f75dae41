package probes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

func dsnOf(port int) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=prefer", port)
}

// listener hands each connection to serve until the test ends.
func listener(t *testing.T, serve func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestNetwork(t *testing.T) {
	ctx := context.Background()
	mute := listener(t, func(net.Conn) {})
	closes := listener(t, func(c net.Conn) { c.Close() })
	tlsThenMute := listener(t, func(c net.Conn) { // answers the SSL request, then nothing more
		_, _ = io.ReadFull(c, make([]byte, 8))
		_, _ = c.Write([]byte("N"))
	})
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	for _, c := range []struct {
		name   string
		dsn    string
		states [2]events.PostgresState // of Probe and Fresh
	}{
		{"closed port", dsnOf(freePort(t)), [2]events.PostgresState{events.PostgresDown, events.PostgresDown}},
		{"no socket file", "postgres:///postgres?host=/nowhere&user=postgres", [2]events.PostgresState{events.PostgresDown, events.PostgresDown}},
		{"accepts and never answers", dsnOf(mute), [2]events.PostgresState{events.PostgresSilent, events.PostgresSilent}},
		{"answers the SSL request only", dsnOf(tlsThenMute), [2]events.PostgresState{events.PostgresSilent, events.PostgresUp}},
		{"accepts and closes", dsnOf(closes), [2]events.PostgresState{events.PostgresUnreachable, events.PostgresUnreachable}},
		{"full queue", dsnOf(fullQueue(t)), [2]events.PostgresState{events.PostgresUnreachable, events.PostgresUnreachable}},
		{"no such host", "postgres://postgres@no-such-host.invalid/postgres", [2]events.PostgresState{events.PostgresUnreachable, events.PostgresUnreachable}},
		{"unreadable DSN", "postgres://%zz", [2]events.PostgresState{events.PostgresUnreachable, events.PostgresUnreachable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New(Config{DSN: c.dsn, Timeout: 400 * time.Millisecond})
			defer p.Close()
			for i, f := range []Fact{p.Probe(ctx), p.Fresh(ctx)} {
				if f.State != c.states[i] || f.Took > 700*time.Millisecond || (f.Err == nil) != (f.State == events.PostgresUp) {
					t.Errorf("%d: %q after %s (%v), want %q", i, f.State, f.Took, f.Err, c.states[i])
				}
			}
		})
	}
	t.Run("not a PostgreSQL", func(t *testing.T) {
		p := New(Config{DSN: "postgres://postgres@" + strings.TrimPrefix(web.URL, "http://") + "/x", Timeout: 400 * time.Millisecond})
		if f := p.Fresh(ctx); f.State == events.PostgresUp || f.Err == nil {
			t.Errorf("a web server passed for a PostgreSQL: %+v", f)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		p := New(Config{DSN: dsnOf(mute)})
		if f := p.Probe(ctx); f.State != events.PostgresUnreachable || !errors.Is(f.Err, context.Canceled) {
			t.Errorf("%q (%v), want unreachable: nothing was learnt", f.State, f.Err)
		}
	})
}

// A connection that met itself is a refused one: nobody listens.
func TestSelfConnection(t *testing.T) {
	self := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: freePort(t)}
	plain := net.Dialer{LocalAddr: self}
	c, err := plain.Dial("tcp", self.String())
	if err != nil {
		t.Fatalf("the kernel connects no socket to itself, so this test shows nothing: %v", err)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
	l := &line{dialer: net.Dialer{LocalAddr: self}}
	if _, err := l.dial(t.Context(), "tcp", self.String()); !errors.Is(err, syscall.ECONNREFUSED) || l.reached() {
		t.Errorf("%v, reached %v: want a refused connection", err, l.reached())
	}
	server, err := net.Listen("tcp", self.String())
	if err != nil {
		t.Fatalf("the port was not given back: %v", err)
	}
	server.Close()
}

// fullQueue is a port whose kernel answers no further SYN: its accept queue is
// full, and a connection attempt times out as if the host were gone.
func fullQueue(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := sa.(*syscall.SockaddrInet4).Port
	for range 20 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 150*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of 20 connections did not fill up")
	return 0
}
