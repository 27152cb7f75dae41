// Package onhost has actions on a PostgreSQL of another host, or of a container,
// performed there by a copy of this very program: the code that judges, proves
// and moves directories is the same on every host, and a Runner only has to
// bring it there. Orders travel on standard input, never on a command line;
// notes and the result come back as lines of JSON on standard output.
//
// The other host needs Linux of the same processor, a POSIX shell, sha256sum,
// and a home directory of the login that programs may be run from.
package onhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// Verb is the hidden command by which the copy is called.
const Verb = "on-host"

const (
	// pulseEvery is how often the copy says that it is there; notHeardAfter how
	// old its last word may be. A host that is cut off is silent from then on.
	pulseEvery    = time.Second
	notHeardAfter = 3 * time.Second
	// again is the pause before a lost watch is begun anew.
	again = 500 * time.Millisecond
)

// order is what a copy reads on its standard input.
type order struct {
	Act   *executors.Act  `json:"act,omitempty"`
	Watch string          `json:"watch,omitempty"` // a data directory
	Ask   string          `json:"ask,omitempty"`   // one of the questions that Serve was given
	With  json.RawMessage `json:"with,omitempty"`
	Turn  instant         `json:"turn,omitzero"`  // of an act: the caller's clock; an older one is not performed after a newer
	Until instant         `json:"until,omitzero"` // of an act: the performing host's clock; not begun after it
}

// instant is a moment of one host: nanoseconds since a boot, suspended time
// included.
type instant struct {
	Boot string `json:"boot"`
	At   int64  `json:"at"`
}

func (i instant) known() bool { return i.Boot != "" }

// answer is one line of a copy's standard output. Each begins with the same
// words, so that nothing else that is printed there is taken for one.
type answer struct {
	Interrex int                 `json:"interrex"` // protocol
	Pulse    bool                `json:"pulse,omitempty"`
	Note     *executors.Note     `json:"note,omitempty"`
	Seen     *executors.Seen     `json:"seen,omitempty"`
	Boot     string              `json:"boot,omitempty"` // of the host, with Seen
	At       int64               `json:"at,omitempty"`   // and its clock, when looking began: what two copies tell is put in order by it
	Done     *executors.Done     `json:"done,omitempty"`
	Reply    json.RawMessage     `json:"reply,omitempty"`
	Error    *executors.ActError `json:"error,omitempty"`
}

const protocol = 1

// parse returns false for a line that is none of a copy's.
func parse(line string) (answer, bool) {
	var a answer
	err := json.Unmarshal([]byte(line), &a)
	return a, err == nil && a.Interrex == protocol
}

// Options say what a Host is made of.
type Options struct {
	Program string       // this program's file, which is copied
	Where   string       // the other host, for messages: "ssh postgres@pg-a"
	Logger  *slog.Logger // nil: slog.Default()
}

// Host is another host. It is an executors.Elsewhere: files and commands go
// through its Runner, actions to the copy. It may be used by any number of
// goroutines; nothing is connected before the first use.
type Host struct {
	executors.Runner
	o    Options
	prog *program

	mu       sync.Mutex
	watches  map[string]*watch // by data directory
	lastTurn int64
	quit     context.Context //nolint:containedctx // ends the watches
	cancel   context.CancelFunc
}

var _ executors.Elsewhere = (*Host)(nil)

// New makes a host that is reached through r.
func New(r executors.Runner, o Options) *Host {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	quit, cancel := context.WithCancel(context.Background())
	return &Host{Runner: r, o: o, prog: newProgram(o.Program), watches: map[string]*watch{}, quit: quit, cancel: cancel}
}

// Close ends the watches. The Runner is the caller's.
func (h *Host) Close() { h.cancel() }

// Act implements executors.Elsewhere. The copy is told how long the caller will
// wait, and ends by itself then: a connection that is cut leaves nothing behind
// for ever.
func (h *Host) Act(ctx context.Context, a executors.Act, note func(executors.Note) error) (executors.Done, error) {
	if end, ok := ctx.Deadline(); ok {
		a.Within = max(time.Until(end), time.Millisecond)
	}
	var done executors.Done
	told := false
	if err := h.open(ctx, a); err != nil {
		return done, fmt.Errorf("%s: %w", h.o.Where, err)
	}
	o := order{Act: &a}
	if err := h.order(ctx, &o); err != nil {
		return done, fmt.Errorf("%s: %w", h.o.Where, err)
	}
	err := h.call(ctx, o, func(ans answer) error {
		if ans.Done != nil {
			done, told = *ans.Done, true
		}
		if ans.Seen != nil {
			h.watchOf(a.Postgres.DataDir).heard(ans)
		}
		if ans.Note == nil {
			return nil
		}
		return note(*ans.Note)
	})
	if err == nil && !told {
		err = errors.New("it ended without saying what came of it: what has become of the action is not known")
	}
	if err != nil {
		return done, fmt.Errorf("%s: %w", h.o.Where, err)
	}
	return done, nil
}

