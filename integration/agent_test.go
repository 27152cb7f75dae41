package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// testLease is longer than the default: interrex up has to come back within it
// on a busy machine too.
const testLease = 6 * time.Second

// late is how much later than its end a lease may be seen to end: what the
// kernel and a busy machine need to kill a server and to wake a client.
const late = 500 * time.Millisecond

func TestOnlyTheAgentDies(t *testing.T) {
	c := up(t, 2, "INTERREX_POLICY_LEASE="+testLease.String())
	t.Run("killed", func(t *testing.T) { agentAlone(c.on(t), false) })
	t.Run("frozen", func(t *testing.T) { agentAlone(c.on(t), true) })
	t.Run("killed with up, which comes back", func(t *testing.T) { agentAndUp(c.on(t), false) })
	t.Run("frozen with up, which comes back", func(t *testing.T) { agentAndUp(c.on(t), true) })
	t.Run("killed with up, and nobody comes", func(t *testing.T) { nobodyComes(c.on(t)) })
}

// agentAlone loses the primary's agent: up replaces it, and nothing else
// changes.
func agentAlone(c *cluster, frozen bool) {
	s := c.allUp()
	client := c.calmClient()
	server := c.postmaster(s.Primary)
	pid, _ := c.guards(s.Primary)
	if frozen {
		c.freeze(pid)
	} else {
		c.kill(pid)
	}
	c.takenOver(s)
	c.until("the old agent's end", func() bool { return gone(pid) })
	c.moreWrites(client, 20)
	c.unchanged(s, server)
	c.undisturbed(client)
	client.Stop()
	if lost := c.lostAsLogged(client, s.Seq); lost != 0 {
		c.t.Errorf("%d rows were lost without a failover", lost)
	}
	c.replays()
}

// takenOver waits until another agent of the primary renews the lease.
func (c *cluster) takenOver(before fsm.State) {
	c.t.Helper()
	old, _ := before.Node(before.Primary)
	c.await("a new agent of "+before.Primary+" with the lease", func(n fsm.State) bool {
		p, _ := n.Node(before.Primary)
		return p.AgentSeq > old.AgentSeq && n.Phase == events.Healthy && n.Grant.Renewed > p.AgentSeq
	})
}

// unchanged checks that the primary, its term and its postmaster are the same.
func (c *cluster) unchanged(before fsm.State, postmaster int) {
	c.t.Helper()
	c.sameTerm(before.Term, before.Primary)
	if now := c.postmaster(before.Primary); now != postmaster {
		c.t.Errorf("PostgreSQL of %s was restarted: its postmaster was %d and is %d", before.Primary, postmaster, now)
	}
}

// agentAndUp loses interrex up, and with it the log, and the primary's agent;
// a new up comes within the lease and takes everything over as it runs.
func agentAndUp(c *cluster, frozen bool) {
	s := c.allUp()
	client := c.calmClient()
	server := c.postmaster(s.Primary)
	pid, _ := c.guards(s.Primary)
	if frozen {
		c.freeze(c.up.cmd.Process.Pid)
		c.killUp()
		c.freeze(pid) // not before: the kernel wakes and hangs up what stands still when its parent dies
	} else {
		c.kill(pid)
		c.killUp()
	}
	c.startUp()
	c.takenOver(s)
	c.allUp()
	c.moreWrites(client, 20)
	c.unchanged(s, server)
	c.undisturbed(client)
	if n := strings.Count(c.up.said(), "replacing it"); n > 3 { // one, or as many as its end takes looks
		c.t.Errorf("interrex up killed one agent %d times: it takes a zombie for alive", n)
	}
	c.replays()
}

// nobodyComes loses interrex up and the primary's agent for good: the guardian
// stops PostgreSQL by the lease's end, and a later up resumes the same primary.
func nobodyComes(c *cluster) {
	s := c.allUp()
	client := c.client()
	server := c.postmaster(s.Primary)
	b := c.busy(s.Primary)
	pid, guardian := c.guards(s.Primary)
	at := c.kill(pid)
	c.killUp()
	c.until("the guardian to stop PostgreSQL", func() bool { return gone(server) })
	<-b.Ended()
	acks, last := b.Since(at)
	c.t.Logf("%d writes in the %s after agent and up were gone; lease %s", len(acks), last, testLease)
	if last > testLease+late {
		c.t.Errorf("the last write was acknowledged %s after the agent's death; the lease is %s", last, testLease)
	}
	if last < testLease/2 {
		c.t.Errorf("PostgreSQL was stopped %s after the agent's death: it was to go on until the lease of %s ends", last, testLease)
	}
	c.nothingLeft(s.Primary)
	if gone(guardian) {
		c.t.Errorf("guardian %d ended with what it guards", guardian)
	}
	c.startUp()
	now := c.await("the same primary, resumed", func(n fsm.State) bool {
		return n.Term > s.Term && n.Phase == events.Healthy && serves(n, s.Primary)
	})
	if now.Primary != s.Primary {
		c.t.Errorf("the primary is %s; expected %s again", now.Primary, s.Primary)
	}
	c.recover()
	c.moreWrites(client, 20)
	client.Stop()
	if lost := c.lostAsLogged(client, s.Seq); lost != 0 {
		c.t.Errorf("%d acknowledged rows were lost by a stop at the lease's end", lost)
	}
	c.replays()
}
