package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/operator"
)

// Waits of a POST.
const (
	defaultWait = 30 * time.Second
	maxWait     = time.Minute
	minAsk      = 2 * time.Second // for the log to take the request
	catchUpTime = 5 * time.Second
)

// Bounds of what a person writes into the log.
const (
	maxWho    = 64
	maxReason = 1000
	maxKey    = 255
)

// What may stand in the body of each POST. Who is who asks, as the caller says:
// the log keeps it with the address that the request came from.
type (
	asker struct {
		Who    string `json:"who,omitempty"`
		Reason string `json:"reason,omitempty"`
	}
	// SwitchoverBody: node is whom to promote; left out, the cluster chooses.
	SwitchoverBody struct {
		asker
		Node string `json:"node,omitempty"`
	}
	// FailoverBody wants a reason.
	FailoverBody struct {
		asker
		Node       string `json:"node,omitempty"`
		AcceptLoss bool   `json:"accept_loss,omitempty"`
	}
	// RecoverBody wants a node; how is auto, rewind or basebackup.
	RecoverBody struct {
		asker
		Node  string `json:"node"`
		How   string `json:"how,omitempty"`
		Clean bool   `json:"clean,omitempty"`
	}
	// PauseBody wants a reason; for is a duration like 30m, the default.
	PauseBody struct {
		asker
		For events.Duration `json:"for,omitempty"`
	}
	// ResumeBody has nothing of its own.
	ResumeBody struct{ asker }
)

// wish is the body of a POST.
type wish interface {
	by() asker
	names() string // the node that it names, by name or id
	request(r events.Request, node string) events.Data
}

func (a asker) by() asker     { return a }
func (a asker) names() string { return "" }

func (b *SwitchoverBody) names() string { return b.Node }
func (b *FailoverBody) names() string   { return b.Node }
func (b *RecoverBody) names() string    { return b.Node }

func (b *SwitchoverBody) request(r events.Request, node string) events.Data {
	return events.SwitchoverRequested{Request: r, Node: node}
}

func (b *FailoverBody) request(r events.Request, node string) events.Data {
	return events.FailoverRequested{Request: r, Node: node, AcceptLoss: b.AcceptLoss}
}

func (b *RecoverBody) request(r events.Request, node string) events.Data {
	return events.RecoverRequested{Request: r, Node: node, How: b.How, Clean: b.Clean}
}

func (b *PauseBody) request(r events.Request, _ string) events.Data {
	return events.PauseRequested{Request: r, For: b.For}
}

func (b *ResumeBody) request(r events.Request, _ string) events.Data {
	return events.ResumeRequested{Request: r}
}

// verb is one POST.
type verb struct {
	name, summary string
	body          func() wish
}

var verbs = []verb{
	{"switchover", "Move the primary to a standby, planned: nothing is lost", func() wish { return &SwitchoverBody{} }},
	{"failover", "Stop the primary by force and promote a standby; with accept_loss even one that automation refuses", func() wish { return &FailoverBody{} }},
	{"recover", "Make a node a streaming standby again", func() wish { return &RecoverBody{How: "auto"} }},
	{"pause", "Suspend automatic failover for a time, at most 24h", func() wish { return &PauseBody{For: events.Duration(30 * time.Minute)} }},
	{"resume", "End a pause", func() wish { return &ResumeBody{} }},
}

// Answer is what became of a request. Decided is not done: what follows is at
// /v1/decisions/{decision} and in the events.
type Answer struct {
	Request  uint64    `json:"request"` // the sequence of the request's event
	Kind     string    `json:"kind"`
	Who      string    `json:"who"`
	Time     time.Time `json:"time"`
	Status   string    `json:"status"` // decided, refused or waiting
	Decision uint64    `json:"decision,omitempty"`
	Sentence string    `json:"sentence"` // the decision, the rule's words that refuse, or the request
}

