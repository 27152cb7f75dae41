package executors

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Stop stops the server of this host's data directory and returns when its
// postmaster has ended. The mode is "fast" (sessions are ended, a last
// checkpoint is written; verified: pg_control says that it was shut down) or
// "immediate" (everything is dropped; crash recovery follows at the next start).
// Where none runs it returns nil. P.StopWithin, when set, and ctx bound the
// wait; the server may still stop after such an error. A frozen postmaster is
// an error at once, because it can obey no signal but SIGKILL; Stop never
// thaws one. An immediate stop is no proof of death: ProveDead is.
func Stop(ctx context.Context, p Postgres, mode string) error {
	if e, ok := elsewhere(p); ok {
		_, err := act(ctx, e, Act{Do: "stop", Postgres: p, Mode: mode})
		return err
	}
	if ran, err := stop(ctx, p, mode); err != nil || !ran || mode == "immediate" {
		return err
	}
	c, err := ReadControl(ctx, p)
	if err == nil && !c.Clean() {
		err = fmt.Errorf("node %s: it ended, but not in order: pg_control says %q, expected \"shut down\"; %s", p.Node, c.State, logTail(p.ServerLog(), 0))
	}
	return err
}

// stop is Stop without the look at what it left; it reports whether a server ran.
func stop(ctx context.Context, p Postgres, mode string) (ran bool, err error) {
	signals := map[string]syscall.Signal{"fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}
	sig, ok := signals[mode]
	if !ok {
		return false, fmt.Errorf("node %s: stop mode %q is not known, expected fast or immediate", p.Node, mode)
	}
	if !onThisHost(p.Runner) {
		return false, fmt.Errorf("node %s: a server can be stopped on its own host only: use the runner local", p.Node)
	}
	if _, err := majorVersion(ctx, p); err != nil {
		return false, err
	}
	inc, running, err := FindPostmaster(p.DataDir)
	if err != nil {
		return false, fmt.Errorf("node %s: %w", p.Node, err)
	}
	if !running {
		return false, nil
	}
	if err := signalAndWait(ctx, p, inc, sig); err != nil {
		return true, fmt.Errorf("node %s: stop (%s): %w", p.Node, mode, err)
	}
	return true, nil
}

func signalAndWait(ctx context.Context, p Postgres, inc Incarnation, sig syscall.Signal) error {
	if Stopped(inc) {
		return fmt.Errorf("process %d is frozen (state T) and cannot stop in order: prove it dead instead", inc.PID)
	}
	w, err := Watch(inc)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", inc.PID, err)
	}
	if p.StopWithin > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.StopWithin)
		defer cancel()
	}
	select {
	case <-w.Done():
		return nil
	case <-ctx.Done():
		left, err := ProcessesOf(p.DataDir)
		return errors.Join(fmt.Errorf("process %d has not ended in time (%w); running: %s", inc.PID, context.Cause(ctx), describe(left)), err)
	}
}