// order puts an act in its place: behind every earlier one, and before the
// caller's patience is over, by the other host's own clock. Bytes that a cut
// network delivers later begin nothing: not a server that was to take writes, and
// not before another act, or a proof of death, which has come since.
func (h *Host) order(ctx context.Context, o *order) error {
	now, err := bootClock()
	if err != nil {
		return err
	}
	h.mu.Lock()
	now.At = max(now.At, h.lastTurn+1)
	h.lastTurn = now.At
	h.mu.Unlock()
	o.Turn = now
	end, bounded := ctx.Deadline()
	theirs, heard := h.watchOf(o.Act.Postgres.DataDir).clock()
	switch {
	case heard && bounded:
		o.Until = instant{theirs.Boot, theirs.At + max(time.Until(end), 0).Nanoseconds()}
	case o.Act.Do == "start" && !o.Act.Start.Standby:
		return fmt.Errorf("a server is started read-write only on a host whose clock was heard, and within a time: %w", executors.ErrNotHeard)
	}
	return nil
}

// container is what a Runner is beside when its place can be started and ended
// from outside.
type container interface {
	Start(ctx context.Context) error
	Kill(ctx context.Context) error
	Gone(ctx context.Context) (bool, error)
	PutIntoStopped(ctx context.Context, file, beside string, data []byte) error
	SharedWith(ctx context.Context, file string) ([]string, error)
}

var _ executors.Endable = (*Host)(nil)

// open starts a container that has ended, for an action that brings its
// PostgreSQL back. Whatever ran in it had ended with it: the lock file that its
// PostgreSQL has left is no sign of life.
func (h *Host) open(ctx context.Context, a executors.Act) error {
	c, ok := h.Runner.(container)
	if !ok || a.Do != "start" && a.Do != "recover" {
		return nil
	}
	gone, err := c.Gone(ctx)
	if err != nil || !gone {
		return err
	}
	if err := h.alone(ctx, c, a.Postgres.DataDir); err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	a.Do = executors.ForgetLock
	o := order{Act: &a}
	if err := h.order(ctx, &o); err != nil {
		return err
	}
	return h.call(ctx, o, func(answer) error { return nil })
}

// alone makes sure that no other container has the data directory: the end of
// this one says nothing of what runs there.
func (h *Host) alone(ctx context.Context, c container, dataDir string) error {
	others, err := c.SharedWith(ctx, dataDir)
	if err == nil && len(others) > 0 {
		err = fmt.Errorf("the storage of %s belongs to other running containers as well (%s): that it is dead cannot be told from this one; give each node storage of its own", dataDir, strings.Join(others, ", "))
	}
	return err
}

// CanEnd implements executors.Endable: containers can.
func (h *Host) CanEnd() bool {
	_, ok := h.Runner.(container)
	return ok
}

// End implements executors.Endable.
func (h *Host) End(ctx context.Context, p executors.Postgres) (string, error) {
	c, ok := h.Runner.(container)
	if !ok {
		return "", fmt.Errorf("%s is no container that could be killed", h.o.Where)
	}
	if err := h.alone(ctx, c, p.DataDir); err != nil {
		return "", err
	}
	if err := c.Kill(ctx); err != nil {
		return "", err
	}
	if err := h.alone(ctx, c, p.DataDir); err != nil {
		return "", err
	}
	if err := c.PutIntoStopped(ctx, path.Join(p.DataDir, "standby.signal"), "PG_VERSION", nil); err != nil {
		return "", fmt.Errorf("%s was killed, but whoever starts it may get a second primary: %w", h.o.Where, err)
	}
	h.watchOf(p.DataDir).gone()
	return h.o.Where, nil
}

// Ask has the copy answer one of the questions that Serve was given there; reply
// is what its JSON is put into.
func (h *Host) Ask(ctx context.Context, what string, with, reply any) error {
	b, err := json.Marshal(with)
	if err != nil {
		return fmt.Errorf("%s: ask %s: %w", h.o.Where, what, err)
	}
	var got json.RawMessage
	err = h.call(ctx, order{Ask: what, With: b}, func(ans answer) error {
		if ans.Reply != nil {
			got = ans.Reply
		}
		return nil
	})
	if err == nil {
		err = json.Unmarshal(got, reply)
	}
	if err != nil {
		return fmt.Errorf("%s: ask %s: %w", h.o.Where, what, err)
	}
	return nil
}

// call runs the copy once. Take is called for each line of it; its error ends
// the copy. The copy's own error comes back as an *executors.ActError.
func (h *Host) call(ctx context.Context, o order, take func(answer) error) error {
	path, err := h.prog.provide(ctx, h.Runner)
	if err != nil {
		return err
	}
	stdin, err := json.Marshal(o)
	if err != nil {
		return err
	}
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // Line may still be at work when Run returns
	var said error
	spoke, ended := false, false
	_, err = h.Runner.Run(run, executors.Command{
		Path: path, Args: []string{Verb}, Stdin: append(stdin, '\n'),
		Line: func(line string) {
			ans, ok := parse(line)
			mu.Lock()
			defer mu.Unlock()
			if !ok || ended {
				return
			}
			spoke = true
			if ans.Error != nil {
				said = ans.Error
			}
			if err := take(ans); err != nil {
				cancel(err)
			}
		},
	})
	mu.Lock()
	defer mu.Unlock()
	ended = true
	if !spoke {
		h.prog.forget() // somebody may have removed it
	}
	switch {
	case said != nil:
		return said
	case err != nil:
		return err
	case !spoke:
		return fmt.Errorf("%s said nothing; is its home on a file system from which programs may be run?", path)
	}
	return nil
}
