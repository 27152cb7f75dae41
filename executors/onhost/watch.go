package onhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// watch follows one postmaster: a copy of this program stays there and tells
// what it sees, at once when the process ends.
type watch struct {
	mu       sync.Mutex
	seen     executors.Seen
	at       time.Time // when the last word came; zero: none has
	boot     string    // of the host, as of then
	looked   int64     // by its clock
	told     time.Time // when that came
	err      error     // why there is none
	watchers map[*executors.Watcher]func()
}

// watchOf begins to watch a data directory when nobody has yet.
func (h *Host) watchOf(dataDir string) *watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, ok := h.watches[dataDir]
	if !ok {
		w = &watch{watchers: map[*executors.Watcher]func(){}}
		h.watches[dataDir] = w
		go h.keepWatching(dataDir, w)
	}
	return w
}

// keepWatching goes on until the host is closed, however often the connection
// is lost.
func (h *Host) keepWatching(dataDir string, w *watch) {
	for h.quit.Err() == nil {
		err := h.watchOnce(dataDir, w)
		if h.quit.Err() != nil {
			return
		}
		w.lost(err)
		if c, ok := h.Runner.(container); ok {
			before := w.lastWord()
			if gone, err := c.Gone(h.quit); err == nil && gone {
				w.goneSince(before) // and so is whatever ran in it
			}
		}
		select {
		case <-h.quit.Done():
		case <-time.After(again):
		}
	}
}

// firstWord is how long a copy may take to begin.
const firstWord = 10 * time.Second

var errSilent = errors.New("the other host has fallen silent")

// watchOnce ends when the copy does, or is silent: what a cut connection looks
// like from here.
func (h *Host) watchOnce(dataDir string, w *watch) error {
	ctx, cancel := context.WithCancelCause(h.quit)
	defer cancel(nil)
	if _, err := h.prog.provide(ctx, h.Runner); err != nil { // before the silence is counted: it may have to be copied
		return err
	}
	silence := time.AfterFunc(firstWord, func() { cancel(errSilent) })
	defer silence.Stop()
	err := h.call(ctx, order{Watch: dataDir}, func(a answer) error {
		silence.Reset(notHeardAfter)
		if a.Seen != nil {
			w.heard(a)
		}
		return nil
	})
	if err == nil {
		err = errors.New("the watch there ended")
	}
	return err
}

// heard takes the other host's word. Watchers of a process that is not the one
// that runs there now are told of its end.
func (w *watch) heard(a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.Boot == w.boot && a.At < w.looked {
		return // overtaken by what another copy has seen since
	}
	s := *a.Seen
	w.seen, w.at, w.err, w.boot, w.looked = s, time.Now(), nil, a.Boot, a.At
	w.told = w.at
	for watcher, ended := range w.watchers {
		if !s.Running || s.Incarnation != watcher.Incarnation() {
			delete(w.watchers, watcher)
			ended()
		}
	}
}

// clock is what the other host's clock shows now, or a little before: what its
// word took to come here is not counted.
func (w *watch) clock() (instant, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.boot == "" || w.told.IsZero() || time.Since(w.told) > clockGoodFor {
		return instant{}, false
	}
	return instant{w.boot, w.looked + time.Since(w.told).Nanoseconds()}, true
}

// clockGoodFor bounds how far a clock that was heard is carried on here.
const clockGoodFor = time.Minute

// lastWord is when the other host itself was last heard.
func (w *watch) lastWord() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

// goneSince: whatever ran there has ended with its place, unless the place was
// started again meanwhile, and has spoken since.
func (w *watch) goneSince(word time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told.Equal(word) {
		w.nothingLeft()
	}
}

// gone: whatever ran there was ended from outside.
func (w *watch) gone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nothingLeft()
}

// nothingLeft is called with the lock held.
func (w *watch) nothingLeft() {
	w.seen, w.at = executors.Seen{}, time.Now()
	for watcher, ended := range w.watchers {
		delete(w.watchers, watcher)
		ended()
	}
}

func (w *watch) lost(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// Seen implements executors.Elsewhere. The first call begins the watch.
func (h *Host) Seen(p executors.Postgres) (executors.Seen, error) {
	w := h.watchOf(p.DataDir)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at.IsZero() || time.Since(w.at) > notHeardAfter {
		return executors.Seen{}, fmt.Errorf("%s: %w", h.o.Where, errors.Join(executors.ErrNotHeard, w.err))
	}
	return w.seen, nil
}

// Watch implements executors.Elsewhere.
func (h *Host) Watch(p executors.Postgres, inc executors.Incarnation) (*executors.Watcher, error) {
	if _, err := h.Seen(p); err != nil {
		return nil, err
	}
	w := h.watchOf(p.DataDir)
	w.mu.Lock()
	defer w.mu.Unlock()
	watcher, ended := executors.NewWatcher(inc)
	if !w.seen.Running || w.seen.Incarnation != inc {
		ended()
		return watcher, nil
	}
	w.watchers[watcher] = ended
	return watcher, nil
}
