package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/internal/unroot"
	"github.com/interrex-ha/interrex/lab"
)

// stopGrace is the policy's of TestByHand: enough for a busy machine to start a
// server by hand.
const stopGrace = 5 * time.Second

func TestByHand(t *testing.T) {
	c := up(t, 2, "INTERREX_POLICY_STOP_GRACE="+stopGrace.String())
	t.Run("primary restarted", func(t *testing.T) { restartedByHand(c.on(t)) })
	t.Run("standby killed and started again", func(t *testing.T) { standbyDies(c.on(t)) })
	t.Run("primary stopped, then started read-write", func(t *testing.T) { stoppedByHand(c.on(t)) })
}

// pgCtl runs pg_ctl for a node as the owner of its files.
func (c *cluster) pgCtl(node string, args ...string) {
	c.t.Helper()
	n, err := c.layout.Node(node)
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.ctx(), filepath.Join(c.layout.BinDir, "pg_ctl"), append(args, "-D", n.DataDir, "-l", n.LogFile)...)
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		uid, gid, _, err := unroot.Account()
		if err != nil {
			c.t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("pg_ctl %v of %s: %v\n%s", args, node, err, out)
	}
}

// restartedByHand stops the primary cleanly and starts it within the grace.
func restartedByHand(c *cluster) {
	s := c.allUp()
	client := c.client()
	c.pgCtl(s.Primary, "stop", "-m", "fast")
	c.awaitRule(205, s.Seq)
	c.pgCtl(s.Primary, "start", "-W")
	c.awaitRule(213, s.Seq)
	c.allUp()
	c.sameTerm(s.Term, s.Primary)
	c.moreWrites(client, 20)
	client.Stop()
	if lost := c.lostAsLogged(client, s.Seq); lost != 0 {
		c.t.Errorf("%d rows were lost by a restart", lost)
	}
	c.replays()
}

// standbyDies kills the standby: status 3 and nothing else; started by hand, it
// comes back by itself.
func standbyDies(c *cluster) {
	s := c.allUp()
	client := c.calmClient()
	server := c.postmaster(s.Primary)
	standby := c.standby(s)
	_, _, err := c.layout.KillPostmaster(standby)
	if err != nil {
		c.t.Fatal(err)
	}
	down := c.await(standby+" to have status 3", func(n fsm.State) bool {
		d, _ := n.Node(standby)
		return d.Status == fsm.StatusDown
	})
	c.moreWrites(client, 50)
	c.unchanged(s, server)
	c.until("all processes of "+standby+" to end", func() bool { return len(c.processes(standby)) == 0 })
	c.pgCtl(standby, "start", "-W")
	c.await(standby+" to come back by itself", func(n fsm.State) bool { return n.Seq > down.Seq && serves(n, standby) })
	c.allUp()
	c.unchanged(s, server)
	c.undisturbed(client)
	c.replays()
}

// standby returns the name of one.
func (c *cluster) standby(s fsm.State) string {
	c.t.Helper()
	for _, n := range s.Nodes {
		if n.Name != s.Primary {
			return n.Name
		}
	}
	c.t.Fatal("there is no standby")
	return ""
}

// stoppedByHand stops the primary cleanly and leaves it: a failover that loses
// nothing. Then somebody starts the old primary read-write.
func stoppedByHand(c *cluster) {
	s := c.allUp()
	client := c.client()
	at := time.Now()
	c.pgCtl(s.Primary, "stop", "-m", "fast")
	suspected := c.awaitRule(205, s.Seq)
	fencing := c.awaitRule(217, s.Seq)
	if waited := fencing.Time.Sub(suspected.Time); waited < stopGrace-200*time.Millisecond {
		c.t.Errorf("the failover began %s after the stop; the grace is %s", waited, stopGrace)
	}
	now := c.failedOver(s)
	if p := c.proofOf(s.Seq); p.Kind != events.ProofDead {
		c.t.Errorf("the proof is %q; expected dead", p.Kind)
	}
	first := c.firstWrite(client, at, now.Primary)
	c.oneWriter(first.At, s.Primary, client)
	c.startReadWrite(s.Primary, now)
	c.sameTerm(now.Term, now.Primary)
	client.Stop()
	if lost := c.lostAsLogged(client, s.Seq); lost != 0 {
		c.t.Errorf("%d rows were lost by a clean stop", lost)
	}
	c.recover()
	c.replays()
}

