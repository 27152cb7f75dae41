package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/agent"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// patience bounds what hangs; it measures nothing. The machine may be busy.
const patience = 60 * time.Second

// cluster is a running cluster and what its log says. Its methods end the test
// when something does not come true in time.
type cluster struct {
	*shared
	t *testing.T
}

// shared is what a cluster has in common with its views for subtests.
type shared struct {
	dir     string
	env     []string
	layout  *lab.Layout
	up      *process // interrex up, nil while none was started
	control *process // interrex controller --serve-log, when it runs apart
	story   *story
}

// on is the cluster for a subtest.
func (c *cluster) on(t *testing.T) *cluster { return &cluster{c.shared, t} }

// up starts `interrex up` for a new cluster that trusts loopback, and waits
// until it is healthy with every node up. Further environment may be given
// ("INTERREX_POLICY_HANG=1s"). The cluster ends with the test.
func up(t *testing.T, nodes int, env ...string) *cluster {
	t.Helper()
	return upWith(t, []string{"--nodes", strconv.Itoa(nodes), "--auth", "trust", "--port", freePorts(t, nodes)}, env...)
}

// freePorts returns the first of n free ports. They lie below those that the
// kernel gives to outgoing connections, at a random place: clusters of other
// tests are made at the same time.
func freePorts(t *testing.T, n int) string {
	t.Helper()
	for range 100 {
		first := 20000 + 8*rand.IntN(1500)
		free := true
		for p := first; p < first+n && free; p++ {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return strconv.Itoa(first)
		}
	}
	t.Fatal("no free ports between 20000 and 32000")
	return ""
}

// upWith is up with the arguments of interrex up as given.
func upWith(t *testing.T, args []string, env ...string) *cluster {
	t.Helper()
	c := prepare(t, env...)
	c.startUp(args...)
	c.allUp()
	return c
}

// upApart is up with the log and the controller in a process of their own, so
// that interrex up (which runs the agents) may die or freeze as well.
func upApart(t *testing.T, nodes int, env ...string) *cluster {
	t.Helper()
	c := up(t, nodes, env...)
	c.stopUp()
	c.control = c.spawn("controller", "--serve-log")
	c.awaitLog(c.control)
	c.startUp("--join")
	c.allUp()
	return c
}

// prepare makes an empty directory for a cluster and has it swept in the end.
func prepare(t *testing.T, env ...string) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "ix*x") // no directory's name begins with another's
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{&shared{dir: dir, env: env}, t}
	t.Cleanup(c.end)
	return c
}

// end stops what is left of the cluster, tells its story when the test failed,
// and removes it.
func (c *cluster) end() {
	if c.t.Failed() {
		c.tell()
	}
	if c.story != nil {
		c.story.close()
	}
	for _, p := range []*process{c.up, c.control} {
		if p == nil {
			continue
		}
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-p.ended:
		case <-time.After(patience):
			c.t.Errorf("%s does not end after SIGINT", p.name)
		}
	}
	c.sweep()
	if c.layout != nil && !strings.HasPrefix(c.layout.SocketDir, c.dir) {
		os.RemoveAll(c.layout.SocketDir)
	}
	os.RemoveAll(c.dir)
}

// sweep kills every process that works in the cluster's directory or names it.
func (c *cluster) sweep() {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		pids := processesAbout(c.dir)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-time.After(20 * time.Millisecond)
	}
	c.t.Errorf("processes %v of %s cannot be ended", processesAbout(c.dir), c.dir)
}

