package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
)

// draft wraps data as a writer would.
func draft(d events.Data) events.Draft {
	return events.Draft{ID: uuid.NewString(), Time: time.Now(), Source: "agent/test", Data: d}
}

func TestVerbs(t *testing.T) {
	w := running(t, nil)
	w.decide()
	a := into[Answer](t, w.post("/v1/pause", `{"reason":"work on db2","for":"10m","who":"anna"}`))
	if a.Status != "decided" || a.Decision <= a.Request || a.Kind != "pause-requested" || !strings.HasPrefix(a.Who, "anna@127.0.0.1") {
		t.Errorf("the pause is %+v", a)
	}
	w.get("/v1/cluster").is(t, "paused", 200, "for 10m0s: work on db2")
	w.post("/v1/resume", `{}`).is(t, "resume", 200, "decided")
	w.post("/v1/resume", `{}`).is(t, "resume again", 409, "the cluster is not paused", `"request":`)
	w.post("/v1/switchover", `{"node":"db1"}`).is(t, "to the primary", 409, "db1 is the primary already")
	w.post("/v1/recover", `{"node":"1"}`).is(t, "recover what streams", 409, "db2 streams from the primary already")
	w.post("/v1/switchover", `{"node":"2","reason":"maintenance"}`).is(t, "switchover by id", 200, "switching")
	if n := w.count("switchover-requested"); n != 2 {
		t.Errorf("%d switchovers were asked for, want 2", n)
	}
}

// TestVerbWaits: a request that nobody decides stands, and is found again.
func TestVerbWaits(t *testing.T) {
	w := running(t, nil)
	a := w.post("/v1/pause?wait=0s", `{"reason":"x"}`)
	a.is(t, "nobody decides", 202, "waiting")
	where := a.header.Get("Location")
	w.get(where).is(t, where, 200, "waiting")
	w.decide()
	eventually(t, "the decision", func() bool { return into[Answer](t, w.get(where)).Status == "decided" })
	w.get("/v1/requests/1").is(t, "no request", 404)
	w.get("/v1/requests/x").is(t, "no number", 400)
}

// TestBadVerbs: nothing of this reaches the log.
func TestBadVerbs(t *testing.T) {
	w := running(t, nil)
	before := w.player.State().Seq
	for _, c := range []struct{ path, body, words string }{
		{"failover", `{}`, "reason is required"},
		{"failover", `{"node":"db9","reason":"x"}`, "there is no node"},
		{"pause", `{}`, "reason is required"},
		{"pause", `{"reason":"x","for":"0s"}`, "at most 24h"},
		{"pause", `{"reason":"x","for":"25h"}`, "at most 24h"},
		{"pause", `{"reason":"x","for":"soon"}`, "duration"},
		{"pause", `{"reason":"x","for":5}`, "for"},
		{"pause", `{"reason":"a\u001b[2Jb"}`, "control characters"},
		{"pause", `{"reason":"` + strings.Repeat("x", maxReason+1) + `"}`, "at most"},
		{"recover", `{}`, "node is required"},
		{"recover", `{"node":"db2","how":"magic"}`, "auto, rewind or basebackup"},
		{"switchover", `{"nod":"db2"}`, "unknown field"},
		{"switchover", `{"node":5}`, "node"},
		{"switchover", `{"node":"db2"`, "not what"},
		{"switchover", `{} {}`, "something follows"},
		{"switchover", `[]`, "one JSON object"},
		{"switchover", `null`, "one JSON object"},
		{"switchover", ``, "one JSON object"},
		{"switchover", "\xff\xfe", "one JSON object"},
		{"switchover?wait=2h", `{}`, "wait"},
		{"switchover?wait=x", `{}`, "wait"},
	} {
		w.post("/v1/"+c.path, c.body).is(t, c.path+" "+c.body[:min(40, len(c.body))], 400, c.words)
	}
	w.post("/v1/resume", `{"reason":"`+strings.Repeat("x", maxBody)+`"}`).is(t, "large", 413, "65536")
	w.post("/v1/resume", `{}`, "Content-Type", "text/plain").is(t, "text", 415, "application/json")
	w.post("/v1/resume", `{}`, "Origin", "http://evil.example").is(t, "another origin", 403, "origin")
	w.post("/v1/resume", `{}`, "Sec-Fetch-Site", "cross-site").is(t, "another site", 403, "origin")
	for _, key := range []string{"", "two words", strings.Repeat("k", maxKey+1)} {
		w.post("/v1/resume", `{}`, "Idempotency-Key", key).is(t, "key", 400, "Idempotency-Key")
	}
	rebound := w.request("POST", "/v1/resume", "{}")
	rebound.Host = "evil.example:8008"
	w.do(rebound).is(t, "DNS rebinding", 403, "evil.example")
	read := w.request("GET", "/v1/cluster", "")
	read.Host = "evil.example"
	w.do(read).is(t, "DNS rebinding", 403, "evil.example")
	if last, err := w.log.Last(t.Context()); err != nil || last != before {
		t.Errorf("the log grew from %d to %d (%v)", before, last, err)
	}
}

