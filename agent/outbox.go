package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
)

// outbox appends what the agent has to say, in order, each event once. While
// the log is away it waits; of what is only of passing interest (heartbeats,
// progress, the newest sight of a node) it keeps the newest.
type outbox struct {
	log    events.Log
	source string
	logger *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	queue []letter
	busy  bool // the first letter is under way
}

type letter struct {
	key   string // letters of one key replace one another; "" never
	draft events.Draft
}

func newOutbox(log events.Log, source string, logger *slog.Logger) *outbox {
	return &outbox{log: log, source: source, logger: logger, wake: make(chan struct{}, 1)}
}

// keyOf says which waiting letter a newer one of the same sort replaces.
func keyOf(d events.Data) string {
	switch d := d.(type) {
	case events.Heartbeat, events.PostgresSeen, events.OrderProgress:
		return d.Kind()
	case events.PeerSeen:
		return d.Kind() + d.Node
	}
	return ""
}

func (o *outbox) put(d events.Data, cause uint64) {
	id, err := uuid.NewV7()
	if err != nil {
		o.logger.Error("no randomness for an event id", "error", err)
		return
	}
	l := letter{keyOf(d), events.Draft{ID: id.String(), Time: time.Now(), Source: o.source, Cause: cause, Data: d}}
	o.mu.Lock()
	defer o.mu.Unlock()
	first := 0
	if o.busy {
		first = 1
	}
	for i := first; l.key != "" && i < len(o.queue); i++ {
		if o.queue[i].key == l.key {
			o.queue = append(o.queue[:i], o.queue[i+1:]...)
			break
		}
	}
	o.queue = append(o.queue, l)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) == 0
}

func (o *outbox) next() (letter, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = len(o.queue) > 0
	if !o.busy {
		return letter{}, false
	}
	return o.queue[0], true
}

func (o *outbox) sent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue, o.busy = o.queue[1:], false
}

func (o *outbox) run(ctx context.Context) {
	for {
		l, ok := o.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-o.wake:
			}
			continue
		}
		if !o.send(ctx, l.draft) {
			return
		}
		o.sent()
	}
}

// send repeats one draft, with its one ID, until it is stored; false when ctx
// ended.
func (o *outbox) send(ctx context.Context, d events.Draft) bool {
	for warned := false; ; warned = true {
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		_, err := o.log.Append(try, d)
		cancel()
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case !retryable(err):
			o.logger.Error("the log refuses an event", "kind", d.Data.Kind(), "error", err)
			return true
		case !warned:
			o.logger.Warn("the log cannot be reached; what was seen is kept", "kind", d.Data.Kind(), "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}
