//go:build linux

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// opsAnswer is what a command said.
type opsAnswer struct {
	code           int
	stdout, stderr string
}

func opsRun(t *testing.T, env []string, args ...string) opsAnswer {
	t.Helper()
	cmd := opsCommand(env, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(2*opsWait, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return opsAnswer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// run runs a verb on the cluster.
func (c *opsCluster) run(args ...string) opsAnswer {
	c.t.Helper()
	return opsRun(c.t, nil, append(args, "--dir", c.dir)...)
}

// must runs a verb that has to succeed and returns what it printed.
func (c *opsCluster) must(args ...string) string {
	c.t.Helper()
	a := c.run(args...)
	if a.code != 0 {
		c.t.Fatalf("interrex %s: exit code %d, expected 0\n%s%s", strings.Join(args, " "), a.code, a.stdout, a.stderr)
	}
	return a.stdout
}

// says checks exit code and that every word stands in what was said.
func (a opsAnswer) says(t *testing.T, what string, code int, words ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("%s: exit code %d, expected %d; it said:\n%s%s", what, a.code, code, a.stdout, a.stderr)
	}
	for _, w := range words {
		if !strings.Contains(a.stdout+a.stderr, w) {
			t.Errorf("%s: %q is missing in:\n%s%s", what, w, a.stdout, a.stderr)
		}
	}
}

// refused runs a verb that a rule must refuse, with every word in the answer.
func (c *opsCluster) refused(words []string, args ...string) {
	c.t.Helper()
	seq := c.now().Seq
	c.run(args...).says(c.t, "interrex "+strings.Join(args, " "), 3, words...)
	for _, e := range c.since(seq) {
		if d, ok := e.Data.(events.Decided); ok && len(d.Orders) > 0 {
			c.t.Errorf("interrex %s was refused, but decision %d has orders", strings.Join(args, " "), e.Seq)
		}
	}
}

// opsPoll waits for what the log does not tell.
func opsPoll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(opsWait); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s did not come within %s", what, opsWait)
		}
	}
}

// opsProcesses lists processes whose command or working directory lies in dir.
func opsProcesses(dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err == nil && len(line) > 0 && (bytes.Contains(line, []byte(dir+"\x00")) || bytes.Contains(line, []byte(dir+"/")) || strings.HasPrefix(cwd, dir+"/")) {
			out = append(out, pid)
		}
	}
	return out
}
