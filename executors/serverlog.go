package executors

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// logTailMax bounds how much of a server's log an error's text repeats.
const (
	logTailMax   = 4 << 10
	logTailLines = 10
)

// logLength is 0 where there is no log yet.
func logLength(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail returns a clause with the last lines that the log has got since it
// had the size given.
func logTail(name string, since int64) string {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Sprintf("its log cannot be read: %v", err)
	}
	defer f.Close()
	since = max(since, logLength(name)-logTailMax)
	b, err := io.ReadAll(io.NewSectionReader(f, since, logTailMax))
	if err != nil {
		return fmt.Sprintf("its log cannot be read: %v", err)
	}
	text := strings.TrimSpace(strings.ToValidUTF8(string(b), ""))
	if text == "" {
		return fmt.Sprintf("it wrote nothing to %s", name)
	}
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-logTailLines):]
	return fmt.Sprintf("the last lines of %s:\n%s", name, strings.Join(lines, "\n"))
}
