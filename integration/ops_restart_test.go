//go:build linux

package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

func TestRestarts(t *testing.T) {
	c := opsUp(t, 2)
	c.part("up stopped and started again", restartInOrder)
	c.part("up whose terminal is gone", restartAfterHangup)
	for _, at := range []struct {
		name string
		fits func(old, to string) func(events.Event) bool
	}{
		{"killed at the crash", func(old, _ string) func(events.Event) bool {
			return func(e events.Event) bool { d, ok := e.Data.(events.PostgresExited); return ok && d.Node == old }
		}},
		{"killed at the proof", func(old, _ string) func(events.Event) bool {
			return func(e events.Event) bool { d, ok := e.Data.(events.PostgresDead); return ok && d.Node == old }
		}},
		{"killed at the decision", func(string, string) func(events.Event) bool {
			return func(e events.Event) bool { d, ok := e.Data.(events.Decided); return ok && d.To == events.Promoting }
		}},
		{"killed at the lease", func(_, to string) func(events.Event) bool {
			return func(e events.Event) bool { d, ok := e.Data.(events.LeaseAcquired); return ok && d.Node == to }
		}},
		{"killed at the promotion's end", func(_, to string) func(events.Event) bool { return orderDone(to, events.ActPromote) }},
	} {
		c.part("up "+at.name, func(t *testing.T, c *opsCluster) { restartAt(t, c, at.fits, false) })
	}
	c.part("up and its agents killed at the decision", func(t *testing.T, c *opsCluster) {
		restartAt(t, c, func(string, string) func(events.Event) bool {
			return func(e events.Event) bool { d, ok := e.Data.(events.Decided); return ok && d.To == events.Promoting }
		}, true)
	})
	c.part("two controllers", twoControllers)
}

// restartInOrder: every role comes back from the log, and nothing is lost.
func restartInOrder(t *testing.T, c *opsCluster) {
	c.must("switchover", "--yes") // so that the primary is not the first node
	w := c.client(t)
	w.Stop()
	before := c.healthy()
	c.stop(t)
	c.start()
	after := c.await("a new term of the last primary", func(s fsm.State) bool {
		return s.Term > before.Term && s.Phase == events.Healthy
	})
	c.healthy()
	if after.Primary != before.Primary {
		t.Errorf("the primary is %s, expected %s as before", after.Primary, before.Primary)
	}
	if v := w.settle(t); len(v.Lost) > 0 {
		t.Errorf("%d rows are lost by a restart", len(v.Lost))
	}
	for _, e := range c.since(before.Seq) {
		if d, ok := e.Data.(events.Decided); ok && d.Loss != nil && d.Loss.Bytes > 0 {
			t.Errorf("decision %d admits a loss of %d bytes", e.Seq, d.Loss.Bytes)
		}
	}
}

// restartAfterHangup: SIGHUP ends in order as Ctrl-C does; and the next up
// announces what is, not what the log says of the moment before.
func restartAfterHangup(t *testing.T, c *opsCluster) {
	before := c.healthy()
	c.stopBy(t, syscall.SIGHUP)
	c.start()
	c.await("a new term", func(s fsm.State) bool { return s.Term > before.Term && s.Phase == events.Healthy })
	c.healthy()
	opsPoll(t, "the table that up prints", func() bool { return strings.Contains(c.process.out.String(), "Ctrl-C stops it") })
	if said := c.process.out.String(); !strings.Contains(said, fmt.Sprintf("healthy, term %d", before.Term+1)) {
		t.Errorf("the cluster is in term %d, and interrex up said:\n%s", before.Term+1, said)
	}
}

// restartAt crashes the primary, kills interrex up with the log and the
// controller in it as soon as an event is stored, and starts it again.
func restartAt(t *testing.T, c *opsCluster, fits func(old, to string) func(events.Event) bool, agents bool) {
	w := c.client(t)
	s := c.healthy()
	old, to := s.Primary, c.other(s.Primary)
	c.kill(t, old)
	c.awaitEvent("the moment to kill", s.Seq, fits(old, to))
	if err := c.process.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if agents {
		for _, n := range s.Nodes {
			_ = syscall.Kill(n.Agent.PID, syscall.SIGKILL)
		}
	}
	c.process.ended(t, opsWait)
	c.start()
	now := c.await("a new term", func(x fsm.State) bool { return x.Term > s.Term && x.Phase == events.Healthy })
	c.healthyAfter(t, now)
	w.settle(t)
	c.must("replay")
	acted := map[string]int{}
	for _, e := range c.since(s.Seq) {
		if d, ok := e.Data.(events.OrderDone); ok && (d.Action == events.ActPromote || d.Action == events.ActResume) {
			acted[fmt.Sprint(d.Action, " of ", d.Node, " in term ", d.Term)]++
		}
	}
	for what, times := range acted {
		if times > 1 {
			t.Errorf("%s was done %d times", what, times)
		}
	}
	t.Logf("from term %d of %s to term %d of %s: %v", s.Term, old, now.Term, now.Primary, acted)
}

