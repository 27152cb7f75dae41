package script

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"time"

	"github.com/interrex-ha/interrex/config/pgpool"
	"github.com/interrex-ha/interrex/executors"
)

// Recovery is pgpool's online recovery of a node by the user's two scripts.
type Recovery struct {
	FirstStage string // recovery_1st_stage_command: see pgpool.CheckScript
	// Primary's Runner is where both scripts run; its address is how it is asked.
	Primary, Target executors.Postgres
	// PrimaryAs and TargetAs are the nodes as the scripts are told them.
	PrimaryAs, TargetAs pgpool.Node
	// Lead is called once the target is seen in recovery, and again until it
	// succeeds: what the scripts copied may follow through a slot of the primary's
	// own former life. Nil: nothing is done.
	Lead       func(context.Context) error
	CopyWithin time.Duration // for the first stage; 0: only ctx bounds it
	Within     time.Duration // from pgpool_remote_start until the target streams; 90 s when 0
}

const recoverWithin = 90 * time.Second

// remoteStart is the name that pgpool has built in.
const remoteStart = "pgpool_remote_start"

// Recover runs recovery_1st_stage_command and pgpool_remote_start as pgpool's
// extension does: on the primary's host, in its data directory, with its seven
// and two arguments (primary's data directory, target's host, target's data
// directory, primary's port, target's id, target's port, primary's host; then
// target's host and data directory). Older scripts pass over what they do not
// know.
//
// Nothing is run, and the verdict is Refused, where the primary is none, the
// target is not certainly down or has the primary's directory (the scripts empty
// it), or an address or directory is not safe in a script. As with pgpool the
// target is not started after a first stage that failed. Nor is it started
// without standby.signal: PostgreSQL 12 and later would come up read-write; the
// tutorial's recovery.conf means nothing to them.
//
// Then the target must be in recovery, of the primary's system identifier,
// streaming, and must hold a record that was just written to the primary's WAL.
// A target that takes writes is an error at once, ErrReadWrite: the caller has
// to stop it.
func Recover(ctx context.Context, r Recovery) (Result, error) {
	if r.Within == 0 {
		r.Within = recoverWithin
	}
	a := recovery{Recovery: r, primary: follower{p: r.Primary}, target: follower{p: r.Target}, result: Result{Verdict: Refused}}
	defer a.primary.close()
	defer a.target.close()
	if err := a.before(ctx); err != nil {
		return a.result, fmt.Errorf("node %s: recovery_1st_stage_command was not run: %w", r.Target.Node, err)
	}
	if err := a.run(ctx); err != nil {
		return a.result, fmt.Errorf("node %s: recovery by scripts: %s: %w (%s)", r.Target.Node, a.result.Verdict, err, a.result.said())
	}
	return a.result, nil
}

// recovery is one Recover under way.
type recovery struct {
	Recovery
	primary, target follower
	system          string
	result          Result
}

func (a *recovery) before(ctx context.Context) error {
	if a.FirstStage == "" {
		return errors.New("there is none")
	}
	if err := errors.Join(pgpool.CheckScript(a.FirstStage), a.PrimaryAs.Check(), a.TargetAs.Check()); err != nil {
		return err
	}
	if err := a.places(ctx); err != nil {
		return err
	}
	now, err := a.primary.look(ctx)
	if err != nil {
		return fmt.Errorf("the primary: %w", err)
	}
	if now.recovering {
		return fmt.Errorf("%s is in recovery: expected a primary to copy from", a.Primary.Node)
	}
	a.system = now.system
	target, err := a.target.look(ctx)
	switch {
	case err == nil && !target.recovering:
		return fmt.Errorf("%w; demote or fence it first", executors.ErrIsPrimary)
	case err == nil:
		return fmt.Errorf("%w: stop it first, the script empties its data directory", executors.ErrRunning)
	case !down(err):
		return fmt.Errorf("it is not certain that it is stopped, and the script empties its data directory: %w", err)
	}
	return nil
}

