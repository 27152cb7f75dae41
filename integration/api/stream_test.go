//go:build linux

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// frame is one server-sent event.
type frame struct {
	id          uint64
	event, data string
}

// stream reads server-sent events until enough says so or the stream ends.
func stream(t *testing.T, url, last string, enough func(frame) bool) []frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body := open(ctx, t, url, last)
	defer body.Close()
	got, err := frames(t, body, enough)
	if err != nil {
		t.Fatalf("%s: what was waited for did not come within %s: %v", url, patience, err)
	}
	return got
}

// open asks for a stream.
func open(ctx context.Context, t *testing.T, url, last string) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %d, %s", url, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return resp.Body
}

// frames reads events until enough says so or the stream ends; err says that it
// was cut off.
func frames(t *testing.T, body io.Reader, enough func(frame) bool) (got []frame, err error) {
	t.Helper()
	var f frame
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			if f.id, err = strconv.ParseUint(value, 10, 64); err != nil {
				t.Fatalf("the id %q is no sequence", value)
			}
		case "event":
			f.event = value
		case "data":
			f.data = value
		}
		if lines.Text() != "" || f.id == 0 {
			continue
		}
		got = append(got, f)
		if enough(f) {
			return got, nil
		}
		f = frame{}
	}
	return got, lines.Err()
}

// TestAPIBesideACluster is an interrex api of its own: its readers go on where
// they were when it is started again, keys are good over a restart, what guards
// it holds, and the command line shows the same.
func TestAPIBesideACluster(t *testing.T) {
	c := newCluster(t)
	listen := fmt.Sprintf("127.0.0.1:%d", freePort(t, 1))
	serve := func() (*process, string) {
		p := start(t, nil, binary, "api", "--dir", c.dir, "--listen", listen, "--node", "db2")
		url := p.serves()
		p.eventually("the API's readiness", func() bool {
			code, _ := ask(t, "GET", url+"/liveness", "")
			return code == http.StatusOK
		})
		return p, url
	}
	p, url := serve()
	var said string
	t.Run("refused input", func(t *testing.T) { refused(t, c, url) })
	t.Run("the command line shows the same", func(t *testing.T) { same(t, c, url) })
	t.Run("a key over a restart", func(t *testing.T) {
		said = wants(t, 200, `"who": "anna@`, "POST", url+"/v1/pause", `{"for":"10m","who":"anna","reason":"backup"}`, "Idempotency-Key", "pause-1")
	})
	t.Run("a stream over a restart", func(t *testing.T) {
		before := stream(t, url+"/v1/events/stream?after=0", "", func(f frame) bool { return f.event == "pause-requested" })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		reader := open(ctx, t, url+"/v1/events/stream", "")
		defer reader.Close()
		p.stop() // though somebody reads
		if _, err := frames(t, reader, func(frame) bool { return false }); err != nil {
			t.Errorf("the stream was cut off and not ended: %v", err)
		}
		wants(t, 200, `"status": "decided"`, "POST", c.url+"/v1/resume", `{}`)
		p, url = serve()
		after := stream(t, url+"/v1/events/stream", fmt.Sprint(before[len(before)-1].id), func(f frame) bool { return f.event == "resume-requested" })
		whole(t, url, append(before, after...))
	})
	t.Run("the same key again", func(t *testing.T) {
		again := wants(t, 200, "", "POST", url+"/v1/pause", `{"for":"10m","who":"anna","reason":"backup"}`, "Idempotency-Key", "pause-1")
		if again != said {
			t.Errorf("the second answer is\n%swant\n%s", again, said)
		}
		wants(t, 422, "belongs to another request", "POST", url+"/v1/pause", `{"for":"20m","who":"anna","reason":"backup"}`, "Idempotency-Key", "pause-1")
		if s := c.shows(); s.Paused != "" {
			t.Errorf("the repeated request paused the cluster again: %+v", s)
		}
	})
	p.stop()
}

