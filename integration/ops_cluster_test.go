//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// opsWait is how long anything may take on a loaded machine.
const opsWait = 60 * time.Second

// opsCluster is one cluster run by the real binary, watched through its log.
type opsCluster struct {
	t      *testing.T // the part that runs now
	whole  *testing.T // the test that the cluster lives as long as
	dir    string
	env    []string
	flags  []string
	layout *lab.Layout
	log    *natslog.Log

	process *opsProcess // interrex up

	mu     sync.Mutex
	tail   uint64 // of the log when it began to be followed: what is before it is the past
	state  fsm.State
	events []events.Event
	news   chan struct{}
	follow context.CancelFunc
	over   chan struct{}
	failed error
}

// opsProcess is a long-running command of ours.
type opsProcess struct {
	cmd  *exec.Cmd
	out  opsFile
	done chan struct{}
	code int
}

// opsFile collects what a process says. It is a file and no pipe: agents that
// outlive an interrex up go on writing there, and nobody waits for them.
type opsFile struct{ *os.File }

func (f opsFile) String() string {
	b, err := os.ReadFile(f.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// opsDir makes a short path that the server's user may reach: a socket's path
// has about a hundred bytes.
func opsDir(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "ixo")
	if err == nil {
		err = os.Chmod(base, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return filepath.Join(base, "c")
}

// opsUp makes a cluster of nodes servers and waits until it is healthy.
func opsUp(t *testing.T, nodes int, env ...string) *opsCluster {
	t.Helper()
	c := &opsCluster{
		t: t, whole: t, dir: opsDir(t), env: env, news: make(chan struct{}),
		flags: []string{"--auth", "trust", "--nodes", fmt.Sprint(nodes)},
	}
	t.Cleanup(c.end)
	c.start()
	c.healthy()
	return c
}

// part runs a part of a test on the cluster.
func (c *opsCluster) part(name string, body func(*testing.T, *opsCluster)) {
	before := c.t
	defer func() { c.t = before }()
	before.Run(name, func(t *testing.T) {
		c.t = t
		body(t, c)
		if t.Failed() {
			c.dump()
		}
	})
}

// opsCommand is the binary with our environment and nothing of the caller's
// INTERREX_ variables.
func opsCommand(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "INTERREX_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func opsStart(t *testing.T, env []string, args ...string) *opsProcess {
	t.Helper()
	out, err := os.CreateTemp("", "ixsaid")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(out.Name()) })
	p := &opsProcess{cmd: opsCommand(env, args...), out: opsFile{out}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		_ = out.Close()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	return p
}

func (p *opsProcess) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *opsProcess) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ended waits for the end and returns the exit code.
func (p *opsProcess) ended(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%v still runs after %s; it said:\n%s", p.cmd.Args[1:], within, p.out)
	}
	return p.code
}

// start runs interrex up; the log's follower goes on through restarts.
func (c *opsCluster) start() {
	c.t.Helper()
	c.process = opsStart(c.whole, c.env, append([]string{"up", "--dir", c.dir}, c.flags...)...)
	if c.log == nil {
		c.watch()
	}
}

// watch follows the log with the reader's key as soon as there is one.
func (c *opsCluster) watch() {
	c.t.Helper()
	key := natslog.KeyFile(filepath.Join(c.dir, "keys"), natslog.RoleReader)
	opsPoll(c.t, "the log's key and address", func() bool {
		_, keyErr := os.ReadFile(key)
		_, err := c.address()
		if !c.process.running() {
			c.t.Fatalf("interrex up ended:\n%s", c.process.out)
		}
		return err == nil && keyErr == nil
	})
	log, err := natslog.Dial(context.Background(), natslog.DialOptions{Cluster: "main", KeyFile: key, Name: "test", Locate: c.address})
	if err != nil {
		c.t.Fatal(err)
	}
	opsPoll(c.t, "the log's tail", func() bool {
		c.tail, err = log.Last(context.Background())
		return err == nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	c.log, c.follow, c.over, c.state = log, cancel, make(chan struct{}), fsm.Initial()
	go func() {
		defer close(c.over)
		err := log.Read(ctx, events.Query{Follow: true}, c.fold)
		c.mu.Lock()
		defer c.mu.Unlock()
		if ctx.Err() == nil {
			c.failed = err
			close(c.news)
			c.news = make(chan struct{})
		}
	}()
}

func (c *opsCluster) fold(e events.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := fsm.Fold(c.state, e)
	if err != nil {
		return err
	}
	c.state = s
	c.events = append(c.events, e)
	close(c.news)
	c.news = make(chan struct{})
	return nil
}

// unwatch ends the follower.
func (c *opsCluster) unwatch() {
	if c.log == nil {
		return
	}
	c.follow()
	<-c.over
	c.log.Close()
	c.log = nil
}

func (c *opsCluster) address() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "log.json"))
	if err != nil {
		return "", err
	}
	var a struct{ URL string }
	return a.URL, json.Unmarshal(b, &a)
}

