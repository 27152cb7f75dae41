package executors

import (
	"fmt"
	"strings"
)

// ExitError says that a program ran and failed.
type ExitError struct {
	Program string // as it was called
	Code    int    // exit code, -1 when a signal ended it
	Signal  string // name of that signal, else empty
	Stderr  string // the tail of what it wrote there; may be empty
}

// stderrShown bounds how much of a program's stderr an error's text repeats;
// the field holds everything that was kept.
const stderrShown = 1024

// Error names the program, how it ended, and the end of what it complained of.
func (e *ExitError) Error() string {
	how := fmt.Sprintf("failed with exit code %d", e.Code)
	if e.Signal != "" {
		how = "was ended by signal " + e.Signal
	}
	said := strings.TrimSpace(e.Stderr)
	if said == "" {
		return e.Program + " " + how
	}
	if len(said) > stderrShown {
		said = "…" + strings.ToValidUTF8(said[len(said)-stderrShown:], "")
	}
	return e.Program + " " + how + ": " + said
}
