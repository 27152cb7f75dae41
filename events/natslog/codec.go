package natslog

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
)

// CloudEvents' attribute names in binary mode, as headers of a message.
const (
	headerID          = "ce-id"
	headerSource      = "ce-source"
	headerType        = "ce-type"
	headerTime        = "ce-time"
	headerSpecVersion = "ce-specversion"
	headerSchema      = "ce-dataschema" // <kind>/v<N>
	headerCause       = "ce-cause"      // extension: a sequence of this log
	headerSentence    = "ce-sentence"   // extension: a decision told in one line, for clients without our code
)

// encode turns a draft into the message that is published.
func encode(cluster string, d events.Draft) (*nats.Msg, error) {
	if err := d.Check(); err != nil {
		return nil, fmt.Errorf("natslog: %w", err)
	}
	body, err := events.Encode(d.Data)
	if err != nil {
		return nil, err
	}
	kind := d.Data.Kind()
	version := events.VersionOf(kind)
	if u, ok := d.Data.(events.Unknown); ok {
		version = u.Version
	}
	msg := nats.NewMsg(subjectPrefix(cluster) + string(d.Data.Class()) + "." + d.Data.Key())
	msg.Data = body
	msg.Header = nats.Header{
		headerID:              {d.ID},
		headerSource:          {d.Source},
		headerType:            {kind},
		headerTime:            {d.Time.UTC().Round(0).Format(time.RFC3339Nano)},
		headerSpecVersion:     {"1.0"},
		headerSchema:          {kind + "/v" + strconv.Itoa(version)},
		jetstream.MsgIDHeader: {d.ID},
	}
	if d.Cause != 0 {
		msg.Header[headerCause] = []string{strconv.FormatUint(d.Cause, 10)}
	}
	switch d.Data.(type) {
	case events.Decided, events.Declined:
		msg.Header[headerSentence] = []string{plainText(events.Sentence(d.Data))}
	}
	return msg, nil
}

// plainText is a sentence as every client can read it from a header, in ASCII
// and in one line. Nothing is read back from it: the body is the event, and the
// log's digest does not cover this.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ':
			return ' '
		case r > '~':
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "→", "->"))
}

// decode turns a stored message into an event. It never fails: a message that
// is not what its headers promise becomes events.Unknown with the reason, so
// that one bad writer cannot stop every reader.
func decode(prefix, subject string, h nats.Header, body []byte, seq uint64) events.Event {
	e := events.Event{Seq: seq, ID: header(h, headerID), Source: header(h, headerSource), Body: body}
	class, key, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
	kind := header(h, headerType)
	var err error
	if e.Version, err = schemaVersion(header(h, headerSchema), kind); err == nil {
		err = decodeMeta(&e, h)
	}
	if err == nil {
		e.Data, err = decodeData(kind, e.Version, events.Class(class), key, body)
	}
	if err == nil {
		err = checkSubject(e.Data, events.Class(class), key)
	}
	if err != nil {
		e.Data = events.Unknown{KindName: kind, Version: e.Version, ClassIn: events.Class(class), KeyIn: key, Reason: err.Error()}
	}
	return e
}

func decodeMeta(e *events.Event, h nats.Header) (err error) {
	if e.ID == "" || e.Source == "" {
		return fmt.Errorf("natslog: %s=%q and %s=%q must not be empty", headerID, e.ID, headerSource, e.Source)
	}
	if e.Time, err = time.Parse(time.RFC3339Nano, header(h, headerTime)); err != nil {
		return fmt.Errorf("natslog: %s: %w", headerTime, err)
	}
	e.Time = e.Time.UTC()
	if cause := header(h, headerCause); cause != "" {
		if e.Cause, err = strconv.ParseUint(cause, 10, 64); err != nil {
			return fmt.Errorf("natslog: %s: %w", headerCause, err)
		}
	}
	return nil
}

// schemaVersion reads N of "<kind>/v<N>".
func schemaVersion(schema, kind string) (int, error) {
	name, v, ok := strings.Cut(schema, "/v")
	n, err := strconv.Atoi(v)
	if !ok || err != nil || name != kind || kind == "" {
		return 0, fmt.Errorf("natslog: %s=%q does not name a version of %s=%q; expected %s/v1", headerSchema, schema, headerType, kind, kind)
	}
	return n, nil
}

// checkSubject refuses a body on a subject that is not its own. What a key may
// publish is known by subjects, so a decision must not hide in another class.
func checkSubject(d events.Data, class events.Class, key string) error {
	if d.Class() != class || d.Key() != key {
		return fmt.Errorf("natslog: kind %s belongs to %s.%s but was published on %s.%s", d.Kind(), d.Class(), d.Key(), class, key)
	}
	return nil
}

// header is the first value of a name, spelled exactly so.
func header(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
