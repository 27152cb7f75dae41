package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// split is a failover's outage by what the log says of it. A part that the log
// does not show is negative.
type split struct {
	Noticed  time.Duration `json:"noticed_ns"`
	Proved   time.Duration `json:"proved_ns"`
	Decided  time.Duration `json:"decided_ns"`
	Promoted time.Duration `json:"promoted_ns"`
	Write    time.Duration `json:"first_write_ns"`
	Decision uint64        `json:"decision"`
	Lost     uint64        `json:"lost_wal_bytes"`
}

// splitSince reads the times of the failover that followed a fault, all counted
// from the fault.
func splitSince(ctx context.Context, log events.Log, fault time.Time) (split, error) {
	x := split{Noticed: -1, Proved: -1, Decided: -1, Promoted: -1, Write: -1}
	at := func(e events.Event) time.Duration { return e.Time.Sub(fault) }
	set := func(d *time.Duration, e events.Event) {
		if *d < 0 {
			*d = at(e)
		}
	}
	_, err := foldAll(ctx, log, func(e events.Event, _ fsm.State) {
		if !e.Time.After(fault) {
			return
		}
		switch d := e.Data.(type) {
		case events.PostgresExited:
			set(&x.Noticed, e)
		case events.PostgresDead:
			set(&x.Proved, e)
		case events.DeadlineReached:
			if d.Name == fsm.DeadlineSilence {
				set(&x.Noticed, e)
			}
			if d.Name == fsm.DeadlineLease {
				set(&x.Proved, e)
			}
		case events.Decided:
			if d.To == events.Promoting && x.Decided < 0 {
				set(&x.Decided, e)
				x.Decision = e.Seq
				if d.Loss != nil {
					x.Lost = d.Loss.Bytes
				}
			}
		case events.OrderDone:
			if d.Decision == x.Decision && x.Decision != 0 && (d.Action == events.ActPromote || d.Action == events.ActResume) {
				set(&x.Promoted, e)
			}
		}
	})
	return x, err
}

func (x split) String() string {
	if x.Decision == 0 {
		return ""
	}
	var parts []string
	last := time.Duration(0)
	for _, p := range []struct {
		name string
		at   time.Duration
	}{{"noticed", x.Noticed}, {"proved", x.Proved}, {"decided", x.Decided}, {"promoted", x.Promoted}, {"first write", x.Write}} {
		if p.at < 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s +%s", p.name, ms(p.at-last)))
		last = p.at
	}
	return strings.Join(parts, ", ")
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// awaitState follows the log until the state is as wanted.
func awaitState(ctx context.Context, log events.Log, what string, ok func(fsm.State) bool) (fsm.State, error) {
	var got fsm.State
	last, err := lastOf(ctx, log)
	if err != nil {
		return got, err
	}
	err = followState(ctx, log, func(e events.Event, s fsm.State) (bool, error) {
		got = s
		return e.Seq >= last && ok(s), nil
	})
	if err != nil {
		return got, fmt.Errorf("waiting for %s: %w; the cluster is %s, term %d", what, err, got.Phase, got.Term)
	}
	return got, nil
}
