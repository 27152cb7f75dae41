// Package executortest holds the suite that every executors.Runner must pass.
package executortest

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// Suite checks everything that the executors rely on. newRunner is called once
// for each test; the place needs a POSIX shell, mktemp, cat, ls, sleep, kill.
func Suite(t *testing.T, newRunner func(t *testing.T) executors.Runner) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, p place)
	}{
		{"exit codes", exitCodes},
		{"a signal is named", endedBySignal},
		{"stdout and stderr are told apart", bothOutputs},
		{"the tail is kept", tailKept},
		{"stdin", stdin},
		{"a program may ignore stdin", stdinIgnored},
		{"environment", environment},
		{"directory", directory},
		{"time-out ends grandchildren", timeout},
		{"cancellation ends grandchildren", cancellation},
		{"a context that is over starts nothing", overBefore},
		{"arguments reach no shell", arguments},
		{"lines are streamed", streaming},
		{"a missing program is named", missingProgram},
		{"a daemon left behind does not hold the caller", daemonLeft},
		{"write and read", writeAndRead},
		{"a write is atomic", writeIsAtomic},
		{"a write that fails leaves the old file", writeFails},
		{"remove", remove},
		{"rename", rename},
		{"stat", stat},
		{"odd names", oddNames},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := place{Runner: newRunner(t)}
			p.dir = strings.TrimSpace(p.sh(t, `mktemp -d "${TMPDIR:-/tmp}/ixXXXXXX"`))
			t.Cleanup(func() {
				_, _ = p.Run(context.Background(), executors.Command{Path: "rm", Args: []string{"-rf", p.dir}, Timeout: 10 * time.Second})
			})
			c.test(t, p)
		})
	}
}

// place is a Runner with a directory of its own.
type place struct {
	executors.Runner
	dir string
}

func (p place) sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := p.Run(t.Context(), shell(script, args...))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return string(out.Stdout)
}

func shell(script string, args ...string) executors.Command {
	return executors.Command{Path: "sh", Args: append([]string{"-c", script, "sh"}, args...), Timeout: 10 * time.Second}
}

func exitCodes(t *testing.T, p place) {
	for _, code := range []int{0, 1, 3, 255} {
		out, err := p.Run(t.Context(), shell(`echo complaint >&2; exit $1`, itoa(code)))
		if out.ExitCode != code {
			t.Errorf("exit code %d, expected %d", out.ExitCode, code)
		}
		if code == 0 {
			if err != nil {
				t.Errorf("exit code 0 gave the error %v", err)
			}
			continue
		}
		var exit *executors.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("exit code %d gave %v, expected an *ExitError", code, err)
		}
		if exit.Code != code || !strings.Contains(exit.Stderr, "complaint") || !strings.Contains(err.Error(), "complaint") {
			t.Errorf("exit code %d gave %+v, expected its code and its stderr", code, exit)
		}
	}
}

func endedBySignal(t *testing.T, p place) {
	out, err := p.Run(t.Context(), shell(`kill -9 $$`))
	var exit *executors.ExitError
	if !errors.As(err, &exit) || exit.Signal == "" || exit.Code != -1 || out.ExitCode != -1 {
		t.Fatalf("a program that SIGKILL ended gave %v and exit code %d, expected an *ExitError that names the signal, and -1", err, out.ExitCode)
	}
}

func bothOutputs(t *testing.T, p place) {
	out, err := p.Run(t.Context(), shell(`printf out; printf err >&2`))
	if err != nil || string(out.Stdout) != "out" || string(out.Stderr) != "err" || out.Took <= 0 {
		t.Fatalf("got %q, %q, %s, %v; expected out, err, a duration", out.Stdout, out.Stderr, out.Took, err)
	}
}

func tailKept(t *testing.T, p place) {
	c := shell(`i=0; while [ $i -lt 5000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; printf end; printf end >&2`)
	c.Keep = 100
	out, err := p.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for name, kept := range map[string][]byte{"stdout": out.Stdout, "stderr": out.Stderr} {
		if len(kept) != 100 || !strings.HasSuffix(string(kept), " 4999\nend") {
			t.Errorf("%s: kept %d bytes %q, expected exactly the last 100", name, len(kept), kept)
		}
	}
}

