package local

import (
	"bytes"
	"io"
	"sync"
)

// keepDefault and lineMax bound what one command's output may cost in memory.
const (
	keepDefault = 64 << 10
	lineMax     = 64 << 10 // a longer line is delivered in parts
)

// input is a Reader of a command's stdin; a program that does not read it to
// the end is no error.
type input struct{ data []byte }

func (in *input) Read(p []byte) (int, error) {
	if len(in.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, in.data)
	in.data = in.data[n:]
	return n, nil
}

// capture collects both outputs of one command.
type capture struct {
	mu             sync.Mutex // both streams call line
	line           func(string)
	closed         bool // a straggler may write after Run has returned
	stdout, stderr stream
}

// stream keeps the tail of one output and cuts it into lines.
type stream struct {
	all  *capture
	keep int
	buf  []byte
	part []byte // of a line whose end has not come yet
}

func newCapture(keep int, line func(string)) *capture {
	if keep <= 0 {
		keep = keepDefault
	}
	c := &capture{line: line}
	c.stdout = stream{all: c, keep: keep}
	c.stderr = stream{all: c, keep: keep}
	return c
}

// finish delivers the last lines, which need not end in a newline.
func (c *capture) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, s := range []*stream{&c.stdout, &c.stderr} {
		if c.line != nil && len(s.part) > 0 {
			c.line(string(s.part))
		}
	}
}

// Write implements io.Writer; it never fails, so that a program is never ended
// by a full buffer.
func (s *stream) Write(p []byte) (int, error) {
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

func (s *stream) remember(p []byte) {
	if len(p) > s.keep {
		p = p[len(p)-s.keep:]
	}
	if len(s.buf)+len(p) > 2*s.keep {
		n := copy(s.buf, s.buf[len(s.buf)-(s.keep-len(p)):])
		s.buf = s.buf[:n]
	}
	s.buf = append(s.buf, p...)
}

func (s *stream) cut(p []byte) {
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

// tail returns the last bytes kept; nothing is written any more then.
func (s *stream) tail() []byte {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if len(s.buf) > s.keep {
		return s.buf[len(s.buf)-s.keep:]
	}
	return s.buf
}
