package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/executors/remote"
)

// shell is a remote.Shell on the pool's connections. It speaks the session
// protocol itself: x/crypto's Session tells how a program ended only when the
// last of those has ended that hold its outputs.
type shell struct{ pool *pool }

// unsaid is how long a connection may outlive its last session.
const unsaid = 500 * time.Millisecond

// Exec implements remote.Shell.
func (s *shell) Exec(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (remote.Status, error) {
	for again := false; ; {
		l, err := s.pool.get(ctx)
		if err != nil {
			return remote.Status{}, err
		}
		run, err := s.session(ctx, l, script)
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) && !l.isLost() {
			if s.pool.full(l) {
				continue // its sessions are taken: another connection
			}
			return remote.Status{}, fmt.Errorf("%s lets nobody run a command: %w", l.to, err)
		}
		if err != nil {
			s.pool.release(l)
			if l.isLost() && !again && ctx.Err() == nil {
				again = true // it was just ending; nothing was begun on it: a new one, or what keeps from having one
				continue
			}
			return remote.Status{}, err
		}
		return run.wait(ctx, stdin, stdout, stderr)
	}
}

// session is one command's channel.
type session struct {
	l        *link
	ch       ssh.Channel
	requests <-chan *ssh.Request
	release  func()

	output remote.Drain
}

// session opens a channel and has the command executed. It returns at once when
// ctx ends; what is opened then is closed again.
func (s *shell) session(ctx context.Context, l *link, script string) (*session, error) {
	type opened struct {
		run *session
		err error
	}
	done := make(chan opened, 1)
	go func() {
		run, err := begin(l, script)
		done <- opened{run, err}
	}()
	select {
	case o := <-done:
		if o.err == nil {
			o.run.release = sync.OnceFunc(func() { s.pool.release(l) })
		}
		return o.run, o.err
	case <-l.lost:
		return nil, l.err()
	case <-ctx.Done():
		go func() {
			if o := <-done; o.err == nil {
				_ = o.run.ch.Close()
				ssh.DiscardRequests(o.run.requests)
			}
		}()
		return nil, fmt.Errorf("%s has not opened a session by then: %w", l.to, context.Cause(ctx))
	}
}

// begin waits for the server as long as the connection is there.
func begin(l *link, script string) (*session, error) {
	ch, requests, err := l.client().OpenChannel("session", nil)
	if err != nil {
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) { // no answer of the server: the connection is ending
			l.lose(err)
			return nil, l.err()
		}
		if l.isLost() {
			return nil, l.err()
		}
		return nil, err
	}
	// The login shell gets one fixed line, the same in every shell.
	command := "exec sh -c '" + strings.ReplaceAll(script, "'", `'\''`) + "'"
	ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{command}))
	if err == nil && !ok {
		err = fmt.Errorf("the server of %s refuses to run a command", l.to)
	} else if err != nil {
		err = &lostError{l.to, err}
	}
	if err != nil {
		go ch.Close()
		go ssh.DiscardRequests(requests)
		return nil, err
	}
	return &session{l: l, ch: ch, requests: requests}, nil
}

// wait carries the streams until the program has ended, ctx ends, or the
// connection is lost.
func (run *session) wait(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (remote.Status, error) {
	defer func() { go run.ch.Close() }() // it may have to wait for the network
	go func() {
		_, _ = io.Copy(run.ch, stdin) // a program need not read it
		_ = run.ch.CloseWrite()
	}()
	var streams sync.WaitGroup
	streams.Go(func() { _, _ = io.Copy(run.output.Through(stdout), run.ch) })
	streams.Go(func() { _, _ = io.Copy(run.output.Through(stderr), run.ch.Stderr()) })
	read := make(chan struct{})
	go func() { streams.Wait(); close(read) }()
	ended := make(chan remote.Status, 1)
	gone := make(chan struct{})
	go func() {
		defer run.release()
		defer close(gone)
		run.listen(ended)
	}()
	select {
	case status := <-ended:
		return status, run.output.Wait(ctx, read, run.alive)
	case <-ctx.Done():
		return remote.Status{}, context.Cause(ctx)
	case <-run.l.lost:
	case <-gone:
		<-read // what has come is here
	}
	select { // both may have come at once
	case status := <-ended:
		return status, nil
	default:
	}
	select {
	case <-run.l.lost:
		return remote.Status{}, run.l.err()
	case <-time.After(unsaid): // the last session of a connection may end before it
		return remote.Status{}, fmt.Errorf("the server of %s closed the session and did not say how the program ended", run.l.to)
	}
}

// alive returns when the server has answered, or the connection is lost.
func (run *session) alive() error {
	_, _, err := run.l.client().SendRequest("keepalive@openssh.com", true, nil)
	if err != nil || run.l.isLost() {
		<-run.l.lost // it is the same
		return run.l.err()
	}
	return nil
}

// listen takes the server's word of how the program ended (RFC 4254, 6.10).
func (run *session) listen(ended chan<- remote.Status) {
	end := func(status remote.Status) {
		select {
		case ended <- status:
		default: // it has been said
		}
	}
	for r := range run.requests {
		switch r.Type {
		case "exit-status":
			var m struct{ Code uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				end(remote.Status{Code: int(m.Code)})
			}
		case "exit-signal":
			var m struct {
				Signal string
				Core   bool
				Error  string
				Lang   string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				end(remote.Status{Code: -1, Signal: signalName(m.Signal)})
			}
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

// signalName is what the operating system calls it; the server says "KILL".
func signalName(name string) string {
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n.String()
	}
	return name
}
