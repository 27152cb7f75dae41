package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"sync"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/capture"
)

// process is one command there. It is also the reader of its shell's input: the
// script, then our word that it may go on, then the command's own input. That
// word is given when the process has told its number, so that no program runs
// that could not be ended.
type process struct {
	marker string // begins the line by which the script reports; nobody else can know it
	out    *capture.Capture
	script io.Reader
	stdin  io.Reader
	answer chan struct{} // closed when it has reported, or never will be listened to

	mu       sync.Mutex
	closed   bool  // no program may be started any more
	group    group // when it has reported
	refusal  error
	reported bool
	head     []byte // of its output, until it has reported
}

// group is a process group, and when its leader began: numbers are used again.
type group struct{ id, began string }

func newProcess(c executors.Command) (*process, error) {
	p := &process{marker: newMarker(), out: capture.New(c.Keep, c.Line), answer: make(chan struct{})}
	script, err := startScript(p.marker, c)
	if err != nil {
		return nil, err
	}
	p.script = bytes.NewReader(packed(script))
	p.stdin = io.MultiReader(strings.NewReader("go\n"), bytes.NewReader(c.Stdin))
	return p, nil
}

func newMarker() string { return "interrex-" + rand.Text() }

// Read implements io.Reader for the shell's input.
func (p *process) Read(b []byte) (int, error) {
	if n, err := p.script.Read(b); !errors.Is(err, io.EOF) {
		return n, err
	}
	<-p.answer
	if !p.started() {
		return 0, io.EOF
	}
	return p.stdin.Read(b)
}

// forbid makes sure that the program is not started any more. Runs says that it
// was already.
func (p *process) forbid() (g group, runs bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close1()
	return p.group, p.group.id != ""
}

func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close1()
}

func (p *process) close1() {
	if !p.closed && !p.reported {
		close(p.answer)
	}
	p.closed = true
}

func (p *process) started() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.group.id != ""
}

func (p *process) refused() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusal
}

// noise is what was printed before the script reported: by the login's profile,
// or by a shell that could not run it.
func (p *process) noise() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.head)
}

// opening is a process as the writer of its shell's standard output.
type opening process

// headMax bounds what a profile may print before the script reports.
const headMax = 64 << 10

// Write takes the script's report out of the output; it never fails.
func (o *opening) Write(b []byte) (int, error) {
	p, n := (*process)(o), len(b)
	p.mu.Lock()
	if !p.reported {
		b = p.report(b)
	}
	p.mu.Unlock()
	if len(b) > 0 {
		_, _ = p.out.Stdout.Write(b)
	}
	return n, nil
}

// report looks for the report and returns what follows it.
func (p *process) report(b []byte) []byte {
	p.head = append(p.head, b...)
	before, line, found := bytes.Cut(p.head, []byte(p.marker))
	if !found {
		if len(p.head) > headMax { // a marker may be cut in two
			p.head = append([]byte(nil), p.head[len(p.head)-headMax/2:]...)
		}
		return nil
	}
	line, rest, found := bytes.Cut(line, []byte("\n"))
	if !found {
		return nil
	}
	if !p.closed {
		p.take(strings.Fields(string(line)))
		close(p.answer)
	}
	p.reported = true
	p.head = before
	return rest
}

// take is called with the words of the report.
func (p *process) take(words []string) {
	switch {
	case len(words) == 3 && words[0] == "go":
		p.group = group{id: words[1], began: words[2]}
	case len(words) == 1 && refusals[words[0]] != nil:
		p.refusal = refusals[words[0]]
	default:
		p.refusal = fmt.Errorf("the script there reported %q", words)
	}
}

// refusals are the reasons that the script may give.
var refusals = map[string]error{
	"unknown":      exec.ErrNotFound,
	"absent":       fmt.Errorf("no such file: %w", fs.ErrNotExist),
	"denied":       fmt.Errorf("not an executable file: %w", fs.ErrPermission),
	"no-directory": fmt.Errorf("its working directory: %w", fs.ErrNotExist),
	"bad-dir":      fmt.Errorf("its working directory cannot be entered: %w", fs.ErrPermission),
	"no-group":     errors.New("the login gives no process group of its own, and there is no setsid to make one"),
	"no-proc":      errors.New("/proc cannot be read there; expected Linux"),
}

// kill ends a process group and verifies it. It has its own time, since the
// command's is over.
func (r *Runner) kill(ctx context.Context, g group) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWithin)
	defer cancel()
	marker := newMarker()
	said, err := r.exec(ctx, marker, killScript(marker, g))
	if err == nil && said != "gone" {
		err = fmt.Errorf("process group %s does not end: %s", g.id, said)
	}
	return err
}
