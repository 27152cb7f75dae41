// Package local runs commands on this host.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/capture"
)

// Runner runs commands on this host, as this process's user. The zero value is
// ready; it may be used by any number of goroutines.
type Runner struct{}

// New returns a Runner of this host.
func New() Runner { return Runner{} }

var (
	_ executors.Runner  = Runner{}
	_ executors.Spawner = Runner{}
)

// drain is how long output is still read after the program has ended, or was
// killed: a child that it left behind may hold the pipes for ever.
const drain = 500 * time.Millisecond

// Run starts the program in a process group of its own. When the time-out or
// ctx ends it, the whole group gets SIGKILL; a descendant that has made itself
// a session of its own is not in the group any more and survives. Children left
// behind by a program that ended by itself are not touched; what they write is
// read for at most 500 ms more. Line is never called twice at once.
func (Runner) Run(ctx context.Context, c executors.Command) (executors.Output, error) {
	limited := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	cmd, out := command(limited, c)
	began := time.Now()
	err := cmd.Run()
	out.Finish()
	result := executors.Output{ExitCode: -1, Stdout: out.Stdout.Tail(), Stderr: out.Stderr.Tail(), Took: time.Since(began)}
	if cmd.ProcessState == nil {
		return result, fmt.Errorf("local: %s could not be started: %w", c.Path, reason(ctx, err))
	}
	result.ExitCode = cmd.ProcessState.ExitCode()
	if errors.Is(err, exec.ErrWaitDelay) || err == nil {
		return result, nil
	}
	return result, ended(ctx, limited, c, cmd.ProcessState, result, err)
}

func command(ctx context.Context, c executors.Command) (*exec.Cmd, *capture.Capture) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	out := capture.New(c.Keep, c.Line)
	cmd.Stdout, cmd.Stderr = &out.Stdout, &out.Stderr
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	if c.Stdin != nil {
		cmd.Stdin = &input{data: c.Stdin}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = drain
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	return cmd, out
}

// input is a Reader of a command's stdin; a program that does not read it to
// the end is no error.
type input struct{ data []byte }

func (in *input) Read(p []byte) (int, error) {
	if len(in.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, in.data)
	in.data = in.data[n:]
	return n, nil
}

// ended turns a failed run into an error: one that the context ended is told
// from one that failed by itself, though both may look like SIGKILL.
func ended(ctx, limited context.Context, c executors.Command, state *os.ProcessState, out executors.Output, err error) error {
	ws, _ := state.Sys().(syscall.WaitStatus)
	if limited.Err() != nil && (ws.Signaled() || errors.Is(err, limited.Err())) {
		if ctx.Err() == nil {
			return fmt.Errorf("local: %s did not end within %s and was killed: %w", c.Path, c.Timeout, limited.Err())
		}
		return fmt.Errorf("local: %s was killed: %w", c.Path, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("local: run %s: %w", c.Path, err)
	}
	e := &executors.ExitError{Program: c.Path, Code: out.ExitCode, Stderr: string(out.Stderr)}
	if ws.Signaled() {
		e.Signal = ws.Signal().String()
	}
	return e
}

func reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Spawn starts a program that shall outlive this process: a session of its own,
// no terminal, standard output and error appended to logFile (created 0600).
// Timeout, Keep, Line and Stdin of c are not used, and ctx bounds only the
// start. While this process lives it reaps the program, so that it does not
// stay as a zombie.
func (Runner) Spawn(ctx context.Context, c executors.Command, logFile string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("local: %s was not started: %w", c.Path, context.Cause(ctx))
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("local: open the log of %s: %w", c.Path, err)
	}
	defer log.Close() // the child holds its own
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("local: %s could not be started: %w", c.Path, err)
	}
	pid := cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // how it ended is seen by its watcher
	return pid, nil
}
