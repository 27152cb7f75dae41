package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// hangTime is the policy's hang of TestPrimaryDies: short, but not so short that
// a busy machine looks hung.
const hangTime = 2 * time.Second

func TestPrimaryDies(t *testing.T) {
	c := up(t, 3, "INTERREX_POLICY_HANG="+hangTime.String())
	t.Run("crash under load", func(t *testing.T) { crashUnderLoad(c.on(t)) })
	t.Run("postmaster frozen", func(t *testing.T) { hang(c.on(t), false) })
	t.Run("all its processes frozen", func(t *testing.T) { hang(c.on(t), true) })
}

// crashUnderLoad kills the postmaster amid writers and a query that only
// computes, while both standbys hold their replay up.
func crashUnderLoad(c *cluster) {
	s := c.allUp()
	old := s.Primary
	client := c.client()
	var sessions []*lab.Busy
	for range 3 {
		sessions = append(sessions, c.busy(old))
	}
	computing, ctx := c.session(old), c.ctx()
	go func() { // ends with its server
		_, _ = computing.Exec(ctx, "select count(*) from generate_series(1, 1000000000000)")
	}()
	pids := map[string]int{}
	var release []func()
	for _, n := range s.Nodes {
		pids[n.Name] = c.postmaster(n.Name)
		if n.Name != old {
			release = append(release, c.holdReplayUp(old, n.Name))
		}
	}
	_, at, err := c.layout.KillPostmaster(old)
	if err != nil {
		c.t.Fatal(err)
	}
	outage, err := client.AwaitOutage(c.ctx(), at)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("outage %s", outage)
	if outage > 10*time.Second {
		c.t.Errorf("the outage was %s: paused replay and old snapshots must not delay a promotion like this", outage)
	}
	for _, f := range release {
		f() // the standby that was not promoted follows once its replay goes on
	}
	c.nothingLeft(old)
	now := c.await("another primary, healthy, with the other standby behind it", func(n fsm.State) bool {
		return n.Term == s.Term+1 && n.Phase == events.Healthy && n.Primary != old && servesAll(n, old)
	})
	first := c.firstWrite(client, at, now.Primary)
	c.oneWriter(first.At, old, client, sessions...)
	if p := c.proofOf(s.Seq); p.Kind != events.ProofDead || p.Term != s.Term {
		c.t.Errorf("the proof is %q of term %d; expected dead of term %d", p.Kind, p.Term, s.Term)
	}
	c.tookOffice(now, timelineOf(s, old))
	for _, n := range now.Nodes {
		if n.Name != old && c.postmaster(n.Name) != pids[n.Name] {
			c.t.Errorf("the postmaster of %s was restarted", n.Name)
		}
	}
	client.Stop()
	c.lostAsLogged(client, s.Seq)
	for _, b := range sessions {
		v, err := b.Verify(c.ctx(), c.layout.DSN())
		if err != nil {
			c.t.Fatal(err)
		}
		c.admitted(len(v.Lost), s.Seq)
	}
	c.recover()
	c.replays()
}

// servesAll: every node but one serves.
func servesAll(s fsm.State, but string) bool {
	for _, n := range s.Nodes {
		if n.Name != but && !serves(s, n.Name) {
			return false
		}
	}
	return true
}

func timelineOf(s fsm.State, node string) uint32 {
	n, _ := s.Node(node)
	return n.PG.Timeline
}

// holdReplayUp gives a standby a session whose snapshot is older than a vacuum
// on the primary, and pauses its replay; the function returned ends both.
func (c *cluster) holdReplayUp(primary, standby string) func() {
	c.t.Helper()
	table := "held_up_" + standby
	p := c.session(primary)
	c.exec(p, "create table "+table+" as select generate_series(1, 1000) i")
	reader := c.session(standby)
	c.until(table+" to be on "+standby, func() bool {
		return c.text(reader, fmt.Sprintf("select (to_regclass('%s') is not null)::text", table)) == "true"
	})
	c.exec(reader, "begin isolation level repeatable read")
	c.text(reader, "select count(*)::text from pg_class")
	c.exec(p, "delete from "+table)
	c.exec(p, "vacuum "+table)
	pauser := c.session(standby)
	c.exec(pauser, "select pg_wal_replay_pause()")
	return func() { // a node that was promoted has ended the one and refuses the other
		_ = reader.Close(c.ctx())
		_, _ = pauser.Exec(c.ctx(), "select pg_wal_replay_resume()")
	}
}

// tookOffice checks what a new primary has to have done when it is settled.
func (c *cluster) tookOffice(s fsm.State, oldTimeline uint32) {
	c.t.Helper()
	conn := c.session(s.Primary)
	if tli := c.text(conn, "select timeline_id::text from pg_control_checkpoint()"); tli != fmt.Sprint(oldTimeline+1) {
		c.t.Errorf("the last checkpoint of %s is on timeline %s; expected one on %d", s.Primary, tli, oldTimeline+1)
	}
	slots := c.text(conn, "select coalesce(string_agg(slot_name, ' ' order by slot_name), '') from pg_replication_slots")
	var want []string
	for _, n := range s.Nodes {
		if n.Name != s.Primary {
			want = append(want, events.SlotName(n.Name))
		}
	}
	if slots != strings.Join(want, " ") {
		c.t.Errorf("%s has the slots %q; expected one for each standby: %q", s.Primary, slots, want)
	}
}

// hang freezes the postmaster, or the whole server: its agent stops it after the
// hang time, and another takes over.
func hang(c *cluster, all bool) {
	s := c.allUp()
	client := c.client()
	b := c.busy(s.Primary)
	f := c.freezePostgres(s.Primary, all)
	if !all {
		c.moreBusy(b, 20) // its sessions do not need it
	}
	fencing := c.awaitRule(209, s.Seq)
	now := c.await("another primary", func(n fsm.State) bool {
		return n.Term == s.Term+1 && n.Phase == events.Healthy && servesAll(n, s.Primary)
	})
	first := c.firstWrite(client, f.At, now.Primary)
	c.t.Logf("stopped %s after the freeze, first write after %s", fencing.Time.Sub(f.At), first.At.Sub(f.At))
	if waited := fencing.Time.Sub(f.At); waited < hangTime {
		c.t.Errorf("it was stopped after %s, before the hang time of %s", waited, hangTime)
	}
	if p := c.proofOf(s.Seq); p.Kind != events.ProofDead {
		c.t.Errorf("the proof is %q; its agent lives and can prove it dead", p.Kind)
	}
	c.nothingLeft(s.Primary)
	c.oneWriter(first.At, s.Primary, client, b)
	client.Stop()
	c.lostAsLogged(client, s.Seq)
	c.recover()
	c.replays()
}

func (c *cluster) moreBusy(b *lab.Busy, n int) {
	c.t.Helper()
	have := len(b.Acks())
	c.until("more writes of the busy session", func() bool { return len(b.Acks()) >= have+n })
}
