package executors

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Some of what an executor does can be done on PostgreSQL's own host only: a
// proof of death looks at processes and shared memory, a recovery reads WAL and
// moves directories. Where that host is another one, the action travels there as
// an Act, and a copy of this program performs it with the very code that would
// have run here (package executors/onhost). Callers do not know which.

// Elsewhere is a Runner of another host, or of a container, that has whole
// actions performed there.
type Elsewhere interface {
	Runner
	// Act performs an action there and returns when it has ended. Notes arrive
	// one at a time while it runs; an error from note ends the action as the end
	// of ctx does. Where the connection is lost the error says so, and what has
	// become of the action is not known: every action may be asked for again, and
	// the next one ends the one before.
	Act(ctx context.Context, a Act, note func(Note) error) (Done, error)
	// Seen returns what is known of the node's postmaster by now, without
	// waiting; an error when the other host has not been heard of for some
	// seconds. Nothing may be concluded from that.
	Seen(p Postgres) (Seen, error)
	// Watch is executors.Watch there. Done is closed when the other host has said
	// that the process ended; silence says nothing.
	Watch(p Postgres, inc Incarnation) (*Watcher, error)
}

// Endable is an Elsewhere that can be ended from outside as a whole: a
// container.
type Endable interface {
	Elsewhere
	// End ends it, whatever goes on in it, makes sure that no process of it is
	// left, and puts standby.signal into p's data directory. What it was is for
	// the log: "container pg-a". An error means that there is no proof.
	End(ctx context.Context, p Postgres) (what string, err error)
	// CanEnd reports whether it is such a place at all.
	CanEnd() bool
}

// lookWithin is how long a place that can be ended as a whole may take to look at
// its PostgreSQL first.
const lookWithin = 8 * time.Second

// proveDeadElsewhere is ProveDead on another host. Ending the whole place is the
// last resort: it tells less.
func proveDeadElsewhere(ctx context.Context, e Elsewhere, p Postgres, from events.LSN) (Dead, error) {
	began := time.Now()
	place, ok := e.(Endable)
	endable := ok && place.CanEnd()
	first := ctx
	if endable {
		var cancel context.CancelFunc
		first, cancel = context.WithTimeout(ctx, lookWithin)
		defer cancel()
	}
	done, err := act(first, e, Act{Do: "prove-dead", Postgres: p, From: from})
	if err == nil && !done.Dead.StandbySignal {
		err = fmt.Errorf("node %s: no proof of death: the answer does not say that a later start is read-only", p.Node)
	}
	var answered *ActError
	if err == nil || !endable || errors.As(err, &answered) {
		return done.Dead, err // what was looked at, and gives no proof, is not ended for it
	}
	what, endErr := place.End(ctx, p)
	if endErr != nil {
		return Dead{}, errors.Join(err, endErr)
	}
	return Dead{Outside: what, StandbySignal: true, Took: time.Since(began)}, nil
}

// ErrNotHeard says that another host has not told of its PostgreSQL for some
// seconds: what has become of it is not known.
var ErrNotHeard = errors.New("PostgreSQL's host is not heard of")

// Seen is what a host knows of one postmaster.
type Seen struct {
	Running     bool        `json:"running"`
	Incarnation Incarnation `json:"incarnation,omitzero"`
	Clean       bool        `json:"clean,omitempty"` // when it does not run: pg_control says that it was shut down in order
}

// Act is one action on a PostgreSQL as it travels to its host; which fields
// count depends on Do. It may hold passwords, and never stands on a command line.
type Act struct {
	Do       string        `json:"do"`
	Postgres Postgres      `json:"postgres"`
	Within   time.Duration `json:"within,omitempty"` // the caller's patience; 0: endless
	From     events.LSN    `json:"from,omitzero"`
	Mode     string        `json:"mode,omitempty"`
	Start    StartOptions  `json:"start,omitzero"`
	Upstream Upstream      `json:"upstream,omitzero"`
	Recover  RecoverHow    `json:"recover,omitzero"`
}

// RecoverHow is the part of RecoverOptions that can travel.
type RecoverHow struct {
	How          string        `json:"how,omitempty"`
	Decision     uint64        `json:"decision,omitempty"`
	AcceptWithin time.Duration `json:"accept_within,omitempty"`
	StreamWithin time.Duration `json:"stream_within,omitempty"`
}

// Done is what an Act ended in; which fields count depends on it.
type Done struct {
	Dead      Dead      `json:"dead,omitzero"`
	Started   Started   `json:"started,omitzero"`
	Recovered Recovered `json:"recovered,omitzero"`
	Removed   []string  `json:"removed,omitempty"`
	Bytes     uint64    `json:"bytes,omitempty"`
	Killed    int       `json:"killed,omitempty"`
}

