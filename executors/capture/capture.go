// Package capture keeps what a command prints, within bounds: the tail of each
// output, and its lines as they appear. Every Runner uses it, so that they do
// not differ in this.
package capture

import (
	"bytes"
	"sync"
)

// keepDefault and lineMax bound what one command's output may cost in memory.
const (
	keepDefault = 64 << 10
	lineMax     = 64 << 10 // a longer line is delivered in parts
)

// Capture collects both outputs of one command. They may be written at once.
type Capture struct {
	Stdout, Stderr Stream

	mu     sync.Mutex // both streams call line
	line   func(string)
	closed bool // a straggler may write after Run has returned
}

// Stream keeps the tail of one output and cuts it into lines.
type Stream struct {
	all  *Capture
	keep int
	buf  []byte
	part []byte // of a line whose end has not come yet
}

// New keeps the last keep bytes of each output, 64 KiB when it is 0. Line may be
// nil; it is never called twice at once, and not after Finish has returned. A
// line longer than 64 KiB is delivered in parts.
func New(keep int, line func(string)) *Capture {
	if keep <= 0 {
		keep = keepDefault
	}
	c := &Capture{line: line}
	c.Stdout = Stream{all: c, keep: keep}
	c.Stderr = Stream{all: c, keep: keep}
	return c
}

// Finish delivers the last lines, which need not end in a newline. What is
// written afterwards is dropped.
func (c *Capture) Finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, s := range []*Stream{&c.Stdout, &c.Stderr} {
		if c.line != nil && len(s.part) > 0 {
			c.line(string(s.part))
		}
	}
}

// Write implements io.Writer; it never fails, so that a program is never ended
// by a full buffer.
func (s *Stream) Write(p []byte) (int, error) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if s.all.closed {
		return len(p), nil
	}
	s.remember(p)
	if s.all.line != nil {
		s.cut(p)
	}
	return len(p), nil
}

func (s *Stream) remember(p []byte) {
	if len(p) > s.keep {
		p = p[len(p)-s.keep:]
	}
	if len(s.buf)+len(p) > 2*s.keep {
		n := copy(s.buf, s.buf[len(s.buf)-(s.keep-len(p)):])
		s.buf = s.buf[:n]
	}
	s.buf = append(s.buf, p...)
}

func (s *Stream) cut(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part = append(s.part, p...)
			if len(s.part) >= lineMax {
				s.all.line(string(s.part))
				s.part = s.part[:0]
			}
			return
		}
		s.part = append(s.part, p[:i]...)
		s.all.line(string(s.part))
		s.part = s.part[:0]
		p = p[i+1:]
	}
}

// Tail returns the last bytes kept. Call it after Finish.
func (s *Stream) Tail() []byte {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if len(s.buf) > s.keep {
		return s.buf[len(s.buf)-s.keep:]
	}
	return s.buf
}
