package script

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/config/pgpool"
	"github.com/interrex-ha/interrex/executors"
)

// Promotion is a failover_command with everything that it needs.
type Promotion struct {
	Command pgpool.Command
	Place   executors.Runner // where it runs; pgpool runs it on its own host
	Values  pgpool.Values
	// Candidate is the node of Values.Main; Others are those that must not be
	// promoted, the old primary among them.
	Candidate executors.Postgres
	Others    []executors.Postgres
	// Check says whether the right to promote still stands, within milliseconds;
	// it is asked every 20 ms. Its first error ends the script and the wait. Nil:
	// it always does.
	Check  func() error
	Within time.Duration // for the script and until its effect is seen; 30 s when 0
}

const promoteWithin = 30 * time.Second

// Promote runs a failover_command and looks whether the candidate, and nobody
// else, was promoted: out of recovery, same system identifier, newer timeline.
//
// A candidate that is out of recovery already is a success, and nothing is run.
// Where the candidate does not answer, another node is out of recovery, or a
// value is not safe in a script, nothing is run and the error is an ordinary
// one. Once the script was begun every error is an *executors.PromoteUnknown,
// because what it has begun elsewhere may go on: the candidate counts as a
// possible primary until it is fenced. It wraps ErrOtherPromoted,
// ErrSameTimeline or ErrOtherSystem where that was seen.
//
// The script is ended after Within, with its process group; descendants that
// have left the group, and commands at the other end of an ssh of its own, are
// not reached. The effect is looked for until then, and at least 2 s after the
// script's end; after a failure 2 s. Another node that is silent costs up to 1 s
// before the script is run, and again after it.
func Promote(ctx context.Context, p Promotion) (Result, error) {
	if p.Within == 0 {
		p.Within = promoteWithin
	}
	if p.Check == nil {
		p.Check = func() error { return nil }
	}
	a := promotion{Promotion: p, candidate: follower{p: p.Candidate}, result: Result{Verdict: Refused}}
	defer a.candidate.close()
	args, err := a.before(ctx)
	if err != nil {
		return a.result, fmt.Errorf("node %s: failover_command was not run: %w", p.Candidate.Node, err)
	}
	if a.result.Verdict == Already {
		return a.result, nil
	}
	watch := stopwatch{time.Now().Add(p.Within)}
	a.run(ctx, args, watch.end)
	if err := a.verify(ctx, watch); err != nil {
		return a.result, &executors.PromoteUnknown{Node: p.Candidate.Node, Calls: 1, Err: fmt.Errorf("failover_command: %s: %w (%s)", a.result.Verdict, err, a.result.said())}
	}
	return a.result, nil
}

// promotion is one Promote under way.
type promotion struct {
	Promotion
	candidate follower
	was       seen
	result    Result
}

// before inspects; nothing has happened when it fails.
func (a *promotion) before(ctx context.Context) (args []string, err error) {
	if args, err = a.Command.Args(a.Values); err != nil {
		return nil, err
	}
	if a.Values.Main.Host == "" || a.Values.Main.ID < 0 {
		return nil, errors.New("there is no candidate in the placeholders %m and %H")
	}
	if a.was, err = a.candidate.look(ctx); err != nil {
		return nil, err
	}
	others, _ := primaries(ctx, a.Others, a.was.system)
	if len(others) > 0 {
		return nil, fmt.Errorf("%s takes writes: fence it first", strings.Join(others, ", "))
	}
	if !a.was.recovering {
		if a.result.Promoted, err = executors.TimelineOf(ctx, a.candidate.conn); err == nil {
			a.result.Verdict = Already
		}
		return nil, err
	}
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("the right to promote is not certain any more: %w", err)
	}
	return args, nil
}

// run runs the script until it ends, its time is over, or the right is gone.
func (a *promotion) run(ctx context.Context, args []string, end time.Time) {
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := until(limited, func() (bool, error) { return false, a.Check() })
		cancel(err)
	}()
	a.result.Runs = append(a.result.Runs, run(limited, a.Place, executors.Command{
		Path: a.Command.Program(), Args: args, Timeout: time.Until(end),
	}))
	cancel(nil)
	<-ended
}

// verify believes only what it sees.
func (a *promotion) verify(ctx context.Context, watch stopwatch) error {
	limited, cancel := watch.look(ctx, a.result.ok())
	defer cancel()
	a.result.Verdict = Unknown
	var now seen
	var unseen error
	var others []string
	var looked time.Time
	done, err := until(limited, func() (bool, error) {
		if err := a.Check(); err != nil {
			return false, fmt.Errorf("the right to promote is not certain any more: %w", err)
		}
		found, err := a.candidate.look(limited)
		if limited.Err() != nil {
			return false, nil // an answer that was cut short says nothing
		}
		if now, unseen = found, err; err == nil && !now.recovering {
			return true, nil
		}
		if time.Since(looked) > 10*lookEvery {
			others, a.result.Unseen = primaries(limited, a.Others, a.was.system)
			looked = time.Now()
		}
		return len(others) > 0, nil
	})
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(others) > 0:
		return a.unsafe(fmt.Errorf("%w: %s", ErrOtherPromoted, strings.Join(others, ", ")))
	case done:
		return a.judge(ctx, now)
	case unseen != nil:
		return fmt.Errorf("the candidate could not be asked: %w", unseen)
	}
	a.result.Verdict = a.result.missing()
	return errors.New("the candidate is still in recovery")
}

func (a *promotion) unsafe(err error) error {
	a.result.Verdict = Unsafe
	return err
}

// judge looks closer at a candidate that is out of recovery.
func (a *promotion) judge(ctx context.Context, now seen) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if now.system != a.was.system {
		return a.unsafe(fmt.Errorf("%w: system identifier %s, expected %s", ErrOtherSystem, now.system, a.was.system))
	}
	var err error
	if a.result.Promoted, err = executors.TimelineOf(ctx, a.candidate.conn); err != nil {
		return err
	}
	if a.result.Promoted.Timeline <= a.was.timeline {
		return a.unsafe(fmt.Errorf("%w: timeline %d, as before", ErrSameTimeline, a.result.Promoted.Timeline))
	}
	others, unseen := primaries(ctx, a.Others, a.was.system)
	a.result.Unseen = unseen
	if len(others) > 0 {
		return a.unsafe(fmt.Errorf("%w, beside the candidate: %s", ErrOtherPromoted, strings.Join(others, ", ")))
	}
	a.result.Verdict = a.result.effect()
	return nil
}
