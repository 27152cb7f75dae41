package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/remote"
)

// newWords makes what a shell might take for more than a word. A generator is for
// one test: rapid's are not made for several goroutines.
func newWords() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOf(rapid.RuneFrom([]rune("'\"\\$`()*?[]{}~!#&;|<>= \t\n\r-a\x01\x7f"))),
		rapid.SampledFrom([]string{"", "-n", "--", "$(id)", "`id`", "'", "''", `\`, `\'`, "'\\''", "\n", "\n\n", "a\n", "\x81\x82\x88", "\xff\xfe"}),
		rapid.Map(rapid.SliceOf(rapid.ByteRange(1, 255)), func(b []byte) string { return string(b) }),
	)
}

// TestQuoting hands words to every shell there is, and has them come back.
func TestQuoting(t *testing.T) {
	t.Parallel()
	for _, shell := range [][]string{{"sh"}, {"dash"}, {"bash", "--posix"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			t.Logf("NOT TESTED with %s: %v", shell[0], err)
			continue
		}
		t.Run(shell[0], func(t *testing.T) {
			words := newWords()
			rapid.Check(t, func(t *rapid.T) {
				given := rapid.SliceOfN(words, 1, 6).Draw(t, "words")
				script := "{\nexec printf '%s\\000'"
				for _, w := range given {
					script += " " + remote.Quote(w)
				}
				cmd := exec.Command(shell[0], append(shell[1:], "-c", `eval "$(cat)"`)...)
				cmd.Stdin = strings.NewReader(script + "\n}")
				out, err := cmd.Output()
				if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); err != nil || !slices.Equal(got, given) {
					t.Fatalf("%q arrived as %q, %v", given, got, err)
				}
			})
		})
	}
}

// TestAnyCommand: whatever its arguments, environment, input and names of files
// are made of, a command gets them.
func TestAnyCommand(t *testing.T) {
	t.Parallel()
	r := remote.New("here", here{program: []string{"sh"}})
	dir, words := t.TempDir(), newWords()
	rapid.Check(t, func(t *rapid.T) {
		arg, value := words.Draw(t, "argument"), words.Draw(t, "value")
		input := rapid.SliceOf(rapid.Byte()).Draw(t, "input")
		out, err := r.Run(context.Background(), executors.Command{
			Path: "sh", Args: []string{"-c", `printf '%s\000%s\000' "$1" "$V"; exec cat`, "sh", arg}, Env: []string{"V=" + value}, Stdin: input, Timeout: time.Minute,
		})
		if want := arg + "\x00" + value + "\x00" + string(input); err != nil || string(out.Stdout) != want {
			t.Fatalf("got %q, %v; expected %q", out.Stdout, err, want)
		}
		name := strings.ReplaceAll(words.Draw(t, "name"), "/", "")
		if name == "" || name == "." || name == ".." || len(name) > 200 {
			return
		}
		file := filepath.Join(dir, name)
		if err := r.WriteFile(context.Background(), file, input, 0o600); err != nil {
			t.Fatalf("write %q: %v", file, err)
		}
		if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, input) {
			t.Fatalf("%q holds %q, %v; expected %q", file, b, err, input)
		}
		if err := r.Remove(context.Background(), file); err != nil {
			t.Fatalf("remove %q: %v", file, err)
		}
	})
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestScriptCutShort sends every beginning of a script, as a connection does
// that is lost: only the whole one may do anything.
func TestScriptCutShort(t *testing.T) {
	made := filepath.Join(t.TempDir(), "made")
	whole, err := remote.Packed(executors.Command{Path: "touch", Args: []string{made}, Dir: "/", Env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(sent []byte) {
		cmd := exec.Command("sh", "-c", remote.Bootstrap)
		cmd.Stdin = io.MultiReader(bytes.NewReader(sent)) // a pipe, as it is there
		_ = cmd.Run()
	}
	for n := 0; n < len(whole); n += 1 + n%7 {
		run(whole[:n])
	}
	run(whole)
	run(append(slices.Clone(whole), "g"...))
	run(append(slices.Clone(whole), "no\n"...))
	if _, err := os.Stat(made); err == nil {
		t.Fatal("a script that was cut short has started the program")
	}
	run(append(slices.Clone(whole), "go\n"...))
	if _, err := os.Stat(made); err != nil {
		t.Fatalf("the whole script did not: %v", err)
	}
}

func TestWhatNoCommandCanBeGiven(t *testing.T) {
	r := remote.New("here", none{t})
	for _, c := range []executors.Command{
		{Path: "a\x00"}, {Path: "true", Args: []string{"\x00"}}, {Path: "true", Dir: "\x00"}, {Path: "true", Env: []string{"A=\x00"}},
		{Path: "true", Env: []string{"A"}}, {Path: "true", Env: []string{"=b"}}, {Path: "true", Env: []string{"A;id=b"}}, {Path: "true", Env: []string{"1A=b"}},
		{Path: "true", Env: []string{"UID=0"}},
	} {
		if _, err := r.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "NUL") && !strings.Contains(err.Error(), "NAME=VALUE") && !strings.Contains(err.Error(), "UID") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := r.WriteFile(t.Context(), "\x00", nil, 0o600); err == nil || !strings.Contains(err.Error(), "NUL") {
		t.Errorf("a name with a NUL byte: %v", err)
	}
}

// none is a shell that nothing may be sent to.
type none struct{ t *testing.T }

func (n none) Exec(context.Context, string, io.Reader, io.Writer, io.Writer) (remote.Status, error) {
	n.t.Error("something was sent")
	return remote.Status{}, errors.New("there is no shell")
}
