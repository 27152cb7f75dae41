package executors

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// killPause is between two looks at what is left. Processes with a large shared
// memory mapped need some milliseconds to end.
const killPause = 2 * time.Millisecond

// KillAll ends everything that belongs to a data directory with SIGKILL: the
// postmaster first, so that nothing new is started, then whatever works in the
// directory (also what a superuser started there: an archive command, a shell),
// until nothing is left and nobody is attached to the shared memory, seen twice
// in a row. It returns how many processes it signalled. The error names what is
// left when ctx ends; D is a state in which the kernel ends no process. The
// caller is never killed, whatever its working directory.
func KillAll(ctx context.Context, dataDir string) (killed int, err error) {
	k := killer{seen: map[int]bool{}}
	if inc, ok, err := FindPostmaster(dataDir); err != nil {
		return 0, err
	} else if ok {
		children := childrenOf(inc.PID)
		if err := signalExactly(inc, syscall.SIGKILL); err == nil {
			k.seen[inc.PID] = true
		}
		for _, pid := range children {
			k.kill(pid)
		}
	}
	tick := time.NewTicker(killPause)
	defer tick.Stop()
	for quiet := 0; ; {
		left, free, err := k.round(dataDir)
		if err != nil {
			return len(k.seen), err
		}
		if quiet++; len(left) > 0 || !free {
			quiet = 0
		}
		if quiet == 2 {
			return len(k.seen), nil
		}
		if quiet == 1 {
			continue // what was forked behind the first look's back is found at once
		}
		select {
		case <-ctx.Done():
			return len(k.seen), k.leftError(ctx, dataDir, left, free)
		case <-tick.C:
		}
	}
}

type killer struct {
	seen   map[int]bool
	denied error
}

// round kills what is there and reports it.
func (k *killer) round(dataDir string) (left []Process, free bool, err error) {
	if left, err = ProcessesOf(dataDir); err != nil {
		return nil, false, err
	}
	for _, p := range left {
		k.kill(p.PID)
	}
	free, err = SharedMemoryFree(dataDir)
	return left, free, err
}

func (k *killer) kill(pid int) {
	switch err := syscall.Kill(pid, syscall.SIGKILL); {
	case err == nil:
		k.seen[pid] = true
	case !errors.Is(err, syscall.ESRCH):
		k.denied = fmt.Errorf("kill process %d: %w", pid, err)
	}
}

func (k *killer) leftError(ctx context.Context, dataDir string, left []Process, free bool) error {
	what := "processes are left: " + describe(left)
	if len(left) == 0 {
		what = "no process is left that works there"
		if !free {
			what += ", but the shared memory of postmaster.pid has users: find them with ipcs -pm"
		}
	}
	return errors.Join(fmt.Errorf("the PostgreSQL of %s could not be killed in time, %s: %w", dataDir, what, context.Cause(ctx)), k.denied)
}
