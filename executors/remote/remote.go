// Package remote is what the runners of other places have in common: commands
// and files of a host, or of a container, by nothing but a POSIX shell there
// (with dd, mktemp's neighbours cat, chmod, mv, rm, stat, sync, wc, and /proc).
// Packages ssh and docker bring the shell; everything else is here, and alike.
//
// All that ever stands on a command line there is Bootstrap, a fixed text. The
// script follows on standard input, and after it the command's own input; so
// `ps` shows nothing of a command before it is executed, and of the command then
// its program and arguments. Secrets belong into Stdin, or Env.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/capture"
)

// Status is how a program ended.
type Status struct {
	Code   int    // exit code, -1 when a signal ended it
	Signal string // that signal as the operating system calls it ("killed"), else empty
}

// Shell runs `sh -c script` in one place, without a terminal.
//
// Exec returns when the shell has ended, even where something that it left
// behind holds its outputs open, and the status with a nil error then. It
// returns an error when the shell could not be run, when what has become of it
// is not known (a lost connection), and at once when ctx ends; that need not end
// the shell. Stdin is read to its end or until Exec has returned; a shell that
// does not read it is no error. The writers never fail, and may be written to at
// the same time.
type Shell interface {
	Exec(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (Status, error)
}

// Runner is an executors.Runner on a Shell. It may be used by any number of
// goroutines.
type Runner struct {
	name  string
	shell Shell
}

var _ executors.Runner = (*Runner)(nil)

// New makes a Runner; name is what its errors begin with: "ssh".
func New(name string, shell Shell) *Runner { return &Runner{name: name, shell: shell} }

const (
	// drain is how long output is still read when a command was killed.
	drain = 500 * time.Millisecond
	// killWithin bounds the ending of a process group, with the verification.
	killWithin = 5 * time.Second
)

// Run starts the program in a process group of its own. When the time-out or ctx
// ends it, the whole group gets SIGKILL through a second shell, which verifies
// that nothing of it is left; where that cannot be verified (the connection is
// lost as well) the error says so. It takes at most 6 s more. A descendant that
// has made itself a session of its own survives. A program that has not been
// started by then never is.
//
// An error that is no *executors.ExitError and comes from a lost connection says
// nothing of the program, which may go on. Line is never called twice at once.
func (r *Runner) Run(ctx context.Context, c executors.Command) (executors.Output, error) {
	failed := executors.Output{ExitCode: -1}
	if ctx.Err() != nil {
		return failed, fmt.Errorf("%s: %s could not be started: %w", r.name, c.Path, context.Cause(ctx))
	}
	p, err := newProcess(c)
	if err != nil {
		return failed, fmt.Errorf("%s: %s could not be started: %w", r.name, c.Path, err)
	}
	limited := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	began := time.Now()
	ended, killErr := r.await(limited, p)
	p.out.Finish()
	result := executors.Output{ExitCode: -1, Stdout: p.out.Stdout.Tail(), Stderr: p.out.Stderr.Tail(), Took: time.Since(began)}
	if ended.err == nil && p.started() {
		result.ExitCode = ended.status.Code
	}
	return result, r.judge(ctx, limited, c, p, ended, killErr, result)
}

// ending is what Exec returned.
type ending struct {
	status Status
	err    error
}

// await runs the process's shell until it has ended, or ctx has ended it.
func (r *Runner) await(ctx context.Context, p *process) (end ending, killErr error) {
	run, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	defer p.close()
	done := make(chan ending, 1)
	go func() {
		status, err := r.shell.Exec(run, Bootstrap, p, (*opening)(p), &p.out.Stderr)
		done <- ending{status, err}
	}()
	select {
	case end = <-done:
		return end, nil
	case <-ctx.Done():
	}
	if g, runs := p.forbid(); runs {
		killErr = r.kill(ctx, g)
	} else {
		abandon() // it waits for our word, and ends without
	}
	select {
	case end = <-done:
	case <-time.After(drain):
		abandon()
		end = <-done
		end.err = errors.Join(end.err, context.Cause(ctx)) // whatever it says now, it did not end by itself
	}
	return end, killErr
}

// judge turns what happened into Run's error.
func (r *Runner) judge(ctx, limited context.Context, c executors.Command, p *process, end ending, killErr error, out executors.Output) error {
	if !p.started() {
		return fmt.Errorf("%s: %s could not be started: %w", r.name, c.Path, r.notStarted(ctx, limited, c, p, end))
	}
	if limited.Err() != nil && (end.err != nil || end.status.Signal != "" || killErr != nil) {
		what := "was killed"
		if killErr != nil {
			what = fmt.Sprintf("whether it runs on is not known (%v)", killErr)
		}
		if ctx.Err() == nil {
			return fmt.Errorf("%s: %s did not end within %s and %s: %w", r.name, c.Path, c.Timeout, what, limited.Err())
		}
		return fmt.Errorf("%s: %s %s: %w", r.name, c.Path, what, context.Cause(ctx))
	}
	if end.err != nil {
		return fmt.Errorf("%s: %s: what has become of it is not known: %w", r.name, c.Path, end.err)
	}
	if end.status.Code == 0 {
		return nil
	}
	return &executors.ExitError{Program: c.Path, Code: out.ExitCode, Signal: end.status.Signal, Stderr: string(out.Stderr)}
}

// notStarted says why a program was not started.
func (r *Runner) notStarted(ctx, limited context.Context, c executors.Command, p *process, end ending) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w%s", context.Cause(ctx), meanwhile(end.err))
	case limited.Err() != nil:
		return fmt.Errorf("no shell answered within %s: %w%s", c.Timeout, limited.Err(), meanwhile(end.err))
	case end.err != nil:
		return end.err
	case p.refused() != nil:
		return p.refused()
	}
	said := bytes.TrimSpace(append(p.noise(), p.out.Stderr.Tail()...))
	return fmt.Errorf("the shell there ended with exit code %d before the program began; it said %q; expected a POSIX shell, dd, and /proc", end.status.Code, said)
}

// meanwhile is what the shell waited for when it was abandoned.
func meanwhile(err error) string {
	if err == nil || err.Error() == context.Canceled.Error() {
		return ""
	}
	return " (" + strings.TrimSuffix(err.Error(), ": "+context.Canceled.Error()) + ")"
}

// exec runs a script of our own to its end and returns what it printed after the
// marker.
func (r *Runner) exec(ctx context.Context, marker, script string) (string, error) {
	out := capture.New(0, nil)
	status, err := r.shell.Exec(ctx, Bootstrap, bytes.NewReader(packed(script)), &out.Stdout, &out.Stderr)
	out.Finish()
	if err != nil {
		return "", err
	}
	_, said, found := bytes.Cut(out.Stdout.Tail(), []byte(marker))
	if !found {
		return "", fmt.Errorf("the shell there ended with exit code %d and said %q", status.Code, bytes.TrimSpace(append(out.Stdout.Tail(), out.Stderr.Tail()...)))
	}
	return string(bytes.TrimSpace(said)), nil
}
