package remote

import (
	"context"
	"io"
	"sync/atomic"
	"time"
)

const (
	// quiet is how long no output may come after a program has ended; a daemon
	// that it left behind may hold the streams for ever.
	quiet = 500 * time.Millisecond
	// drainMost bounds the wait for one that never stops printing.
	drainMost = time.Minute
)

// Drain waits for the rest of a program's output once it has ended: it may be
// long on its way. The zero value is ready, for one program.
type Drain struct {
	flowed, busy atomic.Int64 // bytes, and writers at work
}

// Through is w, watched.
func (d *Drain) Through(w io.Writer) io.Writer { return flow{w, d} }

type flow struct {
	to io.Writer
	d  *Drain
}

func (f flow) Write(b []byte) (int, error) {
	f.d.busy.Add(1)
	defer f.d.busy.Add(-1)
	f.d.flowed.Add(int64(len(b)))
	return f.to.Write(b)
}

// Wait returns when read is closed, or when nothing more has come for half a
// second and alive, asked after that, has found the other side there: then a
// daemon holds the streams and is silent. One that never stops printing is given
// a minute. It returns alive's error, and ctx's.
func (d *Drain) Wait(ctx context.Context, read <-chan struct{}, alive func() error) error {
	limit := time.NewTimer(drainMost)
	defer limit.Stop()
	for {
		before := d.flowed.Load()
		asked := make(chan error, 1)
		ask := time.AfterFunc(quiet, func() { asked <- alive() })
		select {
		case <-read:
			ask.Stop()
			return nil
		case <-limit.C:
			ask.Stop()
			return nil
		case <-ctx.Done():
			ask.Stop()
			return context.Cause(ctx)
		case err := <-asked:
			if err != nil {
				return err
			}
		}
		if d.busy.Load() == 0 && d.flowed.Load() == before {
			return nil
		}
	}
}
