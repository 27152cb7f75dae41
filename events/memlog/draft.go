package memlog

import (
	"fmt"

	"github.com/interrex-ha/interrex/events"
)

// stage turns a draft into the event that will be stored, all but its sequence.
// The data is decoded from its own bytes, so that a reader here and a reader of
// the real log see the same.
func stage(d events.Draft) (events.Event, error) {
	if err := d.Check(); err != nil {
		return events.Event{}, fmt.Errorf("memlog: %w", err)
	}
	body, err := events.Encode(d.Data)
	if err != nil {
		return events.Event{}, err
	}
	kind, class, key := d.Data.Kind(), d.Data.Class(), d.Data.Key()
	version := events.VersionOf(kind)
	if u, ok := d.Data.(events.Unknown); ok {
		version = u.Version
	}
	data, err := events.Decode(kind, version, class, key, body)
	if err != nil {
		data = events.Unknown{KindName: kind, Version: version, ClassIn: class, KeyIn: key, Reason: err.Error()}
	}
	return events.Event{
		ID: d.ID, Time: d.Time.UTC().Round(0), Source: d.Source,
		Version: version, Cause: d.Cause, Data: data, Body: body,
	}, nil
}