// twoControllers decide side by side: the log lets one win each time.
func twoControllers(t *testing.T, c *opsCluster) {
	seq := c.now().Seq
	second := opsStart(t, nil, "controller", "--dir", c.dir)
	defer func() {
		second.signal(syscall.SIGINT)
		if code := second.ended(t, opsWait); code != 0 {
			t.Errorf("the second controller ended with %d:\n%s", code, second.out)
		}
	}()
	w := c.client(t)
	for range 4 {
		s := c.now()
		c.kill(t, s.Primary)
		c.failedOver(s.Term, c.other(s.Primary))
		c.recover(s.Primary)
		if now := c.now(); now.Term != s.Term+1 {
			t.Errorf("one crash led from term %d to %d", s.Term, now.Term)
		}
	}
	w.settle(t)
	c.must("replay")
	by := map[string]int{}
	prefixes := map[uint64]uint64{}
	for _, e := range c.since(seq) {
		d, ok := e.Data.(events.Decided)
		if !ok {
			continue
		}
		by[d.Controller]++
		if first, twice := prefixes[d.BasedOn]; twice {
			t.Errorf("decisions %d and %d were made from the same prefix %d", first, e.Seq, d.BasedOn)
		}
		prefixes[d.BasedOn] = e.Seq
		if d.BasedOn != e.Seq-1 {
			t.Errorf("decision %d is based on %d", e.Seq, d.BasedOn)
		}
	}
	if len(by) == 0 || len(c.now().Alarms) > 0 {
		t.Errorf("decisions by %v, alarms %v", by, c.now().Alarms)
	}
	t.Logf("decisions by controller: %v", by)
}

// TestLogStops: the log stands still for longer than the lease.
func TestLogStops(t *testing.T) {
	c := opsUp(t, 2)
	c.part("for a second", func(t *testing.T, c *opsCluster) { logStops(t, c, time.Second, false) })
	c.part("for longer than the lease", func(t *testing.T, c *opsCluster) { logStops(t, c, 4*time.Second, true) })
}

// logStops freezes interrex up, which serves the log, while the agents live.
func logStops(t *testing.T, c *opsCluster, span time.Duration, stops bool) {
	s := c.healthy()
	postmaster, err := c.layout.Postmaster(s.Primary)
	if err != nil {
		t.Fatal(err)
	}
	w := c.client(t)
	frozen := time.Now()
	thaw := opsFreeze(t, c.process.cmd.Process.Pid)
	<-time.After(span) // the length of the outage is what is tested
	stopped := !alive(postmaster)
	thaw()
	if stopped != stops {
		t.Errorf("after %s without the log the primary's stop is %t, expected %t", span, stopped, stops)
	}
	if !stops {
		have := len(w.Acks())
		opsPoll(t, "more writes", func() bool { return len(w.Acks()) > have+20 })
		c.await("some events", func(x fsm.State) bool { return x.Seq > s.Seq+10 })
		if now := c.healthy(); now.Term != s.Term || len(w.Errors()) > 0 {
			t.Errorf("term %d became %d, the client's errors: %v", s.Term, now.Term, w.Errors())
		}
		w.settle(t)
		return
	}
	now := c.await("the same primary again", func(x fsm.State) bool { return x.Term > s.Term && x.Phase == events.Healthy })
	c.healthyAfter(t, now)
	var last time.Duration
	for _, a := range w.Acks() {
		if a.At.Before(frozen.Add(span)) {
			last = a.At.Sub(frozen)
		}
	}
	t.Logf("the last write was acknowledged %s after the log had stopped; the lease is %s", last, s.Policy.Lease)
	if last > s.Policy.Lease.D() {
		t.Errorf("writes were acknowledged %s after the log had stopped, longer than the lease %s", last, s.Policy.Lease)
	}
	if now.Primary != s.Primary || now.Term != s.Term+1 {
		t.Errorf("the primary is %s in term %d, expected %s resumed in %d", now.Primary, now.Term, s.Primary, s.Term+1)
	}
	if v := w.settle(t); len(v.Lost) > 0 {
		t.Errorf("%d rows are lost", len(v.Lost))
	}
}

// TestLogStopsAlone: a single node may outlive the log: nothing could be
// promoted in its place.
func TestLogStopsAlone(t *testing.T) {
	c := opsUp(t, 1)
	s := c.await("a grant that may stay", func(s fsm.State) bool { return s.Grant.Stay && s.Grant.Renewed != 0 })
	postmaster, err := c.layout.Postmaster("db1")
	if err != nil {
		t.Fatal(err)
	}
	w := c.client(t)
	thaw := opsFreeze(t, c.process.cmd.Process.Pid)
	<-time.After(s.Policy.Lease.D() + 2*time.Second) // the length of the outage is what is tested
	before := len(w.Acks())
	opsPoll(t, "writes without the log", func() bool { return len(w.Acks()) > before+20 })
	thaw()
	c.await("some events", func(x fsm.State) bool { return x.Seq > s.Seq+20 })
	now := c.healthy()
	if p, err := c.layout.Postmaster("db1"); err != nil || p != postmaster || now.Term != s.Term {
		t.Errorf("postmaster %d became %d (%v), term %d became %d", postmaster, p, err, s.Term, now.Term)
	}
	w.Stop()
	if len(w.Errors()) > 0 {
		t.Errorf("the client's errors: %v", w.Errors())
	}
	w.settle(t)
	orphans(t, c)
}

// orphans: with the agent and interrex up gone, one that may stay goes on, and
// is taken over without a restart.
func orphans(t *testing.T, c *opsCluster) {
	t.Helper()
	s := c.now()
	n, _ := s.Node("db1")
	postmaster, err := c.layout.Postmaster("db1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.process.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(n.Agent.PID, syscall.SIGKILL)
	c.process.ended(t, opsWait)
	<-time.After(s.Policy.Lease.D() + time.Second) // nobody renews for longer than the lease
	if !alive(postmaster) {
		t.Error("the only node was stopped though its grant lets it stay")
	}
	c.start()
	c.await("a new agent that renews", func(x fsm.State) bool {
		m, _ := x.Node("db1")
		return m.AgentSeq > s.Seq && x.Grant.Renewed > m.AgentSeq && x.Phase == events.Healthy
	})
	if p, err := c.layout.Postmaster("db1"); err != nil || p != postmaster {
		t.Errorf("postmaster %d became %d (%v)", postmaster, p, err)
	}
}