// tell prints the end of the log, of what the processes said, and of the
// servers' logs.
func (c *cluster) tell() {
	if c.story != nil {
		c.t.Logf("the end of the log:\n%s", c.story.tail(80))
	}
	for _, p := range []*process{c.control, c.up} {
		if p != nil {
			c.t.Logf("%s said:\n%s", p.name, lastLines(p.said(), 60))
		}
	}
	if c.layout == nil {
		return
	}
	for _, n := range c.layout.Nodes {
		raw, _ := os.ReadFile(n.LogFile)
		c.t.Logf("PostgreSQL of %s said:\n%s", n.Name, lastLines(string(raw), 25))
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// until polls a condition that nothing announces.
func (c *cluster) until(what string, holds func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// await waits until the state of the log satisfies a condition.
func (c *cluster) await(what string, ok func(fsm.State) bool) fsm.State {
	c.t.Helper()
	s, err := c.story.await(patience, ok)
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", what, err)
	}
	return s
}

// awaitEvent waits for an event after a sequence and returns it.
func (c *cluster) awaitEvent(what string, after uint64, ok func(events.Event) bool) events.Event {
	c.t.Helper()
	var found events.Event
	c.await(what, func(fsm.State) bool {
		for _, e := range c.story.since(after) {
			if ok(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// awaitRule waits for a decision by a rule after a sequence.
func (c *cluster) awaitRule(rule int, after uint64) events.Event {
	c.t.Helper()
	return c.awaitEvent(fmt.Sprintf("a decision by rule %d", rule), after, func(e events.Event) bool {
		d, ok := e.Data.(events.Decided)
		return ok && d.Rule == rule
	})
}

// state is what the log says as far as it was read.
func (c *cluster) state() fsm.State { return c.story.state() }

// serves: a node whose status is waiting or up.
func serves(s fsm.State, node string) bool {
	n, _ := s.Node(node)
	return n.Status == fsm.StatusWaiting || n.Status == fsm.StatusUp
}

// allUp waits until the cluster is healthy, every node serves, the standbys
// stream, and the primary has renewed its lease under the newest grant.
func (c *cluster) allUp() fsm.State {
	c.t.Helper()
	return c.await("a healthy cluster with every node up", func(s fsm.State) bool {
		for _, n := range s.Nodes {
			streams := n.Name == s.Primary || n.PG.Receiver == "streaming" && n.PG.Upstream == s.Primary
			if !serves(s, n.Name) || n.PG.State != events.PostgresUp || !streams {
				return false
			}
		}
		return s.Phase == events.Healthy && len(s.Nodes) > 0 && s.Grant.Renewed != 0 && s.Grant.Stay == (len(s.Nodes) == 1)
	})
}

// recover makes every node that is down a standby again.
func (c *cluster) recover() {
	c.t.Helper()
	s := c.await("a healthy phase", func(s fsm.State) bool { return s.Phase == events.Healthy })
	for _, n := range s.Nodes {
		if serves(s, n.Name) {
			continue
		}
		if r := c.interrex("recover", n.Name, "--yes"); r.code != 0 && !serves(c.state(), n.Name) {
			c.t.Fatalf("interrex recover %s: exit status %d\n%s%s", n.Name, r.code, r.stdout, r.stderr)
		}
	}
	c.allUp()
}

// replays checks that every decision of the log is derived again from it.
func (c *cluster) replays() {
	c.t.Helper()
	c.must("replay")
	if s := c.state(); len(s.Alarms) > 0 {
		c.t.Errorf("alarms in the log: %+v", s.Alarms)
	}
}

// guards returns the processes that a node's lease file names.
func (c *cluster) guards(node string) (agentPID, guardianPID int) {
	c.t.Helper()
	boot, err := executors.BootID()
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := agent.OpenLease(agent.LeasePath(filepath.Join(c.dir, node)), boot)
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	return l.AgentPID(), l.GuardianPID()
}

// postmaster is the process of a node's server.
func (c *cluster) postmaster(node string) int {
	c.t.Helper()
	pid, err := c.layout.Postmaster(node)
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// kill sends SIGKILL and returns the moment before.
func (c *cluster) kill(pids ...int) time.Time {
	c.t.Helper()
	at := time.Now()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			c.t.Fatalf("kill %d: %v", pid, err)
		}
	}
	return at
}

// freeze stops processes; they are let go at the latest when the test ends.
func (c *cluster) freeze(pids ...int) *lab.Frozen {
	c.t.Helper()
	f, err := lab.Freeze(c.ctx(), pids...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = f.Thaw() })
	return f
}

// freezePostgres stops a node's postmaster and, with all, its other processes.
func (c *cluster) freezePostgres(node string, all bool) *lab.Frozen {
	c.t.Helper()
	f, err := c.layout.FreezePostgres(c.ctx(), node, all)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = f.Thaw() })
	return f
}

// ctx ends with the test, or when something takes far too long.
func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	c.t.Cleanup(cancel)
	return ctx
}
