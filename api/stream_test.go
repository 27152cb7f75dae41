package api

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// listener reads a stream.
type listener struct {
	t     *testing.T
	body  *bufio.Scanner
	close func()
}

func (w *world) listen(path, last string) listener {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	r := w.request("GET", path, "").WithContext(ctx)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("the stream is %d, %s", res.StatusCode, res.Header)
	}
	return listener{w.t, bufio.NewScanner(res.Body), cancel}
}

// next returns the next event's id and kind; 0 at the end of the stream.
func (l listener) next() (seq uint64, kind string) {
	l.t.Helper()
	for l.body.Scan() {
		name, value, _ := strings.Cut(l.body.Text(), ": ")
		switch name {
		case "id":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			seq = n
		case "event":
			kind = value
		case "data":
			if !strings.Contains(value, fmt.Sprintf(`"seq":%d,`, seq)) {
				l.t.Errorf("event %d carries %s", seq, value)
			}
		case "":
			if seq != 0 {
				return seq, kind
			}
		}
	}
	return 0, ""
}

// TestStream: what was missed comes first, then what is new, each once.
func TestStream(t *testing.T) {
	w := running(t, nil)
	tail := w.player.State().Seq
	fresh, all, resumed := w.listen("/v1/events/stream", ""), w.listen("/v1/events/stream?after=0", ""), w.listen("/v1/events/stream?after=1", strconv.FormatUint(tail-2, 10))
	w.play("crash db1")
	for _, c := range []struct {
		name string
		l    listener
		from uint64
	}{{"new", fresh, tail + 1}, {"all", all, 1}, {"resumed", resumed, tail - 1}} {
		for want := c.from; want <= w.player.State().Seq; want++ {
			seq, kind := c.l.next()
			if e := w.player.Log()[want-1]; seq != want || kind != e.Kind() {
				t.Fatalf("%s: event %d (%s), want %d (%s)", c.name, seq, kind, want, e.Kind())
			}
		}
	}
	bad := func(id string) {
		r := w.request("GET", "/v1/events/stream", "")
		r.Header.Set("Last-Event-ID", id)
		w.do(r).is(t, "Last-Event-ID "+id, 400, "Last-Event-ID")
	}
	for _, id := range []string{"x", "-1", "1.5", "99999999999999999999", "999999", ""} {
		bad(id)
	}
	w.get("/v1/events/stream?after=x").is(t, "after", 400, "after")
}

// TestStreamSlow: a reader that takes nothing holds nobody else, and when there
// are too many, the next one is told so.
func TestStreamSlow(t *testing.T) {
	w := running(t, nil)
	slow := w.listen("/v1/events/stream?after=0", "")
	quick := w.listen("/v1/events/stream", "")
	long := strings.Repeat("x", 1<<10)
	for range 4000 { // more than buffers and sockets hold
		if _, err := w.log.Append(t.Context(), draft(events.LeaseRefused{Node: "db1", Reason: long})); err != nil {
			t.Fatal(err)
		}
	}
	for range 4000 {
		if seq, _ := quick.next(); seq == 0 {
			t.Fatal("the quick reader's stream has ended")
		}
	}
	slow.close()
	quick.close()
	eventually(t, "the end of both", func() bool { return len(w.server.streams) == 0 })
	for range maxStreams {
		w.server.streams <- struct{}{}
	}
	w.get("/v1/events/stream").is(t, "one too many", 503, "64 streams")
}

// TestStreamEnds: comments keep an idle stream alive, and it ends with the API.
func TestStreamEnds(t *testing.T) {
	w := running(t, func(o *Options) { o.KeepAlive = 20 * time.Millisecond })
	l := w.listen("/v1/events/stream", "")
	alive := 0
	for alive < 2 && l.body.Scan() {
		if l.body.Text() == ": alive" {
			alive++
		}
	}
	if alive < 2 {
		t.Fatal("no comment came")
	}
	w.server.end.Do(func() { close(w.server.ended) })
	if seq, kind := l.next(); seq != 0 || l.body.Err() != nil {
		t.Errorf("event %d (%s) came after the end, or it was none: %v", seq, kind, l.body.Err())
	}
}
