package integration

import (
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// thawAfter is how long after the new primary's first write the old one is let
// go on: the peers were measured so.
const thawAfter = 3500 * time.Millisecond

// window is how long a thawed primary may go on acknowledging on a busy
// machine; interrex bench failover measures how long it really is.
const window = time.Second

func TestNodeFrozenOrLost(t *testing.T) {
	c := upApart(t, 2)
	t.Run("frozen, up alive", func(t *testing.T) { frozenUnderUp(c.on(t)) })
	t.Run("frozen with up, thawed", func(t *testing.T) { frozenAndThawed(c.on(t)) })
	t.Run("frozen, up killed and back", func(t *testing.T) { frozenWithoutUp(c.on(t)) })
	t.Run("killed, up alive", func(t *testing.T) { killedTogether(c.on(t), false) })
	t.Run("killed with up", func(t *testing.T) { killedTogether(c.on(t), true) })
}

// freezeNode stops agent, guardian and PostgreSQL of a node, and others first.
func (c *cluster) freezeNode(node string, others ...int) *lab.Frozen {
	c.t.Helper()
	a, g := c.guards(node)
	own := c.freeze(append(others, a, g)...)
	pg := c.freezePostgres(node, true)
	return &lab.Frozen{PIDs: append(own.PIDs, pg.PIDs...), At: own.At}
}

// failedOver waits until another node is the primary of a later term.
func (c *cluster) failedOver(before fsm.State) fsm.State {
	c.t.Helper()
	return c.await("another primary than "+before.Primary, func(n fsm.State) bool {
		return n.Term > before.Term && n.Phase == events.Healthy && n.Primary != before.Primary && serves(n, n.Primary)
	})
}

// frozenUnderUp: interrex up replaces the frozen agent, and the new one stops
// the frozen PostgreSQL. Nobody thaws anything.
func frozenUnderUp(c *cluster) {
	s := c.allUp()
	client := c.client()
	b := c.busy(s.Primary)
	f := c.freezeNode(s.Primary)
	now := c.failedOver(s)
	first := c.firstWrite(client, f.At, now.Primary)
	p := c.proofOf(s.Seq)
	c.t.Logf("first write after %s, by the proof %s", first.At.Sub(f.At), p.Kind)
	c.until("the frozen PostgreSQL to be killed by its new agent", func() bool { return gone(f.PIDs[len(f.PIDs)-1]) })
	c.oneWriter(first.At, s.Primary, client, b)
	c.finish(client, s)
}

// frozenAndThawed freezes a whole host, as the others see it: the lease runs
// out, another node takes over, and the old primary is stopped when it wakes.
func frozenAndThawed(c *cluster) {
	s := c.allUp()
	client := c.client()
	b := c.busy(s.Primary)
	f := c.freezeNode(s.Primary, c.up.cmd.Process.Pid)
	now := c.failedOver(s)
	first := c.firstWrite(client, f.At, now.Primary)
	if p := c.proofOf(s.Seq); p.Kind != events.ProofExpired || p.Term != s.Term {
		c.t.Errorf("the proof is %q of term %d; expected expired of term %d", p.Kind, p.Term, s.Term)
	}
	if took := first.At.Sub(f.At); took < s.Policy.Lease.D()-s.Policy.Renew.D() {
		c.t.Errorf("the first write elsewhere came after %s; the lease is %s", took, s.Policy.Lease)
	}
	<-time.After(time.Until(first.At.Add(thawAfter))) // the fault is defined by this time
	c.oneWriter(first.At, s.Primary, client, b)
	thawed := time.Now()
	if err := f.Thaw(); err != nil {
		c.t.Fatal(err)
	}
	select {
	case <-b.Ended():
	case <-time.After(patience):
		c.t.Fatalf("the session on %s goes on %s after the thaw", s.Primary, patience)
	}
	acks, last := b.Since(thawed)
	c.t.Logf("first write elsewhere after %s; after the thaw the old primary acknowledged %d writes in %s", first.At.Sub(f.At), len(acks), last)
	if last > window {
		c.t.Errorf("the thawed primary acknowledged writes for %s; expected at most %s", last, window)
	}
	c.await("the old primary's death to be reported", func(n fsm.State) bool {
		old, _ := n.Node(s.Primary)
		return old.DeadSeq > now.Seq || old.PG.State == events.PostgresDown && old.PGSeq > now.Seq
	})
	c.nothingLeft(s.Primary)
	c.sameTerm(now.Term, now.Primary)
	c.finish(client, s)
}

// frozenWithoutUp: interrex up is killed as well, and a new one finds a frozen
// agent and a frozen PostgreSQL whose term is over.
func frozenWithoutUp(c *cluster) {
	s := c.allUp()
	client := c.client()
	b := c.busy(s.Primary)
	c.killUp()
	f := c.freezeNode(s.Primary)
	now := c.failedOver(s)
	first := c.firstWrite(client, f.At, now.Primary)
	if p := c.proofOf(s.Seq); p.Kind != events.ProofExpired {
		c.t.Errorf("the proof is %q; expected expired", p.Kind)
	}
	c.startUp("--join")
	c.until("the frozen PostgreSQL to be killed", func() bool { return gone(f.PIDs[len(f.PIDs)-1]) })
	c.nothingLeft(s.Primary)
	c.oneWriter(first.At, s.Primary, client, b)
	c.sameTerm(now.Term, now.Primary)
	c.finish(client, s)
}

// killedTogether kills agent and PostgreSQL of the primary, as a host that loses
// power; with up nobody is left to say so, and the lease has to run out.
func killedTogether(c *cluster, withUp bool) {
	s := c.allUp()
	client := c.client()
	pid, guardian := c.guards(s.Primary)
	at := time.Now()
	if withUp {
		c.killUp()
	}
	c.kill(pid, guardian)
	if err := c.layout.KillAll(c.ctx(), s.Primary); err != nil {
		c.t.Fatal(err)
	}
	now := c.failedOver(s)
	first := c.firstWrite(client, at, now.Primary)
	p := c.proofOf(s.Seq)
	c.t.Logf("first write after %s, by the proof %s", first.At.Sub(at), p.Kind)
	want := events.ProofDead
	if withUp {
		want = events.ProofExpired
	}
	if p.Kind != want {
		c.t.Errorf("the proof is %q; expected %q", p.Kind, want)
	}
	c.oneWriter(first.At, s.Primary, client)
	if withUp {
		c.startUp("--join")
	}
	c.finish(client, s)
}

// finish brings every node back and checks the accounting of a failover.
func (c *cluster) finish(client *lab.Client, before fsm.State) {
	c.t.Helper()
	client.Stop()
	c.lostAsLogged(client, before.Seq)
	c.agentsBack()
	c.recover()
	c.replays()
}

// agentsBack waits until an agent stands for each node.
func (c *cluster) agentsBack() {
	c.t.Helper()
	c.await("an agent for each node", func(s fsm.State) bool {
		for _, n := range s.Nodes {
			if !s.AgentLives(n) {
				return false
			}
		}
		return true
	})
}
