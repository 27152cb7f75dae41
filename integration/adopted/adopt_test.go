package adopted

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/internal/debiantest"
)

// TestAdopted takes a pair of Debian's over, as root and through the socket,
// has it fail over, stops and starts Interrex beside it, and gives it back. The
// steps build on one another.
func TestAdopted(t *testing.T) {
	c := takable(t)
	db1, db2 := c.nodes["db1"], c.nodes["db2"]
	db1.SQL("CREATE TABLE kept (n int)")

	c.refusals()
	out := c.must("up", "--plan")
	if !strings.Contains(out, "Interrex can take over") {
		t.Errorf("the plan reads:\n%s", out)
	}
	if _, err := os.Stat(c.dir); err == nil {
		t.Error("the plan has made the directory")
	}
	before1, before2 := c.postmaster("db1"), c.postmaster("db2")

	u := c.up()
	s := u.await("a healthy cluster under db1", healthy("db1"))
	debiantest.Until(t, func() bool { return db1.SQL(slotsInUse) == "interrex_db2" }, "db2 using its slot")
	if c.postmaster("db1") != before1 || c.postmaster("db2") != before2 {
		t.Error("a server was restarted by taking over")
	}
	c.ranAsOwner(u)

	c.diverge("db1", "db2")
	if err := syscall.Kill(before1, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s = u.await("db2 as primary", func(now status) bool { return now.Phase == "healthy" && now.Primary == "db2" && now.Term > s.Term })
	t.Logf("db2 was primary and settled %s after the kill", time.Since(began).Round(time.Millisecond))
	db2.SQL("INSERT INTO kept VALUES (2)")
	c.comesBack(u)
	c.thereAndBack(u)
	c.fails(3, "another interrex up runs", "up", "--release")

	u.stop()
	c.servesAlone("db2", "db1", 3)
	pid1, pid2 := c.postmaster("db1"), c.postmaster("db2")
	c.otherClusters()

	u = c.up()
	u.await("a healthy cluster under db2 again", healthy("db2"))
	if c.postmaster("db1") != pid1 || c.postmaster("db2") != pid2 {
		t.Error("a server was restarted by starting interrex up again")
	}
	u.stop()

	out = c.must("up", "--release")
	t.Log("the release says:\n" + out)
	c.released("db2", "db1")
	if c.postmaster("db1") != pid1 || c.postmaster("db2") != pid2 {
		t.Error("a server was restarted by the release")
	}
	c.fails(2, "nothing to release", "up", "--release")
	c.otherLogs()

	u = c.up()
	u.await("the cluster taken over again", healthy("db2"))
	u.stop()
	c.diedMeanwhile()
	db1.Ctl("stop")
	out = c.must("up", "--release")
	if !strings.Contains(out, "db1 does not answer and was left as it is") {
		t.Errorf("the release says:\n%s", out)
	}
	if got := db2.SQL("SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("db2 still has %s slots", got)
	}
}

// diverge writes one row that the standby has and, with its receiver cut off,
// one that it has not.
func (c *cluster) diverge(primary, standby string) {
	c.t.Helper()
	from, to := c.nodes[primary], c.nodes[standby]
	from.SQL("INSERT INTO kept VALUES (1)")
	debiantest.Until(c.t, func() bool { return to.SQL("SELECT count(*) FROM kept") == "1" }, "the first row on "+standby)
	to.SQL("ALTER SYSTEM SET primary_conninfo = ''")
	to.SQL("SELECT pg_reload_conf()")
	debiantest.Until(c.t, func() bool { return to.SQL("SELECT count(*) FROM pg_stat_wal_receiver") == "0" }, "the end of the receiver of "+standby)
	from.SQL("INSERT INTO kept VALUES (99)")
}

// comesBack recovers db1 in both ways that replace files; its configuration, which
// lies outside the data directory, and its key, which a group may read, stay.
func (c *cluster) comesBack(u *up) {
	c.t.Helper()
	old := c.nodes["db1"]
	ssl := c.nodes["db2"].SQL("SHOW ssl")
	for _, how := range []string{"rewind", "basebackup"} {
		out := c.must("recover", "db1", "--yes", "--how", how)
		if !strings.Contains(out, "("+how+",") {
			c.t.Errorf("recover --how %s says:\n%s", how, out)
		}
		u.await("db1 back as a standby", healthy("db2"))
		debiantest.Until(c.t, func() bool { return old.SQL("SELECT string_agg(n::text, ',' ORDER BY n) FROM kept") == "1,2" }, "the rows of db2 on db1")
		if got := old.SQL("SHOW config_file"); got != old.Etc("postgresql.conf") {
			c.t.Errorf("db1 came back with the configuration %s", got)
		}
		if got := old.SQL("SHOW ssl"); got != ssl {
			c.t.Errorf("db1 came back with ssl %s, it was %s", got, ssl)
		}
	}
}

// thereAndBack switches over twice. A standby must keep no slots of the time when
// it was primary: they would keep its WAL until the disk is full.
func (c *cluster) thereAndBack(u *up) {
	c.t.Helper()
	for _, way := range []struct{ to, from string }{{"db1", "db2"}, {"db2", "db1"}} {
		c.must("switchover", way.to, "--yes")
		u.await(way.to+" as primary", healthy(way.to))
		debiantest.Until(c.t, func() bool { return c.nodes[way.to].SQL(slotsInUse) == "interrex_"+way.from }, way.from+" using its slot")
		debiantest.Until(c.t, func() bool { return c.nodes[way.from].SQL("SELECT count(*) FROM pg_replication_slots") == "0" }, way.from+" without slots of its time as primary")
	}
}

// diedMeanwhile: a server that died while nobody watched does not keep Interrex
// from being started, and is started by it.
func (c *cluster) diedMeanwhile() {
	c.t.Helper()
	for _, node := range []string{"db1", "db2"} {
		if err := syscall.Kill(c.postmaster(node), syscall.SIGKILL); err != nil {
			c.t.Fatal(err)
		}
		u := c.up()
		u.await("a healthy cluster after "+node+" died unwatched", healthy("db2"))
		u.stop()
		c.servesAlone("db2", "db1", 4)
		c.nodes["db2"].SQL("DELETE FROM kept WHERE n = 4")
	}
}

const slotsInUse = "SELECT coalesce(string_agg(slot_name, ',' ORDER BY slot_name), '') FROM pg_replication_slots WHERE active"

// refusals: what is wrong in the environment is said before anything is done.
func (c *cluster) refusals() {
	env := c.env
	c.env = append(env[:len(env):len(env)], "INTERREX_NODE_1_HOST=192.0.2.7")
	c.fails(3, "192.0.2.7 is not this host", "up", "--plan")
	c.fails(3, "192.0.2.7 is not this host", "up")
	c.env = []string{env[0], strings.Replace(env[1], "NODE_1", "NODE_2", 1)}
	c.fails(2, "node 2 is set, but not node 1", "up", "--plan")
	c.fails(2, "node 2 is set, but not node 1", "up")
	c.env = env
	_ = os.RemoveAll(c.dir) // a refused interrex up has made it
}

// otherClusters: a directory serves the cluster that it was made for.
func (c *cluster) otherClusters() {
	env := c.env
	defer func() { c.env = env }()
	c.env = append(env[:len(env):len(env)], "INTERREX_CLUSTER=other")
	c.fails(2, `holds the cluster "main"`, "up")
	c.env = env[:1]
	c.fails(2, "nodes cannot be added or taken away", "up")
	c.env = append(env[:len(env):len(env)], "INTERREX_NODE_1_NAME=db7")
	c.fails(2, `INTERREX_NODE_1_NAME="db7"`, "up")
}

// otherLogs: a released directory still holds the log of its cluster.
func (c *cluster) otherLogs() {
	env := c.env
	defer func() { c.env = env }()
	c.env = append(env[:len(env):len(env)], "INTERREX_CLUSTER=other")
	c.fails(2, `holds the log of cluster "main"`, "up")
	c.env = append(env[:len(env):len(env)], "INTERREX_NODE_1_NAME=db7")
	c.fails(1, "is of another cluster: its node 1 is db2", "up")
	if _, err := os.Stat(filepath.Join(c.dir, "adopted.json")); err == nil {
		c.t.Error("a cluster that the log does not know was remembered")
	}
}

// ranAsOwner: nothing of Interrex may run as root beside the servers.
func (c *cluster) ranAsOwner(u *up) {
	uid, _ := debiantest.Account(c.t)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", u.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	if want := fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\n", uid, uid, uid, uid); !strings.Contains(string(b), want) {
		c.t.Errorf("interrex up does not run as uid %d:\n%s", uid, b)
	}
}