// places makes sure that the script empties no other directory than the one that
// is looked at, and not the primary's, by whatever name of its host.
func (a *recovery) places(ctx context.Context) error {
	for _, c := range []struct {
		ours   executors.Postgres
		theirs pgpool.Node
	}{{a.Primary, a.PrimaryAs}, {a.Target, a.TargetAs}} {
		if path.Clean(c.ours.DataDir) != path.Clean(c.theirs.DataDir) {
			return fmt.Errorf("the data directory of %s is %s, and scripts would be told %s", c.ours.Node, c.ours.DataDir, c.theirs.DataDir)
		}
	}
	both := fmt.Errorf("%s on %s is the primary's data directory: the script would remove it", a.TargetAs.DataDir, a.TargetAs.Host)
	if a.PrimaryAs.Host == a.TargetAs.Host && path.Clean(a.PrimaryAs.DataDir) == path.Clean(a.TargetAs.DataDir) {
		return both
	}
	lock, err := a.Primary.Runner.ReadFile(ctx, path.Join(a.Primary.DataDir, "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("the primary's postmaster.pid: %w", err)
	}
	other, err := a.Target.Runner.ReadFile(ctx, path.Join(a.Target.DataDir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("its postmaster.pid: %w", err)
	}
	if bytes.Equal(lock, other) { // number, directory, start time, shared memory
		return both
	}
	return nil
}

func (a *recovery) run(ctx context.Context) error {
	if !a.script(ctx, a.FirstStage, a.CopyWithin, a.firstArgs()) {
		a.result.Verdict = Failed
		return errors.Join(errors.New("the first stage failed, so the node was not started"), a.readWrite(ctx))
	}
	started, err := a.mayStart(ctx)
	if err != nil {
		return err
	}
	watch := stopwatch{time.Now().Add(a.Within)}
	if !started {
		a.script(ctx, remoteStart, a.Within, []string{a.TargetAs.Host, a.TargetAs.DataDir})
	}
	return a.verify(ctx, watch)
}

func (a *recovery) firstArgs() []string {
	return []string{
		a.PrimaryAs.DataDir, a.TargetAs.Host, a.TargetAs.DataDir, strconv.Itoa(a.PrimaryAs.Port),
		strconv.Itoa(a.TargetAs.ID), strconv.Itoa(a.TargetAs.Port), a.PrimaryAs.Host,
	}
}

// script runs one of the primary's scripts and says whether it ended well.
func (a *recovery) script(ctx context.Context, name string, within time.Duration, args []string) bool {
	if !path.IsAbs(name) {
		name = path.Join(a.PrimaryAs.DataDir, name)
	}
	one := run(ctx, a.Primary.Runner, executors.Command{
		Path: name, Args: args, Dir: a.PrimaryAs.DataDir, Env: []string{"PGDATA=" + a.PrimaryAs.DataDir}, Timeout: within,
	})
	a.result.Runs = append(a.result.Runs, one)
	return one.Exit == 0
}

// readWrite looks once whether the target takes writes; whoever started it.
func (a *recovery) readWrite(ctx context.Context) error {
	now, err := a.target.look(ctx)
	if err != nil || now.recovering {
		return nil
	}
	a.result.Verdict = Unsafe
	return ErrReadWrite
}

// mayStart says whether the first stage has left a standby, and whether it has
// started it itself.
func (a *recovery) mayStart(ctx context.Context) (started bool, err error) {
	if err := a.readWrite(ctx); err != nil {
		return false, err
	}
	if _, err := a.target.look(ctx); err == nil || !down(err) {
		return true, nil
	}
	_, err = a.Target.Runner.Stat(ctx, path.Join(a.Target.DataDir, "standby.signal"))
	if err == nil {
		return false, nil
	}
	a.result.Verdict = Unknown
	if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for standby.signal: %w", err)
	}
	a.result.Verdict = NotDone
	hint := ""
	if _, err := a.Target.Runner.Stat(ctx, path.Join(a.Target.DataDir, "recovery.conf")); err == nil {
		hint = "; there is a recovery.conf, with which PostgreSQL 12 and later do not start at all"
	}
	return false, fmt.Errorf("the first stage left no standby.signal in %s%s: started, it would take writes beside the primary, so it was not; have the script call pg_basebackup with -R", a.Target.DataDir, hint)
}

// verify waits until the target streams from the primary, or does what it must
// not.
func (a *recovery) verify(ctx context.Context, watch stopwatch) error {
	limited, cancel := watch.look(ctx, a.result.ok())
	defer cancel()
	a.result.Verdict = Unknown
	var now seen
	var last error
	w, led := arrival{recovery: a}, false
	done, err := until(limited, func() (bool, error) {
		found, err := a.target.look(limited)
		if limited.Err() != nil {
			return false, nil // an answer that was cut short says nothing
		}
		if now, last = found, err; err != nil {
			return false, nil
		}
		if err := a.judge(now); err != nil {
			return false, err
		}
		if a.Lead != nil && !led {
			if last = a.Lead(limited); last != nil {
				return false, nil
			}
			led = true
		}
		arrived, err := w.arrived(limited, now)
		if limited.Err() == nil {
			last = err
		}
		return arrived, nil
	})
	switch {
	case err != nil:
		a.result.Verdict = Unsafe
		return err
	case done:
		a.result.Verdict = a.result.effect()
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	a.result.Verdict = a.result.missing()
	if last != nil {
		return fmt.Errorf("it cannot be asked: %w", last)
	}
	if now.streaming {
		return fmt.Errorf("its receiver says %q, but what %s writes does not arrive", now.receiving, a.Primary.Node)
	}
	return fmt.Errorf("it is in recovery and does not stream: %s", now.receiving)
}

// arrival is the proof that the target receives from the primary.
type arrival struct {
	*recovery
	receiver int // seen streaming at the last look
	left     *witness
}

// arrived says whether the same receiver streams since the last look, since one
// that is about to be refused says "streaming" too, and whether a record written
// after that has arrived.
func (a *arrival) arrived(ctx context.Context, now seen) (bool, error) {
	if !now.streaming || now.receiver != a.receiver {
		a.receiver, a.left = now.receiver, nil
		return false, nil
	}
	if a.left == nil {
		if _, err := a.primary.look(ctx); err != nil {
			return false, fmt.Errorf("the primary: %w", err)
		}
		w, err := leaveWitness(ctx, a.primary.conn, rand.Text()+rand.Text()+rand.Text())
		if err != nil {
			return false, err
		}
		a.left = &w
	}
	return a.left.arrived(ctx, a.target.conn)
}

func (a *recovery) judge(now seen) error {
	if !now.recovering {
		return ErrReadWrite
	}
	if now.system != a.system {
		return fmt.Errorf("%w: system identifier %s, expected %s", ErrOtherSystem, now.system, a.system)
	}
	return nil
}
