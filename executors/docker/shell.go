package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/interrex-ha/interrex/executors/remote"
)

// shell is a remote.Shell in the container.
type shell struct{ *engine }

const (
	// lookEvery is how often the Engine is asked whether the program still runs:
	// the stream tells it too, but not where a daemon was left behind that holds
	// it, and not where the Engine has fallen silent.
	lookEvery = 500 * time.Millisecond
	// settleWithin bounds the wait for the exit code once the stream has ended.
	settleWithin = 10 * time.Second
)

// Exec implements remote.Shell.
func (s *shell) Exec(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (remote.Status, error) {
	c, err := s.use()
	if err != nil {
		return remote.Status{}, err
	}
	run, err := s.begin(ctx, c, script)
	if err != nil {
		return remote.Status{}, err
	}
	defer run.stream.Close()
	return run.wait(ctx, stdin, stdout, stderr)
}

// execution is one command in the container.
type execution struct {
	*engine
	c      *client.Client
	id     string
	stream types.HijackedResponse
	output remote.Drain
}

// begin has the shell executed. It returns at once when ctx ends, which the
// client does not in all of its waits.
func (s *shell) begin(ctx context.Context, c *client.Client, script string) (*execution, error) {
	type begun struct {
		run *execution
		err error
	}
	done := make(chan begun, 1)
	go func() {
		run, err := s.attach(ctx, c, script)
		done <- begun{run, err}
	}()
	select {
	case b := <-done:
		return b.run, b.err
	case <-ctx.Done():
		go func() {
			if b := <-done; b.err == nil {
				b.run.stream.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

func (s *shell) attach(ctx context.Context, c *client.Client, script string) (*execution, error) {
	made, err := c.ContainerExecCreate(ctx, s.o.Container, container.ExecOptions{
		User: s.o.User, Cmd: []string{"sh", "-c", script}, AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		// Why not is asked of the state: the Engine has one code for several reasons.
		if reason := s.usable(ctx, c); reason != nil {
			return nil, reason
		}
		return nil, s.explain(c, err)
	}
	stream, err := c.ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		if reason := s.usable(ctx, c); reason != nil {
			return nil, reason
		}
		return nil, s.explain(c, err)
	}
	return &execution{engine: s.engine, c: c, id: made.ID, stream: stream}, nil
}

// wait carries the streams until the program has ended, ctx ends, or the Engine
// is not there any more.
func (run *execution) wait(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (remote.Status, error) {
	go func() {
		_, _ = io.Copy(run.stream.Conn, stdin) // a program need not read it
		_ = run.stream.CloseWrite()
	}()
	read := make(chan struct{})
	go func() {
		_, _ = stdcopy.StdCopy(run.output.Through(stdout), run.output.Through(stderr), run.stream.Reader)
		close(read)
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return remote.Status{}, context.Cause(ctx)
		case <-read:
			return run.settled(ctx)
		case <-tick.C:
		}
		status, ended, err := run.look(ctx)
		if err != nil {
			return status, err
		}
		if ended {
			return status, run.output.Wait(ctx, read, func() error { _, _, err := run.look(ctx); return err })
		}
	}
}

// look asks whether the program has ended. Before it has begun the Engine says
// that it does not run either, and knows no process of it.
func (run *execution) look(ctx context.Context) (remote.Status, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	info, err := run.c.ContainerExecInspect(ctx, run.id)
	if err != nil {
		return remote.Status{}, false, run.explain(run.c, err)
	}
	return statusOf(info.ExitCode), !info.Running && (info.Pid != 0 || info.ExitCode != 0), nil
}

// settled waits for the exit code of a program whose stream has ended.
func (run *execution) settled(ctx context.Context) (remote.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settleWithin, errors.New("the Engine closed its stream and tells no exit code"))
	defer cancel()
	for {
		status, ended, err := run.look(ctx)
		if err != nil || ended {
			return status, err
		}
		select {
		case <-ctx.Done():
			return remote.Status{}, fmt.Errorf("container %s: %w", run.o.Container, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// statusOf translates an exit code: 128 and a signal's number are what Docker
// makes of a signal.
func statusOf(code int) remote.Status {
	if code > 128 && code <= 128+64 {
		return remote.Status{Code: -1, Signal: syscall.Signal(code - 128).String()}
	}
	return remote.Status{Code: code}
}