// Note is news of an action under way.
type Note struct {
	Step    string `json:"step"`
	Journal bool   `json:"journal,omitempty"` // the step begins now, and changes something
	Done    uint64 `json:"done,omitempty"`
	Total   uint64 `json:"total,omitempty"`
}

// performers is what each action does where PostgreSQL runs.
var performers = map[string]func(ctx context.Context, a Act, note func(Note) error) (Done, error){
	"prove-dead": func(ctx context.Context, a Act, _ func(Note) error) (d Done, err error) {
		d.Dead, err = ProveDead(ctx, a.Postgres, a.From)
		return d, err
	},
	"kill": func(ctx context.Context, a Act, _ func(Note) error) (d Done, err error) {
		d.Killed, err = KillAll(ctx, a.Postgres.DataDir)
		return d, err
	},
	"stop": func(ctx context.Context, a Act, _ func(Note) error) (Done, error) {
		return Done{}, Stop(ctx, a.Postgres, a.Mode)
	},
	"demote": func(ctx context.Context, a Act, _ func(Note) error) (d Done, err error) {
		d.Dead, err = Demote(ctx, nil, a.Postgres)
		return d, err
	},
	"start": func(ctx context.Context, a Act, _ func(Note) error) (d Done, err error) {
		d.Started, err = Start(ctx, a.Postgres, a.Start)
		return d, err
	},
	"wait-accepting": func(ctx context.Context, a Act, _ func(Note) error) (Done, error) {
		return Done{}, WaitAccepting(ctx, a.Postgres)
	},
	"follow": func(ctx context.Context, a Act, _ func(Note) error) (Done, error) {
		return Done{}, Follow(ctx, nil, a.Postgres, a.Upstream)
	},
	"wait-streaming": func(ctx context.Context, a Act, _ func(Note) error) (Done, error) {
		return Done{}, WaitStreaming(ctx, nil, a.Postgres, a.Upstream)
	},
	"recover": performRecover,
	ForgetLock: func(ctx context.Context, a Act, _ func(Note) error) (Done, error) {
		return Done{}, forgetLock(ctx, a.Postgres)
	},
	"clean": func(ctx context.Context, a Act, _ func(Note) error) (d Done, err error) {
		d.Removed, d.Bytes, err = Clean(ctx, a.Postgres)
		return d, err
	},
}

// ForgetLock is the Act that removes the lock files of a PostgreSQL that ended
// together with everything that ran in its container, when that was seen from
// outside. Inside nobody can tell: numbers of processes begin anew.
const ForgetLock = "forget-lock"

func forgetLock(ctx context.Context, p Postgres) error {
	lock, locked, err := readLockFile(p.DataDir)
	if err != nil || !locked {
		return err
	}
	if inc, running, err := FindPostmaster(p.DataDir); err != nil || running {
		return errors.Join(err, fmt.Errorf("node %s: %w as process %d, although its container was started just now", p.Node, ErrRunning, inc.PID))
	}
	if begun, err := firstProcessBegan(); err != nil || lock.started == 0 || lock.started >= begun {
		return errors.Join(err, fmt.Errorf("node %s: postmaster.pid in %s is not older than the container's first process: something there starts PostgreSQL by itself", p.Node, p.DataDir))
	}
	if err := clearSocketLock(ctx, p, lock); err != nil {
		return err
	}
	return p.Runner.Remove(ctx, filepath.Join(p.DataDir, "postmaster.pid"))
}

func performRecover(ctx context.Context, a Act, note func(Note) error) (d Done, err error) {
	d.Recovered, err = Recover(ctx, a.Postgres, a.Upstream, RecoverOptions{
		How: a.Recover.How, Decision: a.Recover.Decision, AcceptWithin: a.Recover.AcceptWithin, StreamWithin: a.Recover.StreamWithin,
		Progress: func(step string, done, total uint64) { _ = note(Note{Step: step, Done: done, Total: total}) }, // a journal's error ends it
		Journal:  func(step string) error { return note(Note{Step: step, Journal: true}) },
	})
	return d, err
}

// Perform performs an action on this host. Postgres.Runner must be one of this
// host, and an error of note ends the action where it can be ended.
func Perform(ctx context.Context, a Act, note func(Note) error) (Done, error) {
	do, ok := performers[a.Do]
	if !ok {
		return Done{}, fmt.Errorf("this version cannot %q on behalf of another host: use the same version of interrex on both", a.Do)
	}
	if a.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.Within)
		defer cancel()
	}
	return do(ctx, a, note)
}