// servesAlone: writes work without Interrex, and arrive.
func (c *cluster) servesAlone(primary, standby string, row int) {
	c.t.Helper()
	c.postmaster(primary)
	c.postmaster(standby)
	c.nodes[primary].SQL(fmt.Sprintf("INSERT INTO kept VALUES (%d)", row))
	debiantest.Until(c.t, func() bool {
		return c.nodes[standby].SQL(fmt.Sprintf("SELECT count(*) FROM kept WHERE n = %d", row)) == "1"
	}, "a row on the standby")
}

// released: nothing of ours is left in the servers, and they go on.
func (c *cluster) released(primary, standby string) {
	c.t.Helper()
	for name, n := range c.nodes {
		if got := n.SQL("SELECT count(*) FROM pg_replication_slots"); got != "0" {
			c.t.Errorf("%s has %s slots", name, got)
		}
		if got := n.SQL("SELECT count(*) FROM pg_namespace WHERE nspname = 'interrex'"); got != "0" {
			c.t.Errorf("the schema interrex is still on %s", name)
		}
		if got := n.SQL("SHOW primary_slot_name"); got != "" {
			c.t.Errorf("%s: primary_slot_name is still %q", name, got)
		}
	}
	c.nodes[standby].Streams()
	c.servesAlone(primary, standby, 100+int(time.Now().UnixMilli()%1e6))
}