func stdin(t *testing.T, p place) {
	big := []byte(strings.Repeat("0123456789abcdef", 16<<10)) // more than a pipe holds
	out, err := p.Run(t.Context(), executors.Command{Path: "cat", Stdin: big, Keep: len(big), Timeout: 10 * time.Second})
	if err != nil || string(out.Stdout) != string(big) {
		t.Fatalf("got %d bytes back, %v; expected the %d that were sent", len(out.Stdout), err, len(big))
	}
	out, err = p.Run(t.Context(), executors.Command{Path: "cat", Timeout: 10 * time.Second})
	if err != nil || len(out.Stdout) != 0 {
		t.Fatalf("without Stdin: %q, %v; expected an empty one", out.Stdout, err)
	}
}

func stdinIgnored(t *testing.T, p place) {
	c := shell(`exit 0`)
	c.Stdin = make([]byte, 1<<20)
	if _, err := p.Run(t.Context(), c); err != nil {
		t.Fatalf("a program that does not read its stdin gave %v", err)
	}
}

func environment(t *testing.T, p place) {
	c := shell(`printf '%s|%s' "$IX_A" "${PATH:+kept}"`)
	value := "a b=\"c\" $(id)\n'x'"
	c.Env = []string{"IX_A=first", "IX_A=" + value}
	out, err := p.Run(t.Context(), c)
	if err != nil || string(out.Stdout) != value+"|kept" {
		t.Fatalf("got %q, %v; expected the value %q, the later of two, beside the runner's own PATH", out.Stdout, err, value)
	}
}

func directory(t *testing.T, p place) {
	c := shell(`pwd -P`)
	real := strings.TrimSpace(p.sh(t, `cd "$1" && pwd -P`, p.dir))
	c.Dir = p.dir
	out, err := p.Run(t.Context(), c)
	if err != nil || strings.TrimSpace(string(out.Stdout)) != real {
		t.Fatalf("got %q, %v; expected %q", out.Stdout, err, real)
	}
	c.Dir = path.Join(p.dir, "absent")
	if _, err = p.Run(t.Context(), c); err == nil {
		t.Fatal("a directory that does not exist gave no error")
	}
}

func missingProgram(t *testing.T, p place) {
	for _, name := range []string{"interrex-no-such-program", path.Join(p.dir, "no-such-program")} {
		_, err := p.Run(t.Context(), executors.Command{Path: name, Timeout: 10 * time.Second})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, expected an error that names %s", err, name)
		}
	}
}

func arguments(t *testing.T, p place) {
	for _, arg := range odd {
		out, err := p.Run(t.Context(), executors.Command{Path: "printf", Args: []string{"%s", arg}, Timeout: 10 * time.Second})
		if err != nil || string(out.Stdout) != arg {
			t.Errorf("the argument %q arrived as %q, %v", arg, out.Stdout, err)
		}
	}
}

// odd are arguments and names that a careless runner hands to a shell.
var odd = []string{
	"plain", "two words", "  spaces  ", "'single'", `"double"`, `back\slash`, "$(id)", "`id`", "$HOME", "a;b", "a&b", "a|b", "*",
	"-n", "--help", "~", "line\nbreak", "tab\there", "ümlaut", "!x", "{a,b}", "#c",
}

func oddNames(t *testing.T, p place) {
	for _, name := range odd {
		file := path.Join(p.dir, name)
		if err := p.WriteFile(t.Context(), file, []byte(name), 0o600); err != nil {
			t.Errorf("write %q: %v", name, err)
			continue
		}
		if b, err := p.ReadFile(t.Context(), file); err != nil || string(b) != name {
			t.Errorf("read %q: %q, %v", name, b, err)
		}
		if err := p.Rename(t.Context(), file, file+" 2"); err != nil {
			t.Errorf("rename %q: %v", name, err)
		}
		if err := p.Remove(t.Context(), file+" 2"); err != nil {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if left := p.sh(t, `ls -A "$1"`, p.dir); left != "" {
		t.Errorf("left behind: %q", left)
	}
}

func stat(t *testing.T, p place) {
	info, err := p.Stat(t.Context(), p.dir)
	if err != nil || !info.IsDir() {
		t.Fatalf("stat of a directory: %v, %v", info, err)
	}
	if _, err := p.Stat(t.Context(), path.Join(p.dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("stat of an absent file gave %v, expected fs.ErrNotExist", err)
	}
}
