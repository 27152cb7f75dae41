package probes

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/events"
)

// errClosed stands for a server that closed a new connection without a word.
var errClosed = errors.New("the server closed the new connection without an answer")

// classify names the state that an error stands for. l is what the connection
// attempts saw at the level of the network; it tells a server that was reached
// and said nothing from one that was not reached.
//
// What it cannot explain is unreachable, which says nothing about the server:
// unknown is never down.
func classify(err error, l *line) (events.PostgresState, string) {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return classifyServer(server), server.Code
	}
	if timedOut(err) {
		if l.reached() {
			return events.PostgresSilent, ""
		}
		return events.PostgresUnreachable, ""
	}
	if !l.reached() {
		return classifyDial(err), ""
	}
	if lost(err) {
		return events.PostgresUnreachable, ""
	}
	if l.answered() {
		// A client-side complaint about an answer: no password for the method
		// that the server wants, a TLS certificate that cannot be checked.
		return events.PostgresRefusing, ""
	}
	return events.PostgresUnreachable, ""
}

// classifyServer reads an error that the server sent: it is alive. The server
// translates the texts of 57P03 into its lc_messages; "shutting down" is known
// in English only, and another language reads as starting, which is alive too.
func classifyServer(e *pgconn.PgError) events.PostgresState {
	switch e.Code {
	case "57P03":
		if strings.Contains(e.Message, "shutting down") {
			return events.PostgresStopping
		}
		return events.PostgresStarting
	case "57P01", "57P02":
		return events.PostgresStopping
	}
	return events.PostgresRefusing
}

// classifyDial reads the error of a connection attempt that reached nobody.
func classifyDial(err error) events.PostgresState {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return events.PostgresDown
	case errors.Is(err, syscall.EAGAIN):
		// A Unix socket whose queue is full: somebody listens and accepts
		// nothing, as a stopped postmaster does.
		return events.PostgresSilent
	}
	return events.PostgresUnreachable
}

func timedOut(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || pgconn.Timeout(err) {
		return true
	}
	var n net.Error
	return errors.As(err, &n) && n.Timeout() && !errors.Is(err, syscall.EAGAIN)
}

// lost reports that the other side, or the network, ended an established
// connection.
func lost(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, errClosed, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
