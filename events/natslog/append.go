package natslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
)

// The server's codes for a compare-and-swap that was lost: the first from a
// single log, the second also from a replicated one.
const (
	codeWrongLastSequence         = 10071
	codeWrongLastSequenceConstant = 10164
	codeWrongLastMsgID            = 10070
)

// Append stores an event and returns it exactly as Read will deliver it. Its
// deadline is ctx's, or 500 ms when ctx has none. Without a connection it
// returns events.ErrUnavailable at once. A key without the right to publish the
// event's class gets ErrDenied.
//
// Whatever went wrong on the way, the log is asked for the event's own ID
// before a failure is reported, as long as there is time left: within two
// minutes of the first attempt an event is stored at most once.
func (l *Log) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	msg, err := encode(l.opts.Cluster, d)
	if err != nil {
		return events.Event{}, err
	}
	what := "append " + d.Data.Kind()
	bounded, done := l.guarded(ctx, msg.Subject)
	defer done()
	s := l.now()
	if s == nil {
		return events.Event{}, l.unavailable(ctx, what, errors.New("not connected"))
	}
	ack, err := s.js.PublishMsg(bounded, msg, l.conditions(d.If)...)
	switch {
	case err == nil && !ack.Duplicate:
		return decode(l.prefix, msg.Subject, msg.Header, msg.Data, ack.Sequence), nil
	case err == nil:
		return l.fetch(bounded, s, what, ack.Sequence)
	case errors.Is(context.Cause(bounded), ErrDenied):
		return events.Event{}, context.Cause(bounded)
	case errors.Is(err, nats.ErrMaxPayload):
		return events.Event{}, fmt.Errorf("natslog: %s: a body of %d bytes is larger than the server takes: %w", what, len(msg.Data), err)
	}
	return l.settle(ctx, bounded, d, msg, err)
}

// conditions translates a Condition. The subject filter with a wildcard is
// evaluated by the server over all decisions, whoever made them.
func (l *Log) conditions(c events.Condition) []jetstream.PublishOpt {
	opts := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}
	if c.AtTail {
		opts = append(opts, jetstream.WithExpectLastSequence(c.Seq))
	}
	if c.AtDecision {
		opts = append(opts, jetstream.WithExpectLastSequenceForSubject(c.Seq, l.prefix+string(events.ClassDecision)+".*"))
	}
	return opts
}

// settle finds out what became of an append that was not acknowledged. A server
// compares before it de-duplicates, so a lost swap may well be the echo of an
// earlier attempt that landed.
func (l *Log) settle(ctx, bounded context.Context, d events.Draft, msg *nats.Msg, cause error) (events.Event, error) {
	what := "append " + d.Data.Kind()
	var refused *jetstream.APIError
	lost := errors.As(cause, &refused) &&
		(refused.ErrorCode == codeWrongLastSequence || refused.ErrorCode == codeWrongLastSequenceConstant)
	if refused != nil && !lost && refused.Code < 500 {
		return events.Event{}, fmt.Errorf("natslog: %s: the stream refused it: %w", what, refused)
	}
	s, err := l.wait(bounded)
	if err != nil {
		return events.Event{}, l.unavailable(ctx, what, cause)
	}
	seq, err := l.find(bounded, s, msg, d.If)
	switch {
	case err != nil:
		return events.Event{}, l.unavailable(ctx, what, errors.Join(cause, err))
	case seq > 0:
		return l.fetch(bounded, s, what, seq)
	case lost:
		return events.Event{}, fmt.Errorf("natslog: %s: %w: %s", what, events.ErrConflict, refused.Description)
	}
	return events.Event{}, l.unavailable(ctx, what, cause)
}

// find returns the sequence under which an event's ID is stored, 0 when it is
// not. It publishes the ID once more, empty and with a condition that can never
// hold: the server de-duplicates before it compares that one, so a known ID is
// answered with its sequence and an unknown one is refused.
func (l *Log) find(ctx context.Context, s *session, msg *nats.Msg, c events.Condition) (uint64, error) {
	probe := nats.NewMsg(msg.Subject)
	probe.Header[jetstream.MsgIDHeader] = msg.Header[jetstream.MsgIDHeader]
	ack, err := s.js.PublishMsg(ctx, probe, jetstream.WithExpectLastMsgID("interrex: never stored"), jetstream.WithRetryAttempts(0))
	if err == nil {
		return ack.Sequence, nil
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != codeWrongLastMsgID {
		return 0, err
	}
	if !c.AtTail {
		return 0, nil
	}
	// Older than the server's memory of IDs, a swap can only have landed in one place.
	stored, err := l.get(ctx, s, c.Seq+1)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil || stored.ID != header(msg.Header, headerID) {
		return 0, err
	}
	return stored.Seq, nil
}

// fetch returns a stored event that is known to be there.
func (l *Log) fetch(ctx context.Context, s *session, what string, seq uint64) (events.Event, error) {
	e, err := l.get(ctx, s, seq)
	if err != nil {
		return events.Event{}, l.unavailable(ctx, what, fmt.Errorf("it is stored as event %d, which could not be read back: %w", seq, err))
	}
	return e, nil
}

// get reads one event by its sequence.
func (l *Log) get(ctx context.Context, s *session, seq uint64) (events.Event, error) {
	request := nats.NewMsg("$JS.API.DIRECT.GET." + l.stream)
	request.Data = []byte(`{"seq":` + strconv.FormatUint(seq, 10) + `}`)
	m, err := s.nc.RequestMsgWithContext(ctx, request)
	if err != nil {
		return events.Event{}, err
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return decode(l.prefix, header(m.Header, "Nats-Subject"), m.Header, m.Data, seq), nil
	case "404":
		return events.Event{}, jetstream.ErrMsgNotFound
	default:
		return events.Event{}, fmt.Errorf("natslog: get event %d: status %s %s", seq, status, m.Header.Get("Description"))
	}
}