// now returns the state as far as it was heard.
func (c *opsCluster) now() fsm.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// since returns the events heard after a sequence.
func (c *opsCluster) since(seq uint64) []events.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.events, seq+1, func(e events.Event, s uint64) int { return int(e.Seq) - int(s) })
	return slices.Clone(c.events[i:])
}

// await waits until the folded log is as wanted.
func (c *opsCluster) await(what string, ok func(fsm.State) bool) fsm.State {
	c.t.Helper()
	deadline := time.After(opsWait)
	for {
		c.mu.Lock()
		s, news, failed := c.state, c.news, c.failed
		c.mu.Unlock()
		if s.Seq >= c.tail && ok(s) {
			return s
		}
		if failed != nil {
			c.t.Fatalf("the log's follower failed: %v", failed)
		}
		select {
		case <-news:
		case <-deadline:
			c.dump()
			c.t.Fatalf("%s did not come within %s; the cluster is %s, term %d, primary %s, stall %q", what, opsWait, s.Phase, s.Term, s.Primary, s.Stall)
		}
	}
}

// awaitEvent waits for the first event after seq that fits.
func (c *opsCluster) awaitEvent(what string, seq uint64, fits func(events.Event) bool) events.Event {
	c.t.Helper()
	var found events.Event
	at := seq
	c.await(what, func(fsm.State) bool {
		for _, e := range c.since(at) {
			if fits(e) {
				found = e
				return true
			}
			at = e.Seq
		}
		return false
	})
	return found
}

// healthy waits until the cluster serves and every node is up.
func (c *opsCluster) healthy() fsm.State {
	c.t.Helper()
	s := c.await("a healthy cluster with every node up", func(s fsm.State) bool {
		up := s.Phase == events.Healthy && len(s.Nodes) > 0
		for _, n := range s.Nodes {
			up = up && (n.Status == fsm.StatusWaiting || n.Status == fsm.StatusUp) && n.PG.State == events.PostgresUp
			up = up && (n.Name == s.Primary || n.PG.Receiver == "streaming" && n.PG.Upstream == s.Primary)
		}
		return up
	})
	if c.layout == nil {
		l, err := lab.Load(c.dir)
		if err != nil {
			c.t.Fatal(err)
		}
		c.layout = l
	}
	return s
}

// end stops everything, shows the log when something failed, and checks that
// the log replays when it did not.
func (c *opsCluster) end() {
	if c.process != nil && c.process.running() {
		if !c.t.Failed() {
			c.must("replay")
		}
		c.process.signal(syscall.SIGCONT)
		c.process.signal(syscall.SIGINT)
		select {
		case <-c.process.done:
		case <-time.After(opsWait):
			c.t.Errorf("interrex up did not stop in order within %s:\n%s", opsWait, c.process.out)
		}
	}
	c.unwatch()
	c.sweep()
}

func (c *opsCluster) dump() {
	all := c.since(0)
	all = slices.DeleteFunc(all, func(e events.Event) bool {
		switch e.Data.(type) {
		case events.Heartbeat, events.LeaseRenewed:
			return true
		}
		return false
	})
	var b strings.Builder
	for _, e := range all[max(0, len(all)-80):] {
		fmt.Fprintf(&b, "%6d %s %-18s %s\n", e.Seq, e.Time.Format("15:04:05.000"), e.Source, events.Sentence(e.Data))
	}
	c.t.Logf("the log's end:\n%s\ninterrex up said:\n%s", b.String(), c.process.out)
	logs, _ := filepath.Glob(filepath.Join(c.dir, "*", "postgres.log"))
	for _, f := range logs {
		raw, _ := os.ReadFile(f)
		lines := slices.DeleteFunc(strings.Split(string(raw), "\n"), func(l string) bool { return strings.Contains(l, "FATAL:  the database system is") })
		c.t.Logf("%s:\n%s", f, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

// sweep kills by their pid the processes that name the cluster's directory.
func (c *opsCluster) sweep() {
	if c.process != nil && c.process.running() {
		_ = c.process.cmd.Process.Kill()
		<-c.process.done
	}
	for range 100 {
		left := opsProcesses(c.dir)
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			_ = syscall.Kill(p, syscall.SIGCONT)
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		<-time.After(20 * time.Millisecond)
	}
	c.t.Errorf("processes of %s do not end", c.dir)
}
