package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// errStop ends a reading from inside its callback.
var errStop = errors.New("stop")

// foldAll reads the log to its tail and returns the state, with a short
// deadline for a log that does not answer.
func foldAll(ctx context.Context, log events.Log, each func(events.Event, fsm.State)) (fsm.State, error) {
	last, err := lastOf(ctx, log)
	if err != nil {
		return fsm.State{}, err
	}
	s := fsm.Initial()
	err = log.Read(ctx, events.Query{}, func(e events.Event) error {
		if s, err = fsm.Fold(s, e); err != nil {
			return err
		}
		if each != nil {
			each(e, s)
		}
		if e.Seq >= last {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return s, err
}

func lastOf(ctx context.Context, log events.Log) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		last, err := log.Last(ctx)
		if err == nil {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the log does not answer: %w; is interrex up running?", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// followState folds the log from its beginning and goes on until done says so
// or ctx ends.
func followState(ctx context.Context, log events.Log, done func(events.Event, fsm.State) (bool, error)) error {
	s := fsm.Initial()
	err := log.Read(ctx, events.Query{Follow: true}, func(e events.Event) error {
		var err error
		if s, err = fsm.Fold(s, e); err != nil {
			return err
		}
		stop, err := done(e, s)
		if err == nil && stop {
			err = errStop
		}
		return err
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}
