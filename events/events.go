// Package events is the vocabulary of a cluster's log: every kind of fact,
// decision and result, the envelope they travel in, and the Log they are kept
// in. It knows no network, no disk and no clock; it depends on the standard
// library only, so that everything else may import it.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Class is the third token of a subject, interrex.<cluster>.<class>.<key>. A
// subscriber that wants only failovers listens to the class decision.
type Class string

// The classes of a stream. They are listed one by one in the stream's
// configuration, so that nothing else can be stored in it.
const (
	ClassHealth   Class = "health"
	ClassLease    Class = "lease"
	ClassOperator Class = "operator"
	ClassDecision Class = "decision"
	ClassDeclined Class = "declined"
	ClassDeadline Class = "deadline"
	ClassResult   Class = "result"
	ClassPolicy   Class = "policy"
)

// Classes lists every class, in the order of the story they tell.
var Classes = []Class{
	ClassPolicy, ClassHealth, ClassLease, ClassOperator, ClassDeadline,
	ClassDecision, ClassDeclined, ClassResult,
}

// Data is the body of an event: one Go type per kind.
type Data interface {
	// Kind is the frozen kebab-case name, for example "postgres-exited".
	Kind() string
	// Class says which subject carries the kind.
	Class() Class
	// Key is the subject's last token: the node that the fact is about, or
	// the actor where it is about none.
	Key() string
	// data seals the interface: kinds are declared in this package only.
	data()
}

// Event is one entry of the log. Seq is given by the log and is the only order.
type Event struct {
	Seq     uint64
	ID      string    // UUIDv7, chosen by the writer; also the log's de-duplication key
	Time    time.Time // writer's wall clock, UTC: shown to people, never decided on across nodes
	Source  string    // "agent/db1", "controller/<id>", "operator/<who>"
	Version int       // version of the kind's schema
	Cause   uint64    // sequence of the event that provoked this one, 0 when none
	Data    Data
	// Body is the JSON of Data exactly as stored: the digest covers these
	// bytes, whatever this program understands of them.
	Body []byte
}

// Kind returns the kind's name; for an unknown kind, the name that was stored.
func (e Event) Kind() string {
	if e.Data == nil {
		return ""
	}
	return e.Data.Kind()
}

// Condition makes an append a compare-and-swap.
type Condition struct {
	// AtTail demands that the log's last sequence is Seq: nothing at all has
	// been appended since. Decisions and deadlines use it.
	AtTail bool
	// AtDecision demands that the last event of class decision has sequence
	// Seq. Lease events use it: a new decision refuses them, whatever any
	// clock says; a heartbeat of another node does not.
	AtDecision bool
	Seq        uint64
}

// ErrConflict says that the log has grown past the condition of an append. It
// is news, not a failure: fold what is new and think again.
var ErrConflict = errors.New("the log has grown meanwhile")

// ErrUnavailable says that the log could not be reached, or did not answer in
// time, and that it is not known whether the event was stored.
var ErrUnavailable = errors.New("the log cannot be reached")

// Query selects what Read delivers.
type Query struct {
	After   uint64  // deliver events with a greater sequence
	Classes []Class // only these; all when empty
	Follow  bool    // go on waiting for news at the tail; else stop at the tail as of the call
}

// Log is a cluster's history: totally ordered, append-only, durable before
// Append returns.
//
// Append returns the stored event. ErrConflict: the condition did not hold and
// nothing was stored. ErrUnavailable: unknown; the caller must not assume
// either. An append that is repeated with the same ID is stored once.
//
// Read calls fn in sequence order from one goroutine, until ctx ends (returns
// ctx.Err()), fn fails (returns that error), or, without Follow, the tail is
// reached (returns nil). A lost connection is waited out, not reported.
//
// Last returns the sequence of the newest event, 0 for an empty log.
type Log interface {
	Append(ctx context.Context, d Draft) (Event, error)
	Read(ctx context.Context, q Query, fn func(Event) error) error
	Last(ctx context.Context) (uint64, error)
}

// Stored is the form in which an event is exported: one JSON object a line,
// with its original sequence and bytes.
type Stored struct {
	Seq     uint64          `json:"seq"`
	ID      string          `json:"id"`
	Time    time.Time       `json:"time"`
	Source  string          `json:"source"`
	Kind    string          `json:"kind"`
	Version int             `json:"version"`
	Cause   uint64          `json:"cause,omitempty"`
	Class   Class           `json:"class"`
	Key     string          `json:"key"`
	Data    json.RawMessage `json:"data"`
}

// Export turns an event into its exported form.
func Export(e Event) Stored {
	return Stored{
		Seq: e.Seq, ID: e.ID, Time: e.Time, Source: e.Source, Kind: e.Kind(), Version: e.Version,
		Cause: e.Cause, Class: e.Data.Class(), Key: e.Data.Key(), Data: e.Body,
	}
}

// Import turns an exported event back into the event it was.
func (s Stored) Import() (Event, error) {
	data, err := Decode(s.Kind, s.Version, s.Class, s.Key, s.Data)
	if err != nil {
		return Event{}, err
	}
	return Event{
		Seq: s.Seq, ID: s.ID, Time: s.Time, Source: s.Source, Version: s.Version,
		Cause: s.Cause, Data: data, Body: s.Data,
	}, nil
}
