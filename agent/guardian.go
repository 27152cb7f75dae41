package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm/lease"
)

// The guardian is the fence that survives the agent: a second process of the
// same binary that knows one thing, the lease's end, and does one thing, kill
// every process of the PostgreSQL when it comes (TRIED 13).

// guardianNap bounds the guardian's sleep. While a lease is held it wakes when
// the lease would end: the agent only ever moves that away.
const guardianNap = 400 * time.Millisecond

// orphaned is how long a guardian without a lease waits for an agent to return.
const orphaned = 15 * time.Second

// A lease that the agent is just writing is looked at again, so often and after
// such a nap: one that was merely put to sleep by the kernel goes on meanwhile.
const (
	tornTries = 20
	tornNap   = 5 * time.Millisecond
)

// files of a node, beside its data directory.
func lockFile(dir string) string     { return filepath.Join(dir, "agent.lock") }
func guardianLock(dir string) string { return filepath.Join(dir, "guardian.lock") }

// LeasePath is where a node's lease file lives.
func LeasePath(dir string) string { return filepath.Join(dir, "lease") }

// RunGuardian guards the node whose files live in dir until it is told to end,
// or nobody needs it any more. A second guardian for one node ends at once.
func RunGuardian(ctx context.Context, dir, dataDir string, logger *slog.Logger) error {
	lock, err := tryLock(guardianLock(dir))
	if err != nil {
		return fmt.Errorf("guardian: %w", err)
	}
	defer lock.Close()
	boot, err := executors.BootID()
	if err != nil {
		return fmt.Errorf("guardian: %w", err)
	}
	l, err := OpenLease(LeasePath(dir), boot)
	if err != nil {
		return fmt.Errorf("guardian: %w", err)
	}
	defer l.Close()
	l.set(wordGuardianPID, uint64(os.Getpid()))
	defer l.set(wordGuardianTick, 0) // the agent need not wait to see that it is gone
	g := guardian{file: l, dataDir: dataDir, logger: logger, needed: Now().Boot}
	for g.turn(ctx) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(g.nap):
		}
	}
	return nil
}

type guardian struct {
	file    *LeaseFile
	dataDir string
	logger  *slog.Logger
	nap     time.Duration
	needed  time.Duration // last time that somebody needed it
	done    Lease         // the lease that was fenced already
	last    Lease         // the newest that was read whole
	torn    int           // looks in a row at a lease that is half-written
}

// turn looks once; it reports whether to go on.
func (g *guardian) turn(ctx context.Context) bool {
	now := Now()
	g.file.set(wordGuardianTick, uint64(now.Boot))
	v, ok := g.file.Read()
	if ok {
		g.last, g.torn = v, 0
	}
	g.nap = guardianNap
	switch {
	case g.file.get(wordQuit) == 1:
		return false
	case !ok && g.torn < tornTries && !over(g.last, now):
		g.torn++
		g.nap = tornNap
		return true
	case !ok:
		// The agent was killed while it wrote: what stands there bounds nothing,
		// and what stood there before is over, or was never read: fence.
		g.fence(ctx, v)
		g.file.Repair()
	case v.Held && !v.Stay:
		g.needed = now.Boot
		if over(v, now) {
			if v != g.done {
				g.fence(ctx, v)
			}
			return true
		}
		g.nap = min(guardianNap, v.Expiry.Add(-v.Budget).Until(now))
	case v.Held:
		g.needed = now.Boot
	}
	if pid := g.file.AgentPID(); pid > 0 && unix.Kill(pid, 0) == nil {
		g.needed = now.Boot
	}
	return now.Boot-g.needed < orphaned
}

// over says that the fence must begin.
func over(v Lease, now lease.Instant) bool {
	return v.Held && !v.Stay && v.Expiry.Add(-v.Budget).Reached(now)
}

// fence kills until nothing is left, however long it takes: giving up would
// leave a primary without a lease.
func (g *guardian) fence(ctx context.Context, v Lease) {
	g.file.set(wordFenced, uint64(Now().Boot))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	killed, err := executors.KillAll(ctx, g.dataDir)
	g.logger.Warn("the lease is over: PostgreSQL was killed", "term", v.Term, "processes", killed, "error", err)
	if err != nil {
		return
	}
	g.done = v
	if now, ok := g.file.Read(); ok && now != v {
		return // an agent is back, and knows better
	}
	if err := readOnly(g.dataDir); err != nil {
		g.logger.Error("whoever starts this PostgreSQL by hand may get a second primary: keep it stopped", "error", err)
	}
}

// readOnly makes sure that a later start by somebody else than an agent gives a
// standby. It comes after the kill, which must not wait for a slow disk.
func readOnly(dataDir string) error {
	f, err := os.OpenFile(filepath.Join(dataDir, "standby.signal"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDir(dataDir))
}

// errLocked says that another process holds a lock.
var errLocked = errors.New("another process holds it")

func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, errLocked)
	}
	return f, nil
}
