package ssh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// pool keeps one connection, and further ones while they are needed.
type pool struct {
	o Options

	mu     sync.Mutex
	links  []*link
	trying *attempt
	closed bool
}

// attempt is the making of a connection, which several callers may wait for.
type attempt struct {
	done  chan struct{}
	began time.Time
	err   error // before done is closed
}

var errClosed = errors.New("the runner is closed")

// get returns a connection with room for one more session, which is counted.
func (p *pool) get(ctx context.Context) (*link, error) {
	for {
		l, a, err := p.pick()
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-a.done:
			if a.err != nil {
				return nil, a.err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: no connection after %s: %w", p.o.Host, time.Since(a.began).Round(10*time.Millisecond), context.Cause(ctx))
		}
	}
}

func (p *pool) pick() (*link, *attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errClosed
	}
	p.tidy()
	for _, l := range p.links {
		if l.sessions < l.limit {
			l.sessions++
			return l, nil, nil
		}
	}
	if p.trying == nil {
		p.trying = &attempt{done: make(chan struct{}), began: time.Now()}
		go p.try(p.trying)
	}
	return nil, p.trying, nil
}

// try makes a connection for whoever waits; it has its own time, since one
// caller's end is not the others'.
func (p *pool) try(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), p.o.ConnectWithin)
	defer cancel()
	l, err := p.dial(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w (%s)", err, p.o.ConnectWithin)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.closed {
		l.lose(errClosed)
		err = errClosed
	}
	if err == nil {
		p.links = append(p.links, l)
	}
	p.trying, a.err = nil, err
	close(a.done)
}

// dial reads ssh's configuration each time: it may have been put right since.
func (p *pool) dial(ctx context.Context) (*link, error) {
	c, err := readConfig(p.o.Config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", p.o.Host, err)
	}
	way, err := c.route(p.o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", p.o.Host, err)
	}
	return dial(ctx, way)
}

// full notes that the server took no further session; false when it takes none
// at all. The caller's session is not counted any more.
func (p *pool) full(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.sessions--
	l.limit = min(l.limit, l.sessions)
	return l.limit > 0
}

// release gives a session's place back.
func (p *pool) release(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.sessions--
	p.tidy()
}

// tidy forgets lost connections, and closes those beyond the first that are not
// used.
func (p *pool) tidy() {
	kept := p.links[:0]
	for _, l := range p.links {
		switch {
		case l.isLost():
		case l.sessions == 0 && len(kept) > 0:
			l.lose(errors.New("it was not needed any more"))
		default:
			kept = append(kept, l)
		}
	}
	clear(p.links[len(kept):])
	p.links = kept
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, l := range p.links {
		l.lose(errClosed)
	}
	p.links = nil
}