// TestIdempotency: the same key asks once, whatever happens to the API.
func TestIdempotency(t *testing.T) {
	w := running(t, nil)
	w.decide()
	first := w.post("/v1/pause", `{"reason":"x"}`, "Idempotency-Key", "k1")
	first.is(t, "first", 200, "decided")
	if again := w.post("/v1/pause", `{"reason":"x"}`, "Idempotency-Key", "k1"); again.body != first.body || again.code != first.code {
		t.Errorf("again: %s\nwant %s", again.body, first.body)
	}
	w.post("/v1/pause", `{"reason":"y"}`, "Idempotency-Key", "k1").is(t, "another body", 422, "another request")
	w.post("/v1/pause", `{"reason":"x","who":"ben"}`, "Idempotency-Key", "k1").is(t, "another person", 422, "another request")
	w.post("/v1/resume", `{"reason":"x"}`, "Idempotency-Key", "k1").is(t, "another verb", 422, "another request")
	w.serve(nil)
	if again := w.post("/v1/pause", `{"reason":"x"}`, "Idempotency-Key", "k1"); again.body != first.body {
		t.Errorf("after a restart: %s\nwant %s", again.body, first.body)
	}
	if n := w.count("pause-requested") + w.count("resume-requested"); n != 1 {
		t.Errorf("%d requests are stored, want 1", n)
	}
	w.post("/v1/switchover", `{"node":"db1"}`, "Idempotency-Key", "k2").is(t, "refused", 409, "already")
	w.post("/v1/switchover", `{"node":"db1"}`, "Idempotency-Key", "k2").is(t, "refused again", 409, "already")

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { w.post("/v1/pause", `{"reason":"z"}`, "Idempotency-Key", "k3").is(t, "at once", 200) })
	}
	wg.Wait()
	if n := w.count("pause-requested"); n != 2 {
		t.Errorf("%d pauses are stored, want 2", n)
	}
}

// forgetful is a log as JetStream's two minutes later: an ID that it has stored is
// stored again.
type forgetful struct {
	events.Log
	known map[string]bool
}

func (l forgetful) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	if l.known[d.ID] {
		d.ID = uuid.NewString()
	}
	l.known[d.ID] = true
	return l.Log.Append(ctx, d)
}

// TestIdempotencyForEver: the log's own memory of IDs is short, the key's is not.
func TestIdempotencyForEver(t *testing.T) {
	w := running(t, nil)
	w.decide()
	ask := forgetful{w.log, map[string]bool{}}
	for range 3 { // each an API of its own
		w.serve(func(o *Options) { o.Ask = ask })
		w.post("/v1/pause", `{"reason":"x"}`, "Idempotency-Key", "k").is(t, "pause", 200, "decided")
	}
	if n := w.count("pause-requested"); n != 1 {
		t.Errorf("%d pauses are stored, want 1", n)
	}
}

// deaf stores what it is given, and does not say so.
type deaf struct{ events.Log }

func (l deaf) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	if _, err := l.Log.Append(ctx, d); err != nil {
		return events.Event{}, err
	}
	return events.Event{}, errors.Join(errors.New("test: no answer"), events.ErrUnavailable)
}

// TestUnknownOutcome: whether it was stored is not known; the same key finds out.
func TestUnknownOutcome(t *testing.T) {
	w := running(t, nil)
	w.decide()
	w.serve(func(o *Options) { o.Ask = deaf{w.log} })
	w.post("/v1/pause?wait=0s", `{"reason":"x"}`, "Idempotency-Key", "k").is(t, "no answer", 504, "Idempotency-Key")
	w.post("/v1/pause", `{"reason":"x"}`, "Idempotency-Key", "k").is(t, "the same again", 200, "decided")
	if n := w.count("pause-requested"); n != 1 {
		t.Errorf("%d pauses are stored, want 1", n)
	}
	w.serve(func(o *Options) { o.Ask = nil })
	w.post("/v1/resume", `{}`).is(t, "without an operator's log", 403, "only reads")
}

func TestToken(t *testing.T) {
	const token = "a-token-of-some-length"
	w := running(t, func(o *Options) { o.Token = token })
	with := func(path, value string) reply {
		r := w.request("GET", path, "")
		r.Host = "db.example:8008"
		if value != "" {
			r.Header.Set("Authorization", value)
		}
		return w.do(r)
	}
	for _, value := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + token + "x", "Bearer " + token[1:], "Basic " + token, token} {
		for _, path := range []string{"/v1/cluster", "/v1/nodes", "/v1/events", "/v1/events/stream", "/v1/decisions", "/v1/decisions/last", "/v1/requests/1"} {
			a := with(path, value)
			if a.code != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %q: %d", path, value, a.code)
			}
		}
	}
	for _, path := range []string{"/v1/cluster", "/v1/nodes"} {
		with(path, "Bearer "+token).is(t, path, 200)
		with(path, "bearer "+token).is(t, path, 200)
	}
	for _, path := range []string{"/nodes/db1/primary", "/metrics", "/liveness", "/v1/openapi.json"} {
		with(path, "").is(t, path, 200)
	}
	for _, v := range verbs {
		w.post("/v1/"+v.name, "{}").is(t, v.name, 401)
	}
}
