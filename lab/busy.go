package lab

import (
	"context"
	"fmt"
	"time"
)

// Busy is one open session on one server that commits as fast as it can and
// never connects again: what a server that was frozen and thawed acknowledges
// in it, after another has taken over, is a write outside the history.
type Busy struct {
	*journal
	stop context.CancelFunc
	done chan struct{}
	err  error // why it ended; read after done
}

// StartBusy connects to one server (Layout.NodeDSN) whose table MakeTable has
// made, and begins to write. It returns at the first acknowledged write.
func StartBusy(ctx context.Context, dsn string) (*Busy, error) {
	s, err := open(ctx, dsn, WriteTimeout, "lab-busy")
	if err != nil {
		return nil, fmt.Errorf("lab: open a busy session: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	b := &Busy{journal: newJournal(ClientOptions{}.filled().Run + "-busy"), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		defer s.discard()
		for b.err == nil {
			b.err = insert(running, s, b.journal) // waits as long as the server stands still
		}
		b.failed(b.err)
	}()
	if err := b.await(ctx, func(acks []Ack) bool { return len(acks) > 0 }); err != nil {
		b.Stop()
		return nil, fmt.Errorf("lab: the busy session wrote nothing: %w; errors so far: %v", err, b.Errors())
	}
	return b, nil
}

// Stop ends the session and waits until it has.
func (b *Busy) Stop() {
	b.stop()
	<-b.done
}

// Ended is closed when the session is over, by Stop or because the server ended
// it.
func (b *Busy) Ended() <-chan struct{} { return b.done }

// Since returns the writes acknowledged after a moment, and how long after it
// the last one came.
func (b *Busy) Since(t time.Time) (acks []Ack, last time.Duration) {
	for _, a := range b.Acks() {
		if a.At.After(t) {
			acks = append(acks, a)
			last = a.At.Sub(t)
		}
	}
	return acks, last
}

// Verify reads the session's rows back over another connection string: those
// lost were acknowledged outside the history that survived.
func (b *Busy) Verify(ctx context.Context, dsn string) (Verification, error) {
	return b.verify(ctx, dsn)
}
