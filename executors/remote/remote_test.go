package remote_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// TestNothingHidesTheProgram: a relative path that begins with a dash is no option
// of exec, and the command's own PATH and IFS say nothing of what we need.
func TestNothingHidesTheProgram(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "-d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "-d", "p"), []byte("#!/bin/sh\necho \"$PATH $IFS\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]here{
		"a session of its own": {program: []string{"sh"}, attr: syscall.SysProcAttr{Setsid: true}},
		"setsid is needed":     {program: []string{"sh"}},
	} {
		out, err := remote.New("here", s).Run(t.Context(), executors.Command{
			Path: "-d/p", Dir: dir, Env: []string{"PATH=/nowhere", "IFS=s"}, Timeout: 10 * time.Second,
		})
		if err != nil || !strings.HasPrefix(string(out.Stdout), "/nowhere ") {
			t.Errorf("%s: %q, %v", name, out.Stdout, err)
		}
	}
}
