package executors

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Dead is the evidence that no process of a PostgreSQL is left and that none
// can come back read-write by itself.
type Dead struct {
	PID           int        // of the postmaster by postmaster.pid, 0 when there was no such file
	Clean         bool       // pg_control says that it was shut down in order
	EndLSN        events.LSN // end of its WAL; may lie below from, see EndOfWAL
	Timeline      uint32     // that crash recovery would end on
	SystemID      string
	Killed        int  // processes that had to be killed
	StandbySignal bool // always true in a proof
	// Outside is what it ran in, when that had to be ended as a whole: then nothing
	// more than StandbySignal is known.
	Outside string
	Took    time.Duration
}

// ProveDead makes sure that the PostgreSQL of this host's data directory is dead
// and says where its WAL ends. In this order: standby.signal is written and
// fsynced, so that whoever starts it from now on starts it read-only; everything
// that belongs to the directory is killed; that is looked at again; pg_control
// and the WAL are read, from the position that was last seen flushed (0: not
// known). Settings with which a standby would promote itself are made void in
// postgresql.auto.conf before. It may be repeated at any time.
//
// An error means that there is no proof, though processes may have been killed:
// a process is left (in state D, or another user's), the directory cannot be
// written, it belongs to a PostgreSQL of other namespaces, or its WAL cannot be
// read. A container that nothing can be run in (it is paused, or hangs) is killed
// as a whole, after at most 8 s; see Endable. Not covered: a second copy of the directory, and storage that another
// host can mount. Work on a hanging disk is not bounded by ctx.
func ProveDead(ctx context.Context, p Postgres, from events.LSN) (Dead, error) {
	if e, ok := elsewhere(p); ok {
		return proveDeadElsewhere(ctx, e, p, from)
	}
	began := time.Now()
	if err := forbidWrites(ctx, p); err != nil {
		return Dead{}, err
	}
	return proveDead(ctx, p, from, began)
}

// proveDead is the rest of the proof, when no later start can be read-write.
func proveDead(ctx context.Context, p Postgres, from events.LSN, began time.Time) (Dead, error) {
	d, err := killForGood(ctx, p)
	if err != nil {
		return d, err
	}
	if err := d.read(ctx, p, from); err != nil {
		return d, fmt.Errorf("node %s: it is dead, but where its WAL ends is not known: %w", p.Node, err)
	}
	d.Took = time.Since(began)
	return d, nil
}

// endForGood is the proof without the positions, which nobody can read in a
// damaged directory.
func endForGood(ctx context.Context, p Postgres) (Dead, error) {
	if err := forbidWrites(ctx, p); err != nil {
		return Dead{}, err
	}
	return killForGood(ctx, p)
}

// forbidWrites is the first step: no later start is read-write. A server that
// runs is not disturbed by it.
func forbidWrites(ctx context.Context, p Postgres) error {
	if !onThisHost(p.Runner) {
		return fmt.Errorf("node %s: a proof of death is possible on PostgreSQL's own host only: use the runner local", p.Node)
	}
	if _, err := majorVersion(ctx, p); err != nil {
		return err
	}
	if err := readOnly(ctx, p); err != nil {
		return fmt.Errorf("node %s: no proof of death, a later start could be read-write: %w", p.Node, err)
	}
	return nil
}

// killForGood is the second: nothing is left, and standby.signal is still there.
func killForGood(ctx context.Context, p Postgres) (d Dead, err error) {
	if err := d.kill(ctx, p.DataDir); err != nil {
		return d, fmt.Errorf("node %s: no proof of death: %w", p.Node, err)
	}
	if err := verifyDead(ctx, p); err != nil {
		return d, fmt.Errorf("node %s: no proof of death: %w", p.Node, err)
	}
	d.StandbySignal = true
	return d, nil
}

func standbySignal(p Postgres) string { return filepath.Join(p.DataDir, "standby.signal") }

// kill kills what is there. Where nothing was, the lock file must show that the
// PostgreSQL ran where this process would have seen it.
func (d *Dead) kill(ctx context.Context, dataDir string) error {
	lock, locked, err := readLockFile(dataDir)
	if err != nil {
		return err
	}
	_, running, err := FindPostmaster(dataDir) // an error when namespaces differ
	if err != nil {
		return err
	}
	if locked && !running {
		if err := evidence(dataDir, lock); err != nil {
			return err
		}
	}
	d.PID = lock.pid
	d.Killed, err = KillAll(ctx, dataDir)
	return err
}

// verifyDead looks at everything once more: what was true at different moments
// before has to be true at one.
func verifyDead(ctx context.Context, p Postgres) error {
	if info, err := p.Runner.Stat(ctx, standbySignal(p)); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("standby.signal is not there any more, somebody works on %s: %w", p.DataDir, err)
	}
	left, err := ProcessesOf(p.DataDir)
	if err != nil {
		return err
	}
	free, err := SharedMemoryFree(p.DataDir)
	if err != nil {
		return err
	}
	if len(left) > 0 || !free {
		return fmt.Errorf("something was started again in %s (processes: %s; shared memory in use: %t): keep the init system from starting it", p.DataDir, describe(left), !free)
	}
	return nil
}

func (d *Dead) read(ctx context.Context, p Postgres, from events.LSN) error {
	c, err := ReadControl(ctx, p)
	if err != nil {
		return err
	}
	d.Clean, d.Timeline, d.SystemID = c.Clean(), c.LastTimeline(), c.SystemID
	// The latest checkpoint is a record for sure, and may be the newer position.
	d.EndLSN, err = EndOfWAL(ctx, p, max(from, c.Checkpoint+1), d.Timeline)
	return err
}