// post appends an operator's request and answers when it is decided.
func (s *Server) post(w http.ResponseWriter, r *http.Request, v verb) error {
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	key, err := keyOf(r)
	if err != nil {
		return err
	}
	b := v.body()
	if err := decode(w, r, b); err != nil {
		return err
	}
	data, err := s.data(r, b)
	if err != nil {
		return err
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // the body is read; the answer takes its time
	_ = control.SetWriteDeadline(time.Now().Add(catchUpTime + wait + writeTimeout))
	asking, cancel := context.WithTimeout(r.Context(), max(wait, minAsk))
	defer cancel()
	req, err := s.ask(asking, data, key)
	if err != nil {
		return err
	}
	return s.await(w, r, req.Seq, wait)
}

func waitOf(r *http.Request) (time.Duration, error) {
	q := r.URL.Query()
	if !q.Has("wait") {
		return defaultWait, nil
	}
	d, err := time.ParseDuration(q.Get("wait"))
	if err != nil || d < 0 || d > maxWait {
		return 0, bad("wait=%q must be a duration from 0s to %s, like 5s", q.Get("wait"), maxWait)
	}
	return d, nil
}

func keyOf(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	hidden := strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c >= 0x7f })
	if len(values) > 1 || key == "" || len(key) > maxKey || hidden {
		return "", bad("the Idempotency-Key must be one word of 1 to %d visible ASCII characters", maxKey)
	}
	return key, nil
}

// decode reads the body: one JSON object, of which every field is known.
func decode(w http.ResponseWriter, r *http.Request, into wish) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return fail(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", large.Limit)
	}
	if err != nil {
		return bad("the body cannot be read: %v", err)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' {
		return bad(`the body must be one JSON object; where nothing is to be said: {}`)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return bad("the body is not what %s takes: %v; see /v1/openapi.json", r.URL.Path, strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bad("the body must be one JSON object; something follows it")
	}
	return nil
}

// data turns a body into the operator's event, checked as the commands check.
func (s *Server) data(r *http.Request, b wish) (events.Data, error) {
	by := b.by()
	for _, f := range []struct {
		name, text string
		most       int
	}{{"who", by.Who, maxWho}, {"reason", by.Reason, maxReason}} {
		if len(f.text) > f.most || strings.ContainsFunc(f.text, unicode.IsControl) {
			return nil, bad("%s must have at most %d bytes and no control characters", f.name, f.most)
		}
	}
	state, err := s.follower.state()
	if err != nil {
		return nil, unavailable(err)
	}
	_, wants := b.(*RecoverBody)
	if wants && b.names() == "" {
		return nil, bad("node is required")
	}
	node, err := operator.Node(state, b.names())
	if err != nil {
		return nil, bad("node: %v", err)
	}
	data := b.request(identity(r, by), node)
	if err := operator.Check(data); err != nil {
		return nil, bad("%v", err)
	}
	return data, nil
}

