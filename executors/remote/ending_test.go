package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/remote"
)

// TestWhatWasGivenUpNeverStarts ends commands at every moment of their start: one
// that is said not to have been started never runs, and one that was killed is
// gone.
func TestWhatWasGivenUpNeverStarts(t *testing.T) {
	t.Parallel()
	r := remote.New("here", here{program: []string{"sh"}})
	dir := t.TempDir()
	notStarted, killed := 0, 0
	files := map[string]bool{}
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*200*time.Microsecond)
		file := filepath.Join(dir, fmt.Sprint(i))
		_, err := r.Run(ctx, executors.Command{Path: "sh", Args: []string{"-c", `echo $$ >"$1"; exec sleep 600`, "sh", file}})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, expected the end of the context", err)
		}
		if strings.Contains(err.Error(), "could not be started") {
			notStarted++
			files[file] = true
		} else {
			killed++
		}
	}
	if notStarted == 0 || killed == 0 {
		t.Fatalf("%d were not started and %d killed: the test has missed one of the two", notStarted, killed)
	}
	t.Logf("%d were not started, %d killed", notStarted, killed)
	// Whoever would start late does so before a command that begins now ends.
	if _, err := r.Run(t.Context(), executors.Command{Path: "sleep", Args: []string{"0.3"}}); err != nil {
		t.Fatal(err)
	}
	for file := range files {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s was started after it had been given up", file)
		}
	}
	left, _ := os.ReadDir(dir)
	for _, f := range left {
		pid, _ := os.ReadFile(filepath.Join(dir, f.Name()))
		if b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat"); err == nil && !strings.Contains(string(b), ") Z") && len(pid) > 0 {
			t.Errorf("process %s was killed and runs on", pid)
		}
	}
}

// TestLoginThatTalks: what a login's profile prints is not the command's output.
func TestLoginThatTalks(t *testing.T) {
	r := remote.New("here", here{program: []string{"sh", "-c", `echo welcome; printf 'no newline'; echo hm >&2; exec sh "$@"`, "sh"}})
	out, err := r.Run(t.Context(), executors.Command{Path: "echo", Args: []string{"hello"}})
	if err != nil || string(out.Stdout) != "hello\n" {
		t.Errorf("got %q, %v; expected hello", out.Stdout, err)
	}
	if err := r.WriteFile(t.Context(), filepath.Join(t.TempDir(), "f"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	refuses := remote.New("here", here{program: []string{"sh", "-c", `echo This account is currently not available.; exit 1`, "sh"}})
	if _, err := refuses.Run(t.Context(), executors.Command{Path: "true"}); err == nil || !strings.Contains(err.Error(), "not available") || !strings.Contains(err.Error(), "POSIX shell") {
		t.Errorf("a login without a shell: %v", err)
	}
}

// TestLostShell: a shell that is lost says nothing of the program.
func TestLostShell(t *testing.T) {
	r := remote.New("here", lost{here{program: []string{"sh"}}})
	_, err := r.Run(t.Context(), executors.Command{Path: "true"})
	var exit *executors.ExitError
	if err == nil || errors.As(err, &exit) || !errors.Is(err, errLost) || !strings.Contains(err.Error(), "not known") {
		t.Errorf("got %v, expected that it is not known", err)
	}
}

var errLost = errors.New("the line is dead")

type lost struct{ here }

func (l lost) Exec(ctx context.Context, script string, in io.Reader, out, errs io.Writer) (remote.Status, error) {
	_, _ = l.here.Exec(ctx, script, in, out, errs)
	return remote.Status{}, errLost
}

// TestKillBeforeTheGroupIsMade: where setsid is needed, a process tells its
// number a moment before it has a group. Its number used again by another
// process, it is let alone.
func TestKillBeforeTheGroupIsMade(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	pid := strconv.Itoa(cmd.Process.Pid)
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	began := strings.Fields(string(stat))[21]
	kill := func(began string) {
		t.Helper()
		out, err := exec.Command("sh", "-c", remote.KillScript("marker", pid, began)).CombinedOutput()
		if err != nil || string(out) != "marker gone\n" {
			t.Fatalf("it says %q, %v; expected gone", out, err)
		}
	}
	kill("1" + began)
	select {
	case err := <-ended:
		t.Fatalf("another process of that number was killed: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	kill(began)
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it runs on")
	}
}
