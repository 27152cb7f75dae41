package scenarios

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// Story is a scenario file: what it tells, and blocks of steps with what each
// is expected to lead to. The format is that of cockroachdb/datadriven: steps,
// a line ----, the expected output up to an empty line.
type Story struct {
	Name   string
	About  string // the comment at its head
	Blocks []Block
}

// Block is some steps and what follows from them.
type Block struct {
	Line  int // of the first step, from 1
	Steps string
	Want  string
}

// ReadStory reads a scenario file; name is for errors. A block without ---- and
// a file without steps are errors.
func ReadStory(name string, r io.Reader) (Story, error) {
	s := Story{Name: name}
	var b *Block
	expecting := false
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for n := 1; scan.Scan(); n++ {
		line := scan.Text()
		switch {
		case expecting && strings.TrimSpace(line) == "":
			s.Blocks = append(s.Blocks, *b)
			b, expecting = nil, false
		case expecting:
			b.Want += line + "\n"
		case b != nil && line == "----":
			expecting = true
		case b != nil:
			b.Steps += line + "\n"
		case strings.HasPrefix(line, "#"):
			if len(s.Blocks) == 0 {
				s.About += strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ") + "\n"
			}
		case strings.TrimSpace(line) != "":
			b = &Block{Line: n, Steps: line + "\n"}
		}
	}
	if err := scan.Err(); err != nil {
		return Story{}, fmt.Errorf("%s: %w", name, err)
	}
	if expecting {
		s.Blocks = append(s.Blocks, *b)
	} else if b != nil {
		return Story{}, fmt.Errorf("%s:%d: the steps have no ---- after them", name, b.Line)
	}
	if len(s.Blocks) == 0 {
		return Story{}, fmt.Errorf("%s: no steps; expected steps, a line ----, and what follows from them", name)
	}
	return s, nil
}

// Run plays a story and returns its log. The error names the file, the line and
// the first difference from what the story expects, or the step that cannot be
// played; the log up to there is returned with it.
func (s Story) Run() ([]events.Event, error) {
	p := NewPlayer()
	for _, b := range s.Blocks {
		got, err := p.Play(b.Steps)
		if err != nil {
			return p.Log(), fmt.Errorf("%s: block at line %d: %w", s.Name, b.Line, err)
		}
		if got != b.Want {
			return p.Log(), fmt.Errorf("%s:%d: %s", s.Name, b.Line, difference(b.Want, got))
		}
	}
	return p.Log(), nil
}

// difference shows the first line in which two outputs differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; i < max(len(w), len(g)); i++ {
		a, b := at(w, i), at(g, i)
		if a != b {
			return fmt.Sprintf("line %d of what follows differs\n  expected: %s\n  got:      %s", i+1, a, b)
		}
	}
	return "no difference"
}

func at(lines []string, i int) string {
	if i >= len(lines) || lines[i] == "" && i == len(lines)-1 {
		return "(nothing more)"
	}
	return lines[i]
}
