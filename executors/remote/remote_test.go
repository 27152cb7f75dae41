package remote_test

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"syscall"
	"testing"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/executortest"
	"github.com/interrex-ha/interrex/executors/remote"
)

// here is a shell of this host: what ssh and docker bring to a login, without
// either.
type here struct {
	program []string
	attr    syscall.SysProcAttr
}

func (h here) Exec(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (remote.Status, error) {
	cmd := exec.Command(h.program[0], append(h.program[1:], "-c", script)...)
	cmd.SysProcAttr = &h.attr
	in, err := cmd.StdinPipe()
	if err != nil {
		return remote.Status{}, err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = 500e6
	if err := cmd.Start(); err != nil {
		return remote.Status{}, err
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-ctx.Done():
		_ = in.Close()
		return remote.Status{}, ctx.Err()
	case err = <-done:
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return remote.Status{}, err
	}
	s := remote.Status{Code: cmd.ProcessState.ExitCode()}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		s.Signal = ws.Signal().String()
	}
	return s, nil
}

func TestSuite(t *testing.T) {
	for name, s := range map[string]here{
		"a session of its own": {program: []string{"sh"}, attr: syscall.SysProcAttr{Setsid: true}},
		"setsid is needed":     {program: []string{"sh"}},
		"bash":                 {program: []string{"bash", "--posix"}, attr: syscall.SysProcAttr{Setsid: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			executortest.Suite(t, func(*testing.T) executors.Runner { return remote.New("here", s) })
		})
	}
}
