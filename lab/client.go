package lab

import (
	"context"
	"fmt"
	"time"
)

// Defaults of ClientOptions: the client that all peers were measured with.
const (
	WriteEvery   = 10 * time.Millisecond
	WriteTimeout = 500 * time.Millisecond
)

// reconnectEvery is the pause between two rounds over all hosts: short, so that
// the client measures the cluster and not itself, but not none, so that it does
// not take the processor from the server that it waits for.
const reconnectEvery = 5 * time.Millisecond

// ClientOptions says what a client does.
type ClientOptions struct {
	DSN     string        // of all nodes, with target_session_attrs=read-write
	Run     string        // names the run's rows; made unique when empty
	Every   time.Duration // between two writes; WriteEvery when 0
	Timeout time.Duration // of one write, and of connecting to one host; WriteTimeout when 0
}

func (o ClientOptions) filled() ClientOptions {
	if o.Every <= 0 {
		o.Every = WriteEvery
	}
	if o.Timeout <= 0 {
		o.Timeout = WriteTimeout
	}
	if o.Run == "" {
		o.Run = time.Now().UTC().Format("20060102T150405.000000000")
	}
	return o
}

// Client is the measuring client: one session that writes one row at a time and
// records what was acknowledged, when and by which server. When its session
// breaks it connects again at once.
type Client struct {
	*journal
	options ClientOptions
	stop    context.CancelFunc
	done    chan struct{}
}

// StartClient makes the client's table, as soon as a server takes it, and begins
// to write. It returns at the first acknowledged write, or with ctx's error.
// Only Stop ends the client.
func StartClient(ctx context.Context, o ClientOptions) (*Client, error) {
	o = o.filled()
	if err := MakeTable(ctx, o.DSN); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{journal: newJournal(o.Run), options: o, stop: stop, done: make(chan struct{})}
	go c.write(running)
	if err := c.await(ctx, func(acks []Ack) bool { return len(acks) > 0 }); err != nil {
		c.Stop()
		return nil, fmt.Errorf("lab: no write was acknowledged: %w; errors so far: %v", err, c.Errors())
	}
	return c, nil
}

// MakeTable makes the measuring clients' table where it is not there.
func MakeTable(ctx context.Context, dsn string) error {
	err := retry(ctx, func() error {
		c, err := open(ctx, dsn, WriteTimeout, "lab-client")
		if err != nil {
			return err
		}
		defer c.discard()
		_, err = c.Exec(ctx, createTable)
		return err
	})
	if err != nil {
		return fmt.Errorf("lab: make the table %s: %w", Table, err)
	}
	return nil
}

// Stop ends the client and waits until it has. Its records stay readable.
func (c *Client) Stop() {
	c.stop()
	<-c.done
}

func (c *Client) write(ctx context.Context) {
	defer close(c.done)
	var s *session
	defer func() {
		if s != nil {
			s.discard()
		}
	}()
	tick := time.NewTicker(c.options.Every)
	defer tick.Stop()
	for ctx.Err() == nil {
		if s == nil {
			s = c.reconnect(ctx)
			continue
		}
		writing, cancel := context.WithTimeout(ctx, c.options.Timeout)
		err := insert(writing, s, c.journal)
		cancel()
		if err != nil && ctx.Err() == nil {
			c.failed(err)
			// A server that answers with an error, for example because it has
			// become read-only, is left like one that does not answer.
			s.discard()
			s = nil
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// reconnect makes one round over the hosts.
func (c *Client) reconnect(ctx context.Context) *session {
	s, err := open(ctx, c.options.DSN, c.options.Timeout, "lab-client")
	if err == nil {
		return s
	}
	if ctx.Err() == nil {
		c.failed(err)
	}
	pause := time.NewTimer(reconnectEvery)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
	}
	return nil
}

// Outage returns how long nothing was written after a fault: to the first write
// acknowledged on a connection opened after it, or by another server than the
// one that had acknowledged the last write before it. ok is false as long as
// there is none, or when nothing was acknowledged before the fault.
func (c *Client) Outage(fault time.Time) (outage time.Duration, ok bool) {
	a, ok := firstAfter(c.Acks(), fault)
	return a.At.Sub(fault), ok
}

// AwaitOutage waits until Outage is known.
func (c *Client) AwaitOutage(ctx context.Context, fault time.Time) (time.Duration, error) {
	var first Ack
	err := c.await(ctx, func(acks []Ack) (ok bool) {
		first, ok = firstAfter(acks, fault)
		return ok
	})
	if err != nil {
		return 0, fmt.Errorf("lab: no write on a new connection since the fault: %w; errors so far: %v", err, c.Errors())
	}
	return first.At.Sub(fault), nil
}

// firstAfter finds the write that ends an outage.
func firstAfter(acks []Ack, fault time.Time) (Ack, bool) {
	old := 0
	for _, a := range acks {
		if !a.At.After(fault) {
			old = a.Port
		} else if old != 0 && (a.Opened.After(fault) || a.Port != old) {
			return a, true
		}
	}
	return Ack{}, false
}

// AwaitPort waits for a write that the server on a port acknowledged after a
// moment, and returns it.
func (c *Client) AwaitPort(ctx context.Context, after time.Time, port int) (Ack, error) {
	var found Ack
	err := c.await(ctx, func(acks []Ack) bool {
		for _, a := range acks {
			if a.At.After(after) && a.Port == port {
				found = a
				return true
			}
		}
		return false
	})
	if err != nil {
		return Ack{}, fmt.Errorf("lab: no write acknowledged on port %d: %w; errors so far: %v", port, err, c.Errors())
	}
	return found, nil
}

// Pause returns the longest time between two acknowledged writes one after the
// other, the second of which came after from, and the writes on both sides of
// it; nothing when there are fewer than two. It is what a planned switchover is
// measured by.
func (c *Client) Pause(from time.Time) (pause time.Duration, before, after Ack) {
	acks := c.Acks()
	for i := 1; i < len(acks); i++ {
		if d := acks[i].At.Sub(acks[i-1].At); acks[i].At.After(from) && d > pause {
			pause, before, after = d, acks[i-1], acks[i]
		}
	}
	return pause, before, after
}

// Verify reads the client's rows back from the primary and returns which of the
// acknowledged ones are missing. It waits for a primary until ctx ends.
func (c *Client) Verify(ctx context.Context) (Verification, error) {
	return c.verify(ctx, c.options.DSN)
}
