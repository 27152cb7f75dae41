package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// streamBuffer is how many events a reader may lag behind the reading of the log
// before that waits for it; no other reader does.
const streamBuffer = 256

// getStream sends events as they come. Each stream reads the log by itself, from
// where its reader wants to go on: a slow one holds nobody else, and is cut off
// when it takes nothing for 30 s.
func (s *Server) getStream(w http.ResponseWriter, r *http.Request) error {
	after, err := s.streamFrom(r)
	if err != nil {
		return err
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return unavailable(fmt.Errorf("%d streams are open, and more are not served: close some", maxStreams))
	}
	out := stream{w: w, control: http.NewResponseController(w)}
	_ = out.control.SetReadDeadline(time.Time{}) // that of the request; the stream outlives it
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if out.write(fmt.Sprintf(": events after %d\nretry: 1000\n\n", after)) == nil {
		s.stream(r.Context(), out, after)
	}
	return nil
}

// streamFrom is the event after which a reader wants to go on.
func (s *Server) streamFrom(r *http.Request) (uint64, error) {
	name, text := "after", ""
	if q := r.URL.Query(); q.Has("after") {
		text = q.Get("after")
	}
	if id := r.Header.Values("Last-Event-ID"); len(id) > 0 { // what a browser adds when it connects again
		name, text = "Last-Event-ID", id[0]
	} else if !r.URL.Query().Has("after") {
		if _, err := s.follower.state(); err != nil {
			return 0, unavailable(err)
		}
		tail, _ := s.follower.distance()
		return tail, nil
	}
	after, err := sequence(name, text)
	if err != nil {
		return 0, err
	}
	return after, s.notBeyond(name, after)
}

// stream sends what the log holds after an event and what comes, until the
// reader goes, the log fails or the server stops.
func (s *Server) stream(ctx context.Context, out stream, after uint64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	news := make(chan events.Event, streamBuffer)
	go func() {
		defer close(news)
		_ = s.options.Log.Read(ctx, events.Query{After: after, Follow: true}, func(e events.Event) error {
			select {
			case news <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	alive := time.NewTicker(s.options.KeepAlive)
	defer alive.Stop()
	for {
		var err error
		select {
		case e, ok := <-news:
			if !ok {
				return
			}
			err = out.event(e)
		case <-alive.C:
			err = out.write(": alive\n\n")
		case <-s.ended:
			return
		}
		if err != nil {
			return
		}
	}
}

// stream writes server-sent events, each within the time that a write may take.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (o stream) event(e events.Event) error {
	b, err := json.Marshal(events.Export(e))
	if err != nil {
		return err
	}
	return o.write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Kind(), b))
}

func (o stream) write(text string) error {
	_ = o.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder in a test has none
	if _, err := o.w.Write([]byte(text)); err != nil {
		return err
	}
	return o.control.Flush()
}
