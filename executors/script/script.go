// Package script runs the scripts of a pgpool user, failover_command and those
// of online recovery, with our decision in the placeholders, and looks by SQL
// what they did. An exit status proves nothing, in either direction: pgpool's
// samples end well after an ssh that failed, and a script that was ended at its
// deadline may have done its work. So the effect counts, and the exit status is
// recorded beside it.
//
// It decides nothing: who is promoted or recovered is given, and what follows
// from a verdict is the caller's business. Results hold what scripts printed;
// a script that prints a password puts it there.
package script

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// Verdict is what was found after the scripts had run.
type Verdict string

// The verdicts. Only the first three come without an error.
const (
	Verified Verdict = "verified"                             // the scripts ended well and the effect is there
	Despite  Verdict = "done though the script failed"        // the effect is there, the exit status is not 0
	Already  Verdict = "done already"                         // the effect was there before; nothing was run
	NotDone  Verdict = "not done though the script succeeded" // exit status 0, no effect in time
	Failed   Verdict = "failed"                               // exit status not 0, or ended at the deadline, and no effect
	Unsafe   Verdict = "unsafe"                               // the scripts did something else: see the error
	Unknown  Verdict = "unknown"                              // it ran, and what it did could not be seen
	Refused  Verdict = "refused"                              // nothing was run
)

// Errors that say what a script did instead. Each wants an act of the caller.
var (
	// ErrReadWrite: a node takes writes that must not. Stop it at once.
	ErrReadWrite = errors.New("it runs read-write beside the primary: stop it at once, and recover it")
	// ErrOtherPromoted: another node than the candidate left recovery.
	ErrOtherPromoted = errors.New("another node was promoted: fence it")
	// ErrSameTimeline: the candidate takes writes on the old primary's timeline,
	// as after removing standby.signal and a restart: histories that differ look
	// alike to pg_rewind.
	ErrSameTimeline = errors.New("it takes writes without a new timeline: fence it; it was not promoted but started as a primary")
	// ErrOtherSystem: a server with another system identifier answers.
	ErrOtherSystem = errors.New("another database cluster answers there")
)

// Run is one script that was run.
type Run struct {
	Program        string
	Args           []string
	Exit           int    // -1: it did not end by itself, or never began
	Error          string // why, for a status other than 0
	Stdout, Stderr string // the tails, at most 4 KiB each
	Took           time.Duration
}

// Result is what ran and what was found.
type Result struct {
	Verdict  Verdict
	Runs     []Run              // in order
	Promoted executors.Promoted // of Promote, when it is out of recovery; Calls is 0
	Unseen   []string           // nodes that did not answer when it was looked whether they were promoted
}

// ok says whether every script ended well.
func (r Result) ok() bool {
	for _, one := range r.Runs {
		if one.Exit != 0 {
			return false
		}
	}
	return true
}

// effect is the verdict when the effect is there, missing when it is not.
func (r Result) effect() Verdict {
	if r.ok() {
		return Verified
	}
	return Despite
}

func (r Result) missing() Verdict {
	if r.ok() {
		return NotDone
	}
	return Failed
}

// Detail is the result as the log keeps it: flat and small. Keys of the second
// script end in "_2".
func (r Result) Detail() map[string]string {
	d := map[string]string{"verdict": string(r.Verdict)}
	for i, one := range r.Runs {
		end := ""
		if i > 0 {
			end = "_" + strconv.Itoa(i+1)
		}
		d["script"+end] = strings.Join(append([]string{one.Program}, one.Args...), " ")
		d["exit"+end] = strconv.Itoa(one.Exit)
		d["took_ms"+end] = strconv.FormatInt(one.Took.Milliseconds(), 10)
		for name, text := range map[string]string{"stdout": one.Stdout, "stderr": one.Stderr, "error": one.Error} {
			if text != "" {
				d[name+end] = tail(text, 1<<10)
			}
		}
	}
	if r.Promoted.Timeline != 0 {
		d["lsn"], d["timeline"] = r.Promoted.LSN.String(), strconv.Itoa(int(r.Promoted.Timeline))
	}
	if len(r.Unseen) > 0 {
		d["unseen"] = strings.Join(r.Unseen, " ")
	}
	return d
}

// said tells how the scripts ended, for an error.
func (r Result) said() string {
	var parts []string
	for _, one := range r.Runs {
		s := fmt.Sprintf("%s ended with exit status %d after %s", one.Program, one.Exit, one.Took.Round(time.Millisecond))
		if one.Exit != 0 {
			s = fmt.Sprintf("%s after %s", one.Error, one.Took.Round(time.Millisecond))
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

// keep bounds what is recorded of each output, in bytes.
const keep = 4 << 10

// run runs one program and records how it ended; it has no error of its own,
// because what counts comes afterwards.
func run(ctx context.Context, place executors.Runner, c executors.Command) Run {
	c.Keep = keep
	began := time.Now()
	out, err := place.Run(ctx, c)
	r := Run{
		Program: c.Path, Args: c.Args, Exit: out.ExitCode, Took: out.Took,
		Stdout: tail(string(out.Stdout), keep), Stderr: tail(string(out.Stderr), keep),
	}
	if r.Took == 0 {
		r.Took = time.Since(began)
	}
	if err == nil {
		return r
	}
	r.Error = err.Error()
	if errors.As(err, new(*executors.ExitError)) {
		return r
	}
	r.Exit = -1
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		r.Error += ": " + cause.Error()
	}
	return r
}

// tail keeps the end of a text, as whole characters.
func tail(text string, most int) string {
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return strings.ToValidUTF8(text, "")
}

// stopwatch is how long a script and the look at its effect may take.
type stopwatch struct{ end time.Time }

// afterEnd is how long an effect is still waited for when the script has failed
// or has used up its time; lookEvery is how often it is looked for.
const (
	afterEnd  = 2 * time.Second
	lookEvery = 20 * time.Millisecond
)

// look bounds the wait for the effect of scripts that have ended.
func (w stopwatch) look(ctx context.Context, succeeded bool) (context.Context, context.CancelFunc) {
	end := time.Now().Add(afterEnd)
	if succeeded && w.end.After(end) {
		end = w.end
	}
	return context.WithDeadline(ctx, end)
}
