// Package adopted runs the real binary against real servers that it did not
// make: Debian's clusters, taken over in place.
package adopted

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/internal/debiantest"
)

// binary is interrex, built once, where every user can execute it.
var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "adopted:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "ixbin")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	binary = filepath.Join(dir, "interrex")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/interrex-ha/interrex/cmd/interrex").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("build interrex: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// cluster is what a test takes over: the servers, and interrex's directory.
type cluster struct {
	t     *testing.T
	dir   string
	env   []string
	nodes map[string]debiantest.Cluster
}

// takable makes a pair that a plan has nothing against.
func takable(t *testing.T) *cluster {
	t.Helper()
	primary, standby := debiantest.Pair(t)
	for _, c := range []debiantest.Cluster{primary, standby} {
		writeFile(t, c.Etc("start.conf"), "manual\n")
		writeFile(t, filepath.Join(c.Etc("conf.d"), "interrex_test.conf"), "wal_log_hints = on\n")
		c.Ctl("restart")
	}
	standby.Streams()
	c := newCluster(t, map[string]debiantest.Cluster{"db1": primary, "db2": standby})
	c.env = []string{
		"INTERREX_NODE_0_DATA_DIRECTORY=" + primary.Data(), "INTERREX_NODE_1_DATA_DIRECTORY=" + standby.Data(),
	}
	return c
}

func newCluster(t *testing.T, nodes map[string]debiantest.Cluster) *cluster {
	t.Helper()
	parent, err := os.MkdirTemp("", "ixadopt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: filepath.Join(parent, "state"), nodes: nodes}
	t.Cleanup(func() {
		c.sweep()
		_ = os.RemoveAll(parent)
		for _, n := range nodes {
			left, _ := filepath.Glob(n.Data() + ".*") // what recoveries kept aside
			for _, f := range left {
				_ = os.RemoveAll(f)
			}
		}
	})
	return c
}

// sweep kills what works for our directory and is still there, by its number.
func (c *cluster) sweep() {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.HasPrefix(args, []byte("interrex\x00")) && bytes.Contains(args, []byte(c.dir)) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// command is interrex with its directory and environment.
func (c *cluster) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append(args, "--dir", c.dir)...)
	cmd.Args[0] = "interrex"
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "INTERREX_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

// run runs a command to its end and returns what it printed, and its exit code.
func (c *cluster) run(args ...string) (string, int) {
	c.t.Helper()
	cmd := c.command(args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		c.t.Fatalf("interrex %q: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	out, code := c.run(args...)
	if code != 0 {
		c.t.Fatalf("interrex %q: exit code %d\n%s", args, code, out)
	}
	return out
}

// fails runs a command that has to end with a code, and with some words.
func (c *cluster) fails(code int, words string, args ...string) {
	c.t.Helper()
	out, got := c.run(args...)
	if got != code || !strings.Contains(out, words) {
		c.t.Errorf("interrex %q: exit code %d, want %d and %q in\n%s", args, got, code, words, out)
	}
}

// up is an interrex up that runs.
type up struct {
	c    *cluster
	cmd  *exec.Cmd
	said *said
	done chan struct{}
}

// said collects what a process says.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (c *cluster) up() *up {
	c.t.Helper()
	u := &up{c: c, cmd: c.command("up"), said: &said{}, done: make(chan struct{})}
	u.cmd.Stdout, u.cmd.Stderr = u.said, u.said
	u.cmd.WaitDelay = time.Second // what it leaves behind holds the pipe
	if err := u.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = u.cmd.Wait()
		close(u.done)
	}()
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("interrex up said:\n%s", u.said)
		}
		_ = u.cmd.Process.Kill()
		<-u.done
	})
	return u
}

// stop is Ctrl-C.
func (u *up) stop() {
	u.c.t.Helper()
	if err := u.cmd.Process.Signal(os.Interrupt); err != nil {
		u.c.t.Fatal(err)
	}
	select {
	case <-u.done:
	case <-time.After(60 * time.Second):
		u.c.t.Fatalf("interrex up did not end within 60 s of SIGINT; it said:\n%s", u.said)
	}
	if code := u.cmd.ProcessState.ExitCode(); code != 0 {
		u.c.t.Errorf("interrex up ended with %d; it said:\n%s", code, u.said)
	}
}

// status is the part of `interrex status --output json` that is looked at.
type status struct {
	Phase   string `json:"phase"`
	Primary string `json:"primary"`
	Term    int    `json:"term"`
	Nodes   []struct {
		Name   string `json:"name"`
		Status int    `json:"status"`
	} `json:"nodes"`
}

// await waits for a state of the cluster.
func (u *up) await(what string, holds func(status) bool) status {
	u.c.t.Helper()
	var s status
	var last string
	end := time.Now().Add(90 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var code int
		s = status{}
		if last, code = u.c.run("status", "--output", "json"); code == 0 && json.Unmarshal([]byte(last), &s) == nil && holds(s) {
			return s
		}
		select {
		case <-u.done:
			u.c.t.Fatalf("interrex up ended while %s was waited for; it said:\n%s", what, u.said)
		case <-tick.C:
		}
		if time.Now().After(end) {
			u.c.t.Fatalf("not seen after 90 s: %s; status:\n%s\ninterrex up said:\n%s", what, last, u.said)
		}
	}
}

// healthy: everything serves, under this primary.
func healthy(primary string) func(status) bool {
	return func(s status) bool {
		for _, n := range s.Nodes {
			if n.Status != 1 && n.Status != 2 {
				return false
			}
		}
		return s.Phase == "healthy" && s.Primary == primary && len(s.Nodes) > 0
	}
}

// postmaster is the process number of a node's server, which must live.
func (c *cluster) postmaster(node string) int {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.nodes[node].Data(), "postmaster.pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || syscall.Kill(pid, 0) != nil {
		c.t.Fatalf("the postmaster of %s, process %q, does not live", node, first)
	}
	return pid
}