// startReadWrite starts a node that is not the primary as one, by hand: its
// agent stops it.
func (c *cluster) startReadWrite(node string, now fsm.State) {
	c.t.Helper()
	n, err := c.layout.Node(node)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(n.DataDir, "standby.signal")); err != nil {
		c.t.Fatalf("a node that was proved dead must have a standby.signal: %v", err)
	}
	at := time.Now()
	c.pgCtl(node, "start", "-W")
	e := c.awaitEvent(node+" to be stopped by its agent", now.Seq, func(e events.Event) bool {
		d, ok := e.Data.(events.PostgresDead)
		return ok && d.Node == node && d.Cause == events.CauseFenced && e.Time.After(at)
	})
	c.t.Logf("%s was stopped %s after somebody started it read-write", node, e.Time.Sub(at))
	c.nothingLeft(node)
	if _, err := os.Stat(filepath.Join(n.DataDir, "standby.signal")); err != nil {
		c.t.Errorf("the next start of %s would be read-write again: %v", node, err)
	}
}

// TestFalseAlarms does to a primary what looks bad and is no reason for a
// failover.
func TestFalseAlarms(t *testing.T) {
	c := upWith(t, []string{"--nodes", "2", "--auth", "scram", "--port", freePorts(t, 2)})
	for _, f := range []struct {
		name string
		do   func(*cluster, fsm.State)
	}{
		{"replay paused on the standby", replayPaused},
		{"wrong password of the agents", wrongPassword},
		{"the agents' role may not log in", mayNotLogIn},
		{"no connection is free", noConnectionFree},
		{"a backend crashes", backendCrashes},
		{"crash recovery takes long", startsForLong},
	} {
		t.Run(f.name, func(t *testing.T) {
			c := c.on(t)
			s := c.allUp()
			server := c.postmaster(s.Primary)
			f.do(c, s)
			c.allUp()
			c.unchanged(s, server)
			for _, e := range c.story.decisions(s.Seq) {
				if d := e.Data.(events.Decided); d.Rule >= 200 && d.Rule < 900 {
					t.Errorf("decision %d by rule %d: %s", e.Seq, d.Rule, d.Why)
				}
			}
			c.replays()
		})
	}
}

// calm waits for as many renewals of the lease as last longer than the hang
// time, during which nothing may be decided about the primary.
func (c *cluster) calm(s fsm.State) {
	c.t.Helper()
	renewals := int(s.Policy.Hang.D()/s.Policy.Renew.D()) + 3
	from := c.state().Seq
	c.await(strconv.Itoa(renewals)+" renewals of the lease", func(n fsm.State) bool {
		count := 0
		for _, e := range c.story.since(from) {
			if _, ok := e.Data.(events.LeaseRenewed); ok {
				count++
			}
		}
		return count >= renewals || n.Term != s.Term
	})
	c.sameTerm(s.Term, s.Primary)
}

func (c *cluster) primaryIs(s fsm.State, state events.PostgresState) {
	c.t.Helper()
	c.await(s.Primary+" to be "+string(state), func(n fsm.State) bool {
		p, _ := n.Node(s.Primary)
		return p.PG.State == state
	})
}

func replayPaused(c *cluster, s fsm.State) {
	client := c.calmClient()
	conn := c.session(c.standby(s))
	c.exec(conn, "select pg_wal_replay_pause()")
	c.calm(s)
	c.exec(conn, "select pg_wal_replay_resume()")
	c.undisturbed(client)
}

