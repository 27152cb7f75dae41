package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/scenarios"
)

// patience bounds what hangs; it measures nothing.
const patience = 30 * time.Second

// world is an API on a log in memory, in which stories happen.
type world struct {
	t      *testing.T
	log    *memlog.Log
	player *scenarios.Player
	loaded int
	server *Server
	http   *httptest.Server
	valid  validator.Validator
}

// newWorld follows an empty log; change may alter the options.
func newWorld(t *testing.T, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t, log: memlog.New(), player: scenarios.NewPlayer()}
	w.serve(change)
	return w
}

// serve starts an API on the world's log; the one before is left alone.
func (w *world) serve(change func(*Options)) {
	w.t.Helper()
	o := Options{Log: w.log, Ask: w.log, Version: "test", Logger: slog.New(slog.DiscardHandler), StaleAfter: patience}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.Follow(ctx)
	}()
	w.server, w.http = s, httptest.NewServer(s.Handler())
	w.t.Cleanup(func() {
		cancel()
		<-over
		w.http.CloseClientConnections()
		w.http.Close()
	})
	doc, err := libopenapi.NewDocument(s.document)
	if err != nil {
		w.t.Fatal(err)
	}
	var errs []error
	if w.valid, errs = validator.NewValidator(doc); len(errs) > 0 {
		w.t.Fatal(errs)
	}
	w.caughtUp()
}

func (w *world) caughtUp() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := w.server.follower.catchUp(ctx); err != nil {
		w.t.Fatal(err)
	}
	if err := w.server.follower.until(ctx, func() bool { return !w.server.follower.asOf.IsZero() }); err != nil {
		w.t.Fatal(err)
	}
}

// play tells a part of a story.
func (w *world) play(steps string) {
	w.t.Helper()
	if out, err := w.player.Play(steps); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	all := w.player.Log()
	if err := w.log.Load(all[w.loaded:]...); err != nil {
		w.t.Fatal(err)
	}
	w.loaded = len(all)
	w.caughtUp()
}

// running is a healthy cluster of three, db1 its primary, with a lease that lasts
// as long as any test.
func running(t *testing.T, change func(*Options)) *world {
	t.Helper()
	w := newWorld(t, change)
	w.play("running nodes=3\npolicy lease=1h\nbeat db1")
	return w
}

// decide decides as a controller would, without its timers, until the test ends.
// From here on the log is not the player's any more.
func (w *world) decide() {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	m, s := fsm.NewMachine(), fsm.Initial()
	go func() {
		defer close(over)
		_ = w.log.Read(ctx, events.Query{Follow: true}, func(e events.Event) error {
			var err error
			if s, err = fsm.Fold(s, e); err != nil {
				return err
			}
			if data, ok := m.Decide(s); ok {
				id, _ := uuid.NewV7()
				_, _ = w.log.Append(ctx, events.Draft{ // lost: the next event brings the next chance
					ID: id.String(), Time: time.Now(), Source: "controller/c2", Data: scenarios.Signed(data, "c2"),
					If: events.Condition{AtTail: true, Seq: s.Seq},
				})
			}
			return nil
		})
	}()
	w.t.Cleanup(func() {
		cancel()
		<-over
	})
}

// reply is an answer that was checked against the OpenAPI document.
type reply struct {
	code   int
	header http.Header
	body   string
}

func (w *world) get(path string) reply {
	w.t.Helper()
	return w.do(w.request("GET", path, ""))
}

func (w *world) request(method, path, body string) *http.Request {
	w.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.http.URL+path, in)
	if err != nil {
		w.t.Fatal(err)
	}
	if method == "POST" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func (w *world) post(path, body string, headers ...string) reply {
	w.t.Helper()
	r := w.request("POST", path, body)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return w.do(r)
}

// do asks, and holds the answer against the document.
func (w *world) do(r *http.Request) reply {
	w.t.Helper()
	client := http.Client{Timeout: patience}
	res, err := client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	w.conforms(r, res, b)
	return reply{res.StatusCode, res.Header, string(b)}
}

// conforms checks an answer of a path that the document knows.
func (w *world) conforms(r *http.Request, res *http.Response, body []byte) {
	w.t.Helper()
	if r.Method == "HEAD" || res.StatusCode == http.StatusMethodNotAllowed || len(body) == 0 {
		return
	}
	if _, pattern := w.server.handler.(*http.ServeMux).Handler(r); pattern == "/" {
		return
	}
	again := *res
	again.Body = io.NopCloser(bytes.NewReader(body))
	asked := r.Clone(w.t.Context())
	asked.Body = http.NoBody
	if ok, errs := w.valid.ValidateHttpResponse(asked, &again); !ok {
		for _, e := range errs {
			w.t.Errorf("%s %s: the answer %d is not what the document says: %s: %s\n%v\n%s", r.Method, r.URL.Path, res.StatusCode, e.Message, e.Reason, e.SchemaValidationErrors, body)
		}
	}
}

// is checks the status and some words of an answer.
func (a reply) is(t *testing.T, what string, code int, words ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("%s: %d, want %d\n%s", what, a.code, code, a.body)
	}
	for _, word := range words {
		if !strings.Contains(a.body, word) {
			t.Errorf("%s: %q is missing in\n%s", what, word, a.body)
		}
	}
}

// into decodes an answer.
func into[T any](t *testing.T, a reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v\n%s", err, a.body)
	}
	return v
}

// eventually waits for what no event tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not seen within %s: %s", patience, what)
		}
	}
}

// count counts the events of a kind in the log.
func (w *world) count(kind string) int {
	w.t.Helper()
	n := 0
	if err := w.log.Read(w.t.Context(), events.Query{}, func(e events.Event) error {
		if e.Kind() == kind {
			n++
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return n
}
