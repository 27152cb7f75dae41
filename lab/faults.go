package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// KillPostmaster sends SIGKILL to a node's postmaster and returns its process
// number and the moment just before. Its backends notice by themselves; a busy
// one may acknowledge commits for some milliseconds more.
func (l *Layout) KillPostmaster(name string) (pid int, at time.Time, err error) {
	pid, err = l.Postmaster(name)
	if err != nil {
		return 0, time.Time{}, err
	}
	at = time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, at, fmt.Errorf("lab: kill process %d of node %s: %w", pid, name, err)
	}
	return pid, at, nil
}

// Postmaster returns the process number of a node's server; an error when it
// does not run.
func (l *Layout) Postmaster(name string) (int, error) {
	n, err := l.Node(name)
	if err != nil {
		return 0, err
	}
	pid, err := postmaster(n)
	if err == nil && pid == 0 {
		err = fmt.Errorf("lab: node %s does not run", name)
	}
	return pid, err
}

// KillAll sends SIGKILL to every process of a node's server until none is left,
// as the death of its host would.
func (l *Layout) KillAll(ctx context.Context, name string) error {
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	var listing error
	err = poll(ctx, pollEvery, func() bool {
		var pids []int
		if pids, listing = processesIn(n.DataDir); listing != nil {
			return true
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
		}
		return len(pids) == 0
	})
	if err := errors.Join(listing, err); err != nil {
		return fmt.Errorf("lab: kill the processes of node %s: %w", name, err)
	}
	return nil
}

// Frozen are processes that were stopped by SIGSTOP.
type Frozen struct {
	PIDs []int
	At   time.Time // just before the first was stopped
}

// FreezePostgres stops a node's postmaster with SIGSTOP and, with all, every
// process of the server. The kernel goes on accepting connections for it. It
// returns when all of them stand still; Thaw lets them go on. A lab that ends
// without it leaves them frozen.
func (l *Layout) FreezePostgres(ctx context.Context, name string, all bool) (*Frozen, error) {
	pid, err := l.Postmaster(name)
	if err != nil {
		return nil, err
	}
	f, err := Freeze(ctx, pid)
	if err != nil || !all {
		return f, err
	}
	n, err := l.Node(name)
	if err != nil {
		return f, err
	}
	for { // none is forked any more, but one may have been while we looked
		pids, err := processesIn(n.DataDir)
		if err != nil {
			return f, errors.Join(err, f.Thaw())
		}
		pids = slices.DeleteFunc(pids, func(p int) bool { return slices.Contains(f.PIDs, p) })
		if len(pids) == 0 {
			return f, nil
		}
		more, err := Freeze(ctx, pids...)
		f.PIDs = append(f.PIDs, more.PIDs...)
		if err != nil {
			return f, errors.Join(err, f.Thaw())
		}
	}
}

// Freeze stops processes with SIGSTOP, in the order given, and waits until they
// stand still. A process that is gone is no error.
func Freeze(ctx context.Context, pids ...int) (*Frozen, error) {
	f := &Frozen{PIDs: pids, At: time.Now()}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
			return f, errors.Join(fmt.Errorf("lab: stop process %d: %w", pid, err), f.Thaw())
		}
	}
	err := poll(ctx, time.Millisecond, func() bool {
		return !slices.ContainsFunc(pids, func(pid int) bool { return alive(pid) && !stopped(pid) })
	})
	if err != nil {
		return f, errors.Join(fmt.Errorf("lab: processes %v do not stand still: %w", pids, err), f.Thaw())
	}
	return f, nil
}

// Thaw lets the processes go on, those frozen last first, so that the
// postmaster finds its children awake. Processes that are gone are no error.
func (f *Frozen) Thaw() error {
	var errs []error
	for _, pid := range slices.Backward(f.PIDs) {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("lab: let process %d go on: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}