// whole wants the log itself: each event once, in order, none left out.
func whole(t *testing.T, url string, frames []frame) {
	t.Helper()
	var ids, want []uint64
	for _, f := range frames {
		ids = append(ids, f.id)
	}
	last := ids[len(ids)-1]
	for after := uint64(0); after < last; {
		var page struct {
			Events []struct {
				Seq uint64 `json:"seq"`
			} `json:"events"`
			Next uint64 `json:"next"`
		}
		body := wants(t, 200, "", "GET", fmt.Sprintf("%s/v1/events?after=%d&limit=50", url, after), "")
		if err := json.Unmarshal([]byte(body), &page); err != nil || page.Next <= after {
			t.Fatalf("page after %d: %v\n%s", after, err, body)
		}
		for _, e := range page.Events {
			if e.Seq <= last {
				want = append(want, e.Seq)
			}
		}
		after = page.Next
	}
	if !slices.Equal(ids, want) {
		t.Errorf("the stream had events %v, the log has %v", ids, want)
	}
}

// same holds the API's answer against interrex status: but for the moment, it is
// the same text.
func same(t *testing.T, c *cluster, url string) {
	var got, want string
	end := time.Now().Add(patience)
	for time.Now().Before(end) {
		_, got = ask(t, "GET", url+"/v1/cluster", "")
		out, err := command(nil, binary, "status", "--dir", c.dir, "--output", "json").Output()
		if err != nil {
			t.Fatal(err)
		}
		if want = string(out); timeless(t, got) == timeless(t, want) {
			return
		}
	}
	t.Errorf("GET /v1/cluster is\n%s, interrex status\n%s", got, want)
}

// timeless takes out what grows from moment to moment.
func timeless(t *testing.T, text string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	delete(v, "seq")
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// refused is what gets one clear error and changes nothing.
func refused(t *testing.T, c *cluster, url string) {
	before := c.shows()
	wants(t, 503, "db1 is the primary", "GET", url+"/primary", "")
	wants(t, 200, `"role": "replica"`, "GET", url+"/replica", "")
	wants(t, 400, "is not what", "POST", url+"/v1/switchover", `{"node":`)
	wants(t, 400, "unknown field", "POST", url+"/v1/switchover", `{"nodes":"db2"}`)
	wants(t, 400, "there is no node", "POST", url+"/v1/switchover", `{"node":"db9"}`)
	wants(t, 400, "reason is required", "POST", url+"/v1/failover", `{"node":"db2"}`)
	wants(t, 413, "larger than 65536 bytes", "POST", url+"/v1/resume", `{"reason":"`+strings.Repeat("x", 70_000)+`"}`)
	wants(t, 403, "another origin", "POST", url+"/v1/failover", `{"reason":"csrf"}`, "Origin", "https://evil.example")
	wants(t, 403, "another origin", "POST", url+"/v1/failover", `{"reason":"csrf"}`, "Sec-Fetch-Site", "cross-site")
	wants(t, 415, "must be application/json", "POST", url+"/v1/failover", `{"reason":"csrf"}`, "Content-Type", "text/plain")
	wants(t, 400, "Last-Event-ID", "GET", url+"/v1/events/stream", "", "Last-Event-ID", "yesterday")
	wants(t, 400, "the log ends at", "GET", url+"/v1/events/stream", "", "Last-Event-ID", "999999999")
	wants(t, 409, "", "POST", url+"/v1/switchover", `{"node":"db1"}`) // it is the primary: a rule's words
	if after := c.shows(); after.Term != before.Term || after.Primary != before.Primary {
		t.Errorf("refused requests moved the cluster from %+v to %+v", before, after)
	}
	out, err := command(nil, binary, "api", "--dir", c.dir, "--listen", "0.0.0.0:0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "INTERREX_API_TOKEN_FILE") {
		t.Errorf("interrex api on every address without a token: %v\n%s", err, out)
	}
	guarded(t, c)
}
