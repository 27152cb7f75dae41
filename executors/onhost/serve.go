package onhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// Question is answered on its own host; what it returns travels as JSON.
type Question func(ctx context.Context, with json.RawMessage) (any, error)

// Serve is the copy's side: it reads one order from in, obeys it, and writes
// what there is to tell to out. It returns an error only when it could not write
// or the order could not be read; what went wrong with the order is written. A
// watch ends with ctx, or when nobody reads it any more.
func Serve(ctx context.Context, in io.Reader, out io.Writer, questions map[string]Question) error {
	var o order
	d := json.NewDecoder(in)
	d.DisallowUnknownFields() // an order of another version is not half understood
	if err := d.Decode(&o); err != nil {
		return fmt.Errorf("the order on standard input: %w", err)
	}
	s := &server{out: out}
	switch {
	case o.Act != nil:
		return s.act(ctx, o)
	case o.Watch != "":
		return s.watch(ctx, o.Watch)
	case o.Ask != "":
		return s.ask(ctx, o, questions)
	}
	return errors.New("the order on standard input holds nothing to do")
}

type server struct {
	mu  sync.Mutex
	out io.Writer
}

func (s *server) say(a answer) error {
	a.Interrex = protocol
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.out.Write(append(b, '\n'))
	return err
}

// pulse says that the copy lives until ctx ends. It is also how it notices that
// nobody reads: writing to a closed pipe ends the process.
func (s *server) pulse(ctx context.Context) {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = s.say(answer{Pulse: true})
		}
	}
}

func (s *server) act(ctx context.Context, o order) error {
	a := *o.Act
	a.Postgres.Runner = local.New()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lock, err := replace(ctx, a.Postgres.DataDir)
	if err != nil {
		return s.say(answer{Error: executors.NewActError(err)})
	}
	defer lock.Close()
	if err := inTurn(lock, o); err != nil {
		return s.say(answer{Error: executors.NewActError(err)})
	}
	if left, bounded := o.left(); bounded {
		a.Within = left // by this host's clock, whenever the order was sent
	}
	go s.pulse(ctx)
	done, err := executors.Perform(ctx, a, func(n executors.Note) error { return s.say(answer{Note: &n}) })
	end, lookErr := look(a.Postgres.DataDir)
	if lookErr != nil {
		end = answer{} // the action's outcome counts; the watch will tell
	}
	end.Done = &done
	if err != nil {
		end.Error = executors.NewActError(err)
	}
	return s.say(end)
}

func (s *server) ask(ctx context.Context, o order, questions map[string]Question) error {
	q, ok := questions[o.Ask]
	if !ok {
		return s.say(answer{Error: executors.NewActError(fmt.Errorf("the question %q is not known: use the same version of interrex on both hosts", o.Ask))})
	}
	reply, err := q(ctx, o.With)
	if err != nil {
		return s.say(answer{Error: executors.NewActError(err)})
	}
	b, err := json.Marshal(reply)
	if err != nil {
		return s.say(answer{Error: executors.NewActError(err)})
	}
	return s.say(answer{Reply: b})
}

// left is the time until an order's end, never less than a moment: a copy that
// was frozen since it looked at the clock has no time left, not endless time.
func (o order) left() (time.Duration, bool) {
	now, err := bootClock()
	if err != nil || !o.Until.known() {
		return 0, false
	}
	return max(time.Duration(o.Until.At-now.At), 1), true
}

// inTurn refuses an order that arrives too late: after its end, after a boot, or
// after a newer one was begun. The newest is kept in the lock's file.
func inTurn(lock *os.File, o order) error {
	now, err := bootClock()
	if err != nil {
		return err
	}
	if o.Until.known() && (o.Until.Boot != now.Boot || now.At >= o.Until.At) {
		return errors.New("the order arrived after its end, and was not begun")
	}
	var last instant
	b, err := io.ReadAll(io.NewSectionReader(lock, 0, 4096))
	if err != nil {
		return fmt.Errorf("read the newest order: %w", err)
	}
	_ = json.Unmarshal(b, &last) // a file that was just made holds none
	if last.Boot == o.Turn.Boot && o.Turn.At <= last.At {
		return errors.New("a newer order was begun before this one arrived: it was not begun")
	}
	b, err = json.Marshal(o.Turn)
	if err != nil {
		return err
	}
	if err := lock.Truncate(0); err != nil {
		return fmt.Errorf("keep the newest order: %w", err)
	}
	if _, err := lock.WriteAt(b, 0); err != nil {
		return fmt.Errorf("keep the newest order: %w", err)
	}
	return nil
}

// look says what there is to see, and when it was looked.
func look(dataDir string) (answer, error) {
	now, err := bootClock()
	if err != nil {
		return answer{}, err
	}
	seen, err := executors.Look(dataDir)
	return answer{Seen: &seen, Boot: now.Boot, At: now.At}, err
}

// lookEvery is how often a watch looks for a postmaster where none runs.
const lookEvery = 100 * time.Millisecond

// watch tells what runs in a data directory: at once when it changes, and every
// second that it is still so.
func (s *server) watch(ctx context.Context, dataDir string) error {
	for ctx.Err() == nil {
		a, err := look(dataDir)
		if err != nil {
			a = answer{Error: executors.NewActError(err)} // it cannot be told: the watch ends, and is begun anew
		}
		if err := s.say(a); err != nil || a.Error != nil {
			return err
		}
		waitForChange(ctx, dataDir, *a.Seen)
	}
	return nil
}

// waitForChange returns when something else is to be seen than before, or a
// pulse is due.
func waitForChange(ctx context.Context, dataDir string, before executors.Seen) {
	ctx, cancel := context.WithTimeout(ctx, pulseEvery)
	defer cancel()
	if before.Running {
		w, err := executors.Watch(before.Incarnation)
		if err != nil {
			return // it has just ended
		}
		defer w.Close()
		select {
		case <-w.Done():
		case <-ctx.Done():
		}
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now, err := executors.Look(dataDir); err != nil || now != before {
				return
			}
		}
	}
}

// replaceWithin bounds the wait for a copy that was killed to be gone.
const replaceWithin = 5 * time.Second

// replace makes this process the only one that acts on a data directory. One
// that is at work already is what a cut connection has left behind: its agent,
// which gives one order at a time, has gone on to this one. It is killed; every
// action may be killed at any moment.
func replace(ctx context.Context, dataDir string) (*os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	path := filepath.Join(filepath.Dir(self), "act-"+hex.EncodeToString(sum[:8])+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the lock of %s: %w", dataDir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, replaceWithin)
	defer cancel()
	for {
		// A record lock, because the kernel says who holds it.
		err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return f, nil
		}
		killHolder(f)
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another action on %s does not end, its process is %d: %w", dataDir, holder(f), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// holder is the process that holds the lock, 0 when none does.
func holder(f *os.File) int {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil || l.Type == unix.F_UNLCK {
		return 0
	}
	return int(l.Pid)
}
