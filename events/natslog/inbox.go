package natslog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
)

// inboxLimit is how many decoded events may wait for the caller before the
// consumer is held back.
const inboxLimit = 8192

// inbox takes a consumer's messages on NATS's goroutine, decodes them there,
// and hands them over in batches: one at a time while following, thousands
// while replaying.
type inbox struct {
	prefix string
	next   uint64 // consumer sequence expected

	mu    sync.Mutex
	room  sync.Cond
	items []events.Event
	spare []events.Event // the batch before, used again
	err   error
	ended bool
	wake  chan struct{} // one token: something is in items or err
}

func newInbox(prefix string) *inbox {
	in := &inbox{prefix: prefix, next: 1, wake: make(chan struct{}, 1)}
	in.room.L = &in.mu
	return in
}

// put is the consumer's handler. A message out of order ends the inbox: one
// before it was dropped.
func (in *inbox) put(m jetstream.Msg) {
	seq, cseq, ok := sequences(m.Reply())
	if !ok || cseq != in.next {
		in.fail(fmt.Errorf("natslog: expected message %d of the consumer, got %q", in.next, m.Reply()))
		return
	}
	in.next++
	e := decode(in.prefix, m.Subject(), m.Headers(), m.Data(), seq)
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.items) >= inboxLimit && !in.ended {
		in.room.Wait()
	}
	if in.ended || in.err != nil {
		return
	}
	in.items = append(in.items, e)
	if len(m.Data()) == 0 && len(m.Headers()) == 0 && in.err == nil {
		// Between accounts the server takes an empty message for the end of an
		// answer. No Append stores one, but a foreign client may.
		in.err = errors.New("natslog: an empty message ended the consumer")
	}
	in.signal()
}

// fail ends the inbox after what it holds.
func (in *inbox) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.err = err
	}
	in.signal()
}

// close lets a held-back consumer go.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.room.Broadcast()
}

func (in *inbox) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// take waits for events. The batch is valid until the next call.
func (in *inbox) take(ctx context.Context, gone, closed <-chan struct{}) ([]events.Event, error) {
	for {
		if batch, err := in.grab(); batch != nil || err != nil {
			return batch, err
		}
		select {
		case <-in.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-gone:
			return nil, errors.New("natslog: the connection was lost")
		case <-closed:
			return nil, ErrClosed
		}
	}
}

func (in *inbox) grab() ([]events.Event, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.items) == 0 {
		return nil, in.err
	}
	batch := in.items
	clear(in.spare)
	in.items, in.spare = in.spare[:0], batch
	in.room.Broadcast()
	return batch, nil
}
