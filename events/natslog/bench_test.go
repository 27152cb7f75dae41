package natslog

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/logtest"
)

var replayEvents = flag.Int("replay-events", 200_000, "size of the log that BenchmarkReplay reads")

// sample is the n-th event of a quiet cluster: mostly heartbeats and renewals.
func sample(n int) events.Draft {
	beat := events.Heartbeat{
		Node: fmt.Sprintf("db%d", n%3), State: events.PostgresUp, LSN: events.LSN(0x3000000 + n), Replay: events.LSN(0x3000000 + n),
		Probes: events.ProbeSummary{Count: 4, MinMicros: 61, MedMicros: 70, MaxMicros: 204},
	}
	if n%3 != 0 {
		return logtest.Draft(beat)
	}
	beat.Replay = 0
	beat.Replicas = []events.Replica{{Node: "db1", State: "streaming", Sync: "async", Flush: beat.LSN}, {Node: "db2", State: "streaming", Sync: "async", Flush: beat.LSN}}
	return logtest.Draft(events.LeaseRenewed{Term: 4, Grant: 1234, Heartbeat: beat})
}

// fill stores n samples with the writes left to the page cache, and stops that
// server again.
func fill(b testing.TB, p place, n int) {
	o := p.options()
	o.lazySync = true
	s, err := StartServer(o)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Shutdown()
	l, err := Dial(b.Context(), DialOptions{Server: s, KeyFile: KeyFile(p.keys, RoleAgent), Cluster: "demo"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	js := l.now().js
	futures := make([]jetstream.PubAckFuture, 0, 1000)
	drain := func() {
		for _, f := range futures {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				b.Fatal(err)
			}
		}
		futures = futures[:0]
	}
	for i := range n {
		msg, err := encode("demo", sample(i))
		if err != nil {
			b.Fatal(err)
		}
		f, err := js.PublishMsgAsync(msg)
		if err != nil {
			b.Fatal(err)
		}
		if futures = append(futures, f); len(futures) == cap(futures) {
			drain()
		}
	}
	drain()
}

// BenchmarkReplay reads a stored log from its beginning, decoded. Run it with
// -replay-events 1000000 for the documented figure.
func BenchmarkReplay(b *testing.B) {
	p := place{b.TempDir(), b.TempDir() + "/keys"}
	fill(b, p, *replayEvents)
	s, err := StartServer(p.options())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Shutdown()
	for name, via := range map[string]func(*Server) func(*DialOptions){"tcp": viaTCP, "in-process": viaProcess} {
		b.Run(name, func(b *testing.B) {
			o := DialOptions{KeyFile: KeyFile(p.keys, RoleReader), Cluster: "demo"}
			via(s)(&o)
			l, err := Dial(b.Context(), o)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			before := cpuTime(b)
			for b.Loop() {
				n := 0
				err := l.Read(b.Context(), events.Query{}, func(e events.Event) error {
					if _, bad := e.Data.(events.Unknown); bad {
						return fmt.Errorf("event %d: %+v", e.Seq, e.Data)
					}
					n++
					return nil
				})
				if err != nil || n != *replayEvents {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(*replayEvents*b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(*replayEvents*b.N), "cpu-ns/event")
		})
	}
}

// cpuTime is what this process, server and client, has used of all cores: a
// figure that other work on the machine disturbs less than the wall clock.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend measures acknowledged, synced appends, and how soon after its
// append began a follower has the event.
func BenchmarkAppend(b *testing.B) {
	p := place{b.TempDir(), b.TempDir() + "/keys"}
	s, err := StartServer(p.options())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Shutdown()
	for name, via := range map[string]func(*Server) func(*DialOptions){"tcp": viaTCP, "in-process": viaProcess} {
		b.Run(name, func(b *testing.B) {
			o := DialOptions{KeyFile: KeyFile(p.keys, RoleAgent), Cluster: "demo"}
			via(s)(&o)
			l, err := Dial(b.Context(), o)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			tail, err := l.Last(ctx)
			if err != nil {
				b.Fatal(err)
			}
			heard := make(chan time.Time, 1)
			go l.Read(ctx, events.Query{After: tail, Follow: true}, func(events.Event) error {
				heard <- time.Now()
				return nil
			})
			var acks, hears []time.Duration
			for n := 0; b.Loop(); n++ {
				d := sample(n)
				start := time.Now()
				if _, err := l.Append(ctx, d); err != nil {
					b.Fatal(err)
				}
				acks = append(acks, time.Since(start))
				hears = append(hears, (<-heard).Sub(start))
			}
			slices.Sort(acks)
			slices.Sort(hears)
			b.ReportMetric(float64(acks[len(acks)/2].Microseconds()), "ack-p50-µs")
			b.ReportMetric(float64(acks[len(acks)*99/100].Microseconds()), "ack-p99-µs")
			b.ReportMetric(float64(hears[len(hears)/2].Microseconds()), "heard-p50-µs")
			b.ReportMetric(float64(hears[len(hears)*99/100].Microseconds()), "heard-p99-µs")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 3} {
		d := sample(n).Data
		body, err := events.Encode(d)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(d.Kind()+"/v1", func(b *testing.B) {
			for b.Loop() {
				if _, err := events.Decode(d.Kind(), 1, d.Class(), d.Key(), body); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(d.Kind()+"/v2", func(b *testing.B) {
			for b.Loop() {
				var err error
				if n == 1 {
					var v events.Heartbeat
					err = jsonv2.Unmarshal(body, &v)
				} else {
					var v events.LeaseRenewed
					err = jsonv2.Unmarshal(body, &v)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(d.Kind()+"/v1 valid only", func(b *testing.B) {
			for b.Loop() {
				if !json.Valid(body) {
					b.Fatal()
				}
			}
		})
	}
}