// wrongPassword makes the server ask the agents for a password, and changes it.
func wrongPassword(c *cluster, s fsm.State) {
	client := c.calmClient()
	n, err := c.layout.Node(s.Primary)
	if err != nil {
		c.t.Fatal(err)
	}
	hba := filepath.Join(n.DataDir, "pg_hba.conf")
	before, err := os.ReadFile(hba)
	if err != nil {
		c.t.Fatal(err)
	}
	conn := c.session(s.Primary)
	c.write(hba, append([]byte("local all "+lab.AgentUser+" scram-sha-256\n"), before...))
	c.exec(conn, "alter role "+lab.AgentUser+" password 'another'")
	c.exec(conn, "select pg_reload_conf()")
	c.until("the agent to be refused", func() bool {
		c.exec(conn, throwAgentsOut)
		p, _ := c.state().Node(s.Primary)
		return p.PG.State == events.PostgresRefusing && p.PG.SQLState == "28P01"
	})
	c.awaitEvent("the agent of another node to be refused", s.Seq, func(e events.Event) bool {
		d, ok := e.Data.(events.PeerSeen)
		return ok && d.Node == s.Primary && d.State == events.PostgresRefusing
	})
	c.calm(s)
	c.write(hba, before)
	c.exec(conn, "alter role "+lab.AgentUser+" password '"+c.layout.Password(lab.AgentUser)+"'")
	c.exec(conn, "select pg_reload_conf()")
	c.primaryIs(s, events.PostgresUp)
	c.undisturbed(client)
}

// write writes a file that is there, whoever owns it.
func (c *cluster) write(path string, text []byte) {
	c.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// throwAgentsOut ends the sessions of agents on a server.
const throwAgentsOut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = '" + lab.AgentUser + "'"

func mayNotLogIn(c *cluster, s fsm.State) {
	client := c.calmClient()
	conn := c.session(s.Primary)
	c.exec(conn, "alter role "+lab.AgentUser+" nologin")
	c.exec(conn, throwAgentsOut)
	c.primaryIs(s, events.PostgresRefusing)
	c.calm(s)
	c.exec(conn, "alter role "+lab.AgentUser+" login")
	c.undisturbed(client)
}

// noConnectionFree takes every connection, those that are reserved for
// superusers too.
func noConnectionFree(c *cluster, s fsm.State) {
	conn := c.session(s.Primary)
	var all []*lab.Busy
	all = append(all, c.busy(s.Primary))
	taken := c.takeConnections(s.Primary)
	c.exec(conn, throwAgentsOut)
	taken = append(taken, c.takeConnections(s.Primary)...)
	c.until("the agent to find no connection", func() bool {
		taken = append(taken, c.takeConnections(s.Primary)...)
		p, _ := c.state().Node(s.Primary)
		if p.PG.State == events.PostgresRefusing {
			return true
		}
		c.exec(conn, throwAgentsOut)
		return false
	})
	c.calm(s)
	for _, t := range taken {
		t()
	}
	c.undisturbedBusy(all[0])
}

// backendCrashes: PostgreSQL ends every session and starts itself again.
func backendCrashes(c *cluster, s fsm.State) {
	client := c.client()
	conn := c.session(s.Primary)
	pid, err := strconv.Atoi(c.text(conn, "select pg_backend_pid()::text"))
	if err != nil {
		c.t.Fatal(err)
	}
	at := c.kill(pid)
	if _, err := client.AwaitOutage(c.ctx(), at); err != nil {
		c.t.Fatal(err)
	}
	c.calm(s)
	client.Stop()
	if lost := c.lostAsLogged(client, s.Seq); lost != 0 {
		c.t.Errorf("%d rows were lost by the crash of a backend", lost)
	}
}

// startsForLong freezes the process that recovers a server after the crash of a
// backend: it answers "starting up" for as long.
func startsForLong(c *cluster, s fsm.State) {
	conn := c.session(s.Primary)
	c.exec(conn, "create table long_recovery as select i, repeat('x', 100) from generate_series(1, 100000) i")
	pid, err := strconv.Atoi(c.text(conn, "select pg_backend_pid()::text"))
	if err != nil {
		c.t.Fatal(err)
	}
	server := c.postmaster(s.Primary)
	c.kill(pid)
	startup := 0
	for end := time.Now().Add(patience); startup == 0 && time.Now().Before(end); {
		if startup = startupOf(server); startup != 0 {
			c.freeze(startup)
		}
	}
	c.primaryIs(s, events.PostgresStarting)
	c.calm(s)
	if err := syscall.Kill(startup, syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
	c.primaryIs(s, events.PostgresUp)
}
