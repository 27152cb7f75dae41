package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/events"
)

// sslRequest is the 8-byte packet that a server answers with one byte before
// any authentication (PostgreSQL documentation, 55.2.11).
var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// Fresh asks the postmaster itself: a new connection must be accepted, forked
// for and answered. It needs no password and no free connection slot, and the
// server answers it while it starts and stops as well; State is PostgresUp
// whenever the byte arrives. It takes at most Config.Timeout and leaves the
// kept connection alone.
func (p *Prober) Fresh(ctx context.Context) Fact {
	began := time.Now()
	if p.broken != nil {
		return failed(p.broken, &line{})
	}
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	l := &line{}
	err := knock(ctx, l, p.config.Host, p.config.Port)
	if err != nil && lost(err) && ctx.Err() == nil {
		err = knock(ctx, l, p.config.Host, p.config.Port) // see Prober.probe
	}
	l.cut()
	f := Fact{State: events.PostgresUp}
	if err != nil {
		f = failed(err, l)
	}
	f.Took = time.Since(began)
	return f
}

func knock(ctx context.Context, l *line, host string, port uint16) error {
	network, address := pgconn.NetworkAddress(host, port)
	c, err := l.dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := c.Write(sslRequest); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return errClosed
		}
		return err
	}
	switch answer[0] {
	case 'N':
		return nil
	case 'S':
		shakeHands(ctx, c)
		return nil
	}
	return fmt.Errorf("the server answered %q to an SSL request, expected S or N: is it a PostgreSQL?", answer[0])
}

// shakeHands finishes the TLS handshake that the server now waits for, says
// goodbye and reads to the end: the server would log a complaint about each
// client that just goes away. Nothing is sent over the connection, so the
// certificate is of no interest.
func shakeHands(ctx context.Context, c net.Conn) {
	// #nosec G402 -- see above
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if t.HandshakeContext(ctx) == nil && t.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, c)
	}
}