// identity is who asks: a name as the caller says it, and the address that the
// connection came from.
func identity(r *http.Request, by asker) events.Request {
	name, host := by.Who, r.RemoteAddr
	if name == "" {
		name = "api"
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return events.Request{Who: name + "@" + host + " (api)", Actor: operator.Token(name), Reason: by.Reason}
}

// space is the namespace of the IDs that are made of idempotency keys. It must
// never change: a key is good for ever.
var space = uuid.MustParse("5f0c2f1e-6a35-5b0e-9b86-0f6f5f3c9a51")

// idOf is the ID of a request's event. The log stores an ID once within its
// memory of IDs, and what is older is known to the follower.
func idOf(s fsm.State, key string) (uuid.UUID, error) {
	if key == "" {
		return uuid.NewV7()
	}
	return uuid.NewSHA1(space, []byte(s.Cluster+"\x00"+key)), nil
}

// ask appends a request, or finds the one that was appended with the same key.
func (s *Server) ask(ctx context.Context, data events.Data, key string) (events.Event, error) {
	if s.options.Ask == nil {
		return events.Event{}, fail(http.StatusForbidden, "this API only reads: it has no operator's key")
	}
	state, err := s.follower.state()
	if err != nil {
		return events.Event{}, unavailable(err)
	}
	id, err := idOf(state, key)
	if err != nil {
		return events.Event{}, err
	}
	if key != "" {
		bounded, cancel := context.WithTimeout(ctx, catchUpTime)
		defer cancel()
		if err := s.follower.catchUp(bounded); err != nil {
			return events.Event{}, unavailable(fmt.Errorf("the log was not read to its end: %w; nothing was asked", err))
		}
		if a, found := s.follower.requestByID(id.String()); found {
			return a.event, sameAs(a.event, data)
		}
	}
	draft := events.Draft{ID: id.String(), Time: time.Now(), Source: "operator/" + data.Key(), Data: data}
	e, err := operator.Append(ctx, s.options.Ask, draft)
	switch {
	case errors.Is(err, events.ErrUnavailable) || err != nil && ctx.Err() != nil:
		return e, fail(http.StatusGatewayTimeout, "it is not known whether the request was stored: %v; ask again with the same Idempotency-Key, or see /v1/events", err)
	case err != nil:
		return e, fmt.Errorf("the request was not stored: %w", err)
	}
	return e, sameAs(e, data)
}

// sameAs refuses a key that was given to another request. From where it is asked
// does not matter.
func sameAs(stored events.Event, data events.Data) error {
	was, err := anonymous(stored.Data)
	if err != nil {
		return err
	}
	is, err := anonymous(data)
	if err != nil {
		return err
	}
	if stored.Kind() != data.Kind() || !bytes.Equal(was, is) {
		return fail(http.StatusUnprocessableEntity, "this Idempotency-Key belongs to another request, event %d: %s; use a new key", stored.Seq, events.Sentence(stored.Data))
	}
	return nil
}

// anonymous is a request without the address of who asked.
func anonymous(d events.Data) ([]byte, error) {
	b, err := events.Encode(d)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, err
	}
	if who, ok := fields["who"].(string); ok {
		fields["who"] = who[:max(0, strings.LastIndex(who, "@"))]
	}
	return json.Marshal(fields)
}

// await answers when a request is decided, or, when the wait passes, that it
// stands.
func (s *Server) await(w http.ResponseWriter, r *http.Request, seq uint64, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	go func() { // a server that stops does not wait for a decision
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	_ = s.follower.until(ctx, func() bool { return s.follower.requests[seq] != nil && s.follower.requests[seq].answered })
	a, known := s.follower.request(seq)
	switch {
	case known && a.answered && a.decision == 0:
		return failure{status: http.StatusConflict, text: a.refused, request: seq}
	case known && a.answered:
		return writeJSON(w, http.StatusOK, s.answer(a))
	case !known: // stored, and not read back yet
		a.event = events.Event{Seq: seq, Time: time.Now()}
	}
	w.Header().Set("Location", fmt.Sprintf("/v1/requests/%d", seq))
	return writeJSON(w, http.StatusAccepted, s.answer(a))
}

func (s *Server) answer(a asked) Answer {
	out := Answer{Request: a.event.Seq, Kind: a.event.Kind(), Time: a.event.Time, Status: "waiting"}
	if a.event.Data != nil {
		out.Who, out.Sentence = who(a.event.Data), events.Sentence(a.event.Data)
	}
	switch {
	case a.answered && a.decision == 0:
		out.Status, out.Sentence = "refused", a.refused
	case a.answered:
		out.Status, out.Decision = "decided", a.decision
		if d, ok := s.follower.decision(a.decision); ok {
			out.Sentence = d.brief.Sentence
		}
	}
	return out
}

func who(d events.Data) string {
	switch d := d.(type) {
	case events.SwitchoverRequested:
		return d.Who
	case events.FailoverRequested:
		return d.Who
	case events.RecoverRequested:
		return d.Who
	case events.DetachRequested:
		return d.Who
	case events.AttachRequested:
		return d.Who
	case events.PauseRequested:
		return d.Who
	case events.ResumeRequested:
		return d.Who
	case events.ShutdownRequested:
		return d.Who
	case events.StartupRequested:
		return d.Who
	}
	return ""
}

func (s *Server) getRequest(w http.ResponseWriter, r *http.Request) error {
	seq, err := sequence("the request", r.PathValue("seq"))
	if err != nil {
		return err
	}
	if _, err := s.follower.state(); err != nil {
		return unavailable(err)
	}
	a, ok := s.follower.request(seq)
	if !ok {
		return fail(http.StatusNotFound, "event %d is no operator's request; see /v1/events", seq)
	}
	return writeJSON(w, http.StatusOK, s.answer(a))
}