// elsewhere says whether PostgreSQL runs on another host.
func elsewhere(p Postgres) (Elsewhere, bool) {
	e, ok := p.Runner.(Elsewhere)
	return e, ok
}

// act has a performed elsewhere that has nothing to tell while it runs.
func act(ctx context.Context, e Elsewhere, a Act) (Done, error) {
	return e.Act(ctx, a, func(Note) error { return nil })
}

// recoverElsewhere is Recover on another host. What the upstream's connection is
// opened with is the other host's affair.
func recoverElsewhere(ctx context.Context, e Elsewhere, p Postgres, up Upstream, o RecoverOptions) (Recovered, error) {
	done, err := e.Act(ctx, Act{
		Do: "recover", Postgres: p, Upstream: up,
		Recover: RecoverHow{How: o.How, Decision: o.Decision, AcceptWithin: o.AcceptWithin, StreamWithin: o.StreamWithin},
	}, func(n Note) error {
		switch {
		case n.Journal && o.Journal != nil:
			return o.Journal(n.Step)
		case !n.Journal && o.Progress != nil:
			o.Progress(n.Step, n.Done, n.Total)
		}
		return nil
	})
	return done.Recovered, err
}

// Postmaster is FindPostmaster wherever PostgreSQL runs. It never waits for
// another host: there it is what was heard last, and an error when that is old.
func Postmaster(p Postgres) (Incarnation, bool, error) {
	if e, ok := elsewhere(p); ok {
		seen, err := e.Seen(p)
		return seen.Incarnation, seen.Running, err
	}
	return FindPostmaster(p.DataDir)
}

// WatchPostmaster is Watch wherever PostgreSQL runs.
func WatchPostmaster(p Postgres, inc Incarnation) (*Watcher, error) {
	if e, ok := elsewhere(p); ok {
		return e.Watch(p, inc)
	}
	return Watch(inc)
}

// KillPostgres is KillAll wherever PostgreSQL runs.
func KillPostgres(ctx context.Context, p Postgres) (killed int, err error) {
	if e, ok := elsewhere(p); ok {
		done, err := act(ctx, e, Act{Do: "kill", Postgres: p})
		return done.Killed, err
	}
	return KillAll(ctx, p.DataDir)
}

// StoppedCleanly says whether pg_control tells of an orderly shutdown; what
// cannot be read, or is not known of another host, is not clean.
func StoppedCleanly(p Postgres) bool {
	if e, ok := elsewhere(p); ok {
		seen, err := e.Seen(p)
		return err == nil && !seen.Running && seen.Clean
	}
	return stoppedCleanly(p.DataDir)
}

// stoppedCleanly reads the state out of pg_control: system identifier (8),
// version (4), catalog version (4), then DBState, where 1 is "shut down" and 2
// "shut down in recovery" (PostgreSQL: src/include/catalog/pg_control.h, the
// same in 13 to 18).
func stoppedCleanly(dataDir string) bool {
	f, err := os.Open(filepath.Join(dataDir, "global", "pg_control"))
	if err != nil {
		return false
	}
	defer f.Close()
	var b [20]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return false
	}
	state := binary.NativeEndian.Uint32(b[16:])
	return state == 1 || state == 2
}

// Look is what this host knows of a data directory's postmaster.
func Look(dataDir string) (Seen, error) {
	inc, running, err := FindPostmaster(dataDir)
	if err != nil {
		return Seen{}, err
	}
	return Seen{Running: running, Incarnation: inc, Clean: !running && stoppedCleanly(dataDir)}, nil
}

// kinds are the errors that callers tell apart, by the name that travels.
var kinds = map[string]error{
	"running": ErrRunning, "other-cluster": ErrOtherCluster, "is-primary": ErrIsPrimary, "diverged": ErrDiverged,
	"wal-gone": ErrWALGone, "hole": ErrHole, "late": context.DeadlineExceeded, "cancelled": context.Canceled,
}

// ActError is an error that came from another host: its words, and which of the
// errors that callers tell apart it is.
type ActError struct {
	Text  string   `json:"text"`
	Kinds []string `json:"kinds,omitempty"`
}

// NewActError makes err fit for travelling.
func NewActError(err error) *ActError {
	e := &ActError{Text: err.Error()}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			e.Kinds = append(e.Kinds, name)
		}
	}
	return e
}

// Error is the other host's text.
func (e *ActError) Error() string { return e.Text }

// Is finds the errors that callers tell apart.
func (e *ActError) Is(target error) bool {
	for _, name := range e.Kinds {
		if kinds[name] == target {
			return true
		}
	}
	return false
}
