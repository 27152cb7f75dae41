package natslog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
)

// How a reader pulls. A heartbeat that fails twice means that the consumer is
// lost, though the connection is not.
const (
	pullMessages      = 5000
	pullExpiry        = 10 * time.Second
	pullHeartbeat     = 2 * time.Second
	inactiveThreshold = 30 * time.Second // the server drops a reader's consumer that is not pulled from
	readPause         = 20 * time.Millisecond
	placeTimeout      = 2 * time.Second
)

// errLost says that a consumer ended early; the reader goes on with a new one.
var errLost = errors.New("natslog: the consumer was lost")

// Read implements events.Log. It goes on after the last delivered event when
// the connection is lost, and checks then that the log still holds that very
// event: ErrRegressed, naming both sequences, when it does not, or when the log
// ends before q.After. After Close it returns ErrClosed.
func (l *Log) Read(ctx context.Context, q events.Query, fn func(events.Event) error) error {
	r := &reading{l: l, q: q, fn: fn, tail: math.MaxUint64}
	for {
		s, err := l.wait(ctx)
		if err != nil {
			return err
		}
		err = r.run(ctx, s)
		if err == nil || !errors.Is(err, errLost) {
			return err
		}
		if err := pause(ctx, readPause); err != nil {
			return err
		}
	}
}

// reading is one call of Read over all its connections.
type reading struct {
	l       *Log
	q       events.Query
	fn      func(events.Event) error
	begun   bool
	tail    uint64 // do not deliver beyond
	last    uint64 // delivered, 0 none
	lastID  string
	pending uint64 // still to come from this consumer before the tail
}

// run reads over one connection until the reading is done (nil), failed, or
// must go on with another (errLost).
func (r *reading) run(ctx context.Context, s *session) error {
	if err := r.place(ctx, s); err != nil {
		return err
	}
	if r.done() {
		return nil
	}
	cons, err := s.js.CreateConsumer(ctx, r.l.stream, r.config())
	if err != nil {
		return r.lost(ctx, err)
	}
	name := cons.CachedInfo().Name
	defer func() {
		go func() { // best effort: the server drops it by itself later
			bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = s.js.DeleteConsumer(bye, r.l.stream, name)
		}()
	}()
	r.pending = cons.CachedInfo().NumPending
	if !r.q.Follow && r.pending == 0 {
		return nil
	}
	in := newInbox(r.l.prefix)
	defer in.close()
	cc, err := cons.Consume(in.put,
		jetstream.PullMaxMessages(pullMessages), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { in.fail(err) }))
	if err != nil {
		return r.lost(ctx, err)
	}
	defer cc.Stop()
	for {
		batch, err := in.take(ctx, s.gone, r.l.life.Done())
		if err != nil {
			return r.lost(ctx, err)
		}
		if done, err := r.deliver(ctx, batch); done || err != nil {
			return err
		}
	}
}

// place asks where the log begins and ends, and whether it still is the log
// that was read from.
func (r *reading) place(ctx context.Context, s *session) error {
	bounded, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	state, err := r.l.info(bounded)
	if errors.Is(err, ErrDenied) {
		return err
	}
	if err != nil {
		return r.lost(ctx, err)
	}
	after := r.position()
	if state.LastSeq < after {
		return fmt.Errorf("natslog: %w: event %d was read from it, but it now ends at %d", ErrRegressed, after, state.LastSeq)
	}
	if !r.begun && !r.q.Follow {
		r.tail = state.LastSeq
	}
	r.begun = true
	if r.last == 0 || state.FirstSeq == r.last+1 {
		return nil // nothing to compare: nothing was read, or what was read is archived by now
	}
	if state.FirstSeq > r.last {
		return fmt.Errorf("natslog: %w: event %d was read last, but it now begins at %d", ErrTrimmed, r.last, state.FirstSeq)
	}
	same, err := r.l.get(bounded, s, r.last)
	if err != nil {
		return r.lost(ctx, err)
	}
	if same.ID != r.lastID {
		return fmt.Errorf("natslog: %w: event %d was %s when it was read, and is %s now", ErrRegressed, r.last, r.lastID, same.ID)
	}
	return nil
}

// position is the sequence after which to go on.
func (r *reading) position() uint64 { return max(r.q.After, r.last) }

func (r *reading) done() bool { return r.position() >= r.tail }

func (r *reading) config() jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.position() + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: inactiveThreshold,
		MemoryStorage:     true,
		Replicas:          1,
	}
	for _, class := range r.q.Classes {
		c.FilterSubjects = append(c.FilterSubjects, r.l.prefix+string(class)+".*")
	}
	if len(c.FilterSubjects) == 1 {
		c.FilterSubject, c.FilterSubjects = c.FilterSubjects[0], nil
	}
	return c
}

// deliver hands a batch to the caller. It returns true when the tail is reached.
func (r *reading) deliver(ctx context.Context, batch []events.Event) (bool, error) {
	for _, e := range batch {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if e.Seq > r.tail {
			return true, nil
		}
		if err := r.fn(e); err != nil {
			return false, err
		}
		r.last, r.lastID = e.Seq, e.ID
		r.pending--
		if !r.q.Follow && (r.pending == 0 || r.done()) {
			return true, nil
		}
	}
	return false, nil
}

// lost turns the end of a consumer into what Read does next.
func (r *reading) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if r.l.life.Err() != nil {
		return ErrClosed
	}
	return errors.Join(errLost, err)
}

// sequences is the place of a message in its stream and consumer, from its reply subject
// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>,
// or the longer form with domain and account hash before the stream.
func sequences(reply string) (stream, consumer uint64, ok bool) {
	skip := 5
	if strings.Count(reply, ".") > 8 {
		skip = 7
	}
	for range skip {
		_, rest, found := strings.Cut(reply, ".")
		if !found {
			return 0, 0, false
		}
		reply = rest
	}
	first, rest, _ := strings.Cut(reply, ".")
	second, _, _ := strings.Cut(rest, ".")
	stream, err1 := strconv.ParseUint(first, 10, 64)
	consumer, err2 := strconv.ParseUint(second, 10, 64)
	return stream, consumer, err1 == nil && err2 == nil
}
