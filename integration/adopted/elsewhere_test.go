package adopted

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/internal/debiantest"
	"github.com/interrex-ha/interrex/internal/sshdtest"
)

// overSSH makes the tutorial's world of a pair: two nodes that are reached by ssh
// as postgres, each through a server of its own, and nothing else.
func overSSH(t *testing.T) (c *cluster, w *sshdtest.World, servers map[string]*sshdtest.Server) {
	t.Helper()
	w = sshdtest.New(t, "postgres")
	c = takable(t)
	servers = map[string]*sshdtest.Server{"db1": w.Serve(t), "db2": w.Serve(t)}
	c.env = append(c.env, "INTERREX_SSH_CONFIG="+w.ClientConfig)
	for id, name := range []string{"db1", "db2"} {
		v := "INTERREX_NODE_" + strconv.Itoa(id) + "_"
		c.env = append(c.env, v+"EXECUTOR=ssh", v+"SSH_HOST=127.0.0.1", v+"SSH_USER=postgres", v+"SSH_PORT="+strconv.Itoa(servers[name].Port),
			v+"SSH_KEY="+w.Key, v+"PASSFILE="+c.nodes[name].Passfile)
	}
	return c, w, servers
}

// TestTutorialOverSSH performs what the tutorial promises, and what it does not
// speak of: the primary's service is stopped, the standby promoted, the old
// primary recovered, all by ssh; then a crash, and a host that cannot be reached.
func TestTutorialOverSSH(t *testing.T) {
	c, _, servers := overSSH(t)
	db1, db2 := c.nodes["db1"], c.nodes["db2"]
	db1.SQL("CREATE TABLE kept (n int)")

	out := c.must("up", "--plan")
	for _, want := range []string{"reached by ssh postgres@127.0.0.1:", "its agent runs here and cannot stop it", "Interrex can take over"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan says nothing of %q:\n%s", want, out)
		}
	}
	u := c.up()
	u.await("a healthy cluster under db1", healthy("db1"))
	if out := c.must("status"); !strings.Contains(out, "cannot stop") {
		t.Errorf("status does not say that a lease proves nothing here:\n%s", out)
	}

	db1.SQL("INSERT INTO kept VALUES (1)")
	db1.Ctl("stop", "--mode", "fast") // as `systemctl stop postgresql` does
	u.await("db2 promoted after the stop", func(s status) bool { return s.Phase == "healthy" && s.Primary == "db2" })
	if got := db2.SQL("SELECT pg_is_in_recovery()"); got != "f" {
		t.Fatalf("db2 is in recovery: %s", got)
	}
	db2.SQL("INSERT INTO kept VALUES (2)")
	c.recovered(u, "db1", "db2")
	debiantest.Until(t, func() bool { return db1.SQL("SELECT count(*) FROM kept") == "2" }, "both rows on db1")

	began := time.Now()
	if err := syscall.Kill(c.postmaster("db2"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.await("db1 primary after a crash of db2", func(s status) bool { return s.Phase == "healthy" && s.Primary == "db1" })
	t.Logf("db1 was primary and settled %s after db2 was killed", time.Since(began).Round(time.Millisecond))
	if out := c.must("explain"); !strings.Contains(out, "dead") {
		t.Errorf("the failover was not explained by a proof of death:\n%s", out)
	}
	c.recovered(u, "db2", "db1")
	if out := c.must("switchover", "db2", "--yes"); !strings.Contains(out, "db2 is the primary") {
		t.Errorf("switchover says:\n%s", out)
	}
	u.await("both up under db2", healthy("db2"))

	c.unreachable(u, servers["db2"], "db2", "db1")
	u.stop()
	if c.postmaster("db1") == 0 {
		t.Error("db1 was stopped by the end of interrex up")
	}
}

// recovered waits until a node is back, recovering it where nobody does it by
// itself.
func (c *cluster) recovered(u *up, node, primary string) {
	c.t.Helper()
	s := u.await("the failover settled", func(s status) bool { return s.Phase == "healthy" })
	if !healthy(primary)(s) {
		c.must("recover", node, "--yes")
	}
	u.await(node+" back as a standby", healthy(primary))
	c.nodes[node].Streams()
}

// unreachable cuts the primary's host off and freezes its PostgreSQL: nothing can
// be proved, so nobody is promoted until a person says so.
func (c *cluster) unreachable(u *up, server *sshdtest.Server, primary, standby string) {
	c.t.Helper()
	server.Stop(c.t)
	debiantest.Until(c.t, func() bool { return strings.Contains(c.must("log"), "its host is not heard of by its agent") }, "the log saying that the host is not heard of")
	if out := c.must("status"); !strings.Contains(out, "unheard: "+primary) || !strings.Contains(out, "refused") {
		c.t.Errorf("status does not say why the host is not heard of:\n%s", out)
	}
	u.await("nothing stopped for it", func(s status) bool { return s.Phase == "healthy" && s.Primary == primary })
	pid := c.postmaster(primary)
	frozen := family(c.t, pid)
	for _, p := range frozen {
		if err := syscall.Kill(p, syscall.SIGSTOP); err != nil {
			c.t.Fatal(err)
		}
	}
	c.t.Cleanup(func() {
		for _, p := range frozen {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
	})
	u.await("a named reason why nothing is promoted", func(s status) bool { return s.Phase == "stalled" || s.Phase == "suspect" })
	if got := c.nodes[standby].SQL("SELECT pg_is_in_recovery()"); got != "t" {
		c.t.Fatalf("%s was promoted without a proof", standby)
	}
	u.await("the cluster stalled", func(s status) bool { return s.Phase == "stalled" })
	for _, p := range frozen { // the person looks after the host first
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	c.must("failover", standby, "--accept-loss", "--reason", "its host is off", "--yes")
	u.await(standby+" promoted by an operator", func(s status) bool { return s.Phase == "healthy" && s.Primary == standby })
	server.Start(c.t)
	c.recovered(u, primary, standby)
}

// family is a postmaster and its children.
func family(t *testing.T, pid int) []int {
	t.Helper()
	out, err := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	all := []int{pid}
	for _, f := range strings.Fields(string(out)) {
		if n, err := strconv.Atoi(f); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// TestBadPlaces: each thing that can be wrong with a node's place is one clear
// finding; nothing is changed.
func TestBadPlaces(t *testing.T) {
	c, w, servers := overSSH(t)
	good := c.env
	other := sshdtest.Config(t, "UserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n")
	for _, bad := range []struct{ name, set, words string }{
		{"unknown host key", "INTERREX_SSH_CONFIG=" + other, "known_hosts"},
		{"wrong key", "INTERREX_NODE_0_SSH_KEY=" + w.StrangersKey(t), "postgres@127.0.0.1"},
		{"no such key", "INTERREX_NODE_0_SSH_KEY=/nowhere/id", "/nowhere/id"},
		{"refused", "INTERREX_NODE_0_SSH_PORT=1", "refused"},
		{"unknown name", "INTERREX_NODE_0_SSH_HOST=no-such-host.invalid", "no-such-host.invalid"},
	} {
		c.env = append(append([]string{}, good...), bad.set)
		out, code := c.run("up", "--plan")
		if code != 3 || !strings.Contains(out, bad.words) || strings.Count(out, "refuse") < 1 {
			t.Errorf("%s: exit code %d, expected 3 and %q:\n%s", bad.name, code, bad.words, out)
		}
	}
	// The addresses exchanged: each place leads to the other one's server.
	ports := "INTERREX_NODE_0_PORT=" + strconv.Itoa(c.nodes["db2"].Port)
	c.env = append(append([]string{}, good...), ports, "INTERREX_NODE_1_PORT="+strconv.Itoa(c.nodes["db1"].Port))
	if out, code := c.run("up", "--plan"); code != 3 || strings.Count(out, "leads to: Interrex would stop one") != 2 {
		t.Errorf("addresses exchanged: exit code %d:\n%s", code, out)
	}
	c.env = good
	servers["db1"].ChangeHostKey(t)
	if out, code := c.run("up", "--plan"); code != 3 || !strings.Contains(out, "changed") && !strings.Contains(out, "mismatch") {
		t.Errorf("a changed host key: exit code %d:\n%s", code, out)
	}
	if _, err := os.Stat(c.dir); err == nil {
		t.Error("a plan has made the directory")
	}
}

// scripts writes a pgpool user's scripts, which reach the nodes by ssh, and has
// the cluster use them.
func (c *cluster) scripts(w *sshdtest.World, port int, promote string) {
	c.t.Helper()
	db1, db2 := c.nodes["db1"], c.nodes["db2"]
	ssh := "ssh -F " + w.ClientConfig + " -i " + w.Key + " -p " + strconv.Itoa(port) + " -T postgres@"
	failover := w.Script(c.t, "failover_stream.sh", `[ "$1" = "$2" ] || exit 0 # a standby failed
`+strings.ReplaceAll(promote, "SSH", ssh))
	first := w.Script(c.t, "basebackup.sh", `desthost=$2 destdir=$3 port=$4 host=$7
`+ssh+`$desthost "rm -rf '$destdir'; PGPASSFILE=`+db1.Passfile+` `+db1.Bin("pg_basebackup")+` -D '$destdir' -Fp -Xs -c fast -R -h '$host' -p '$port' -U postgres -w"
`)
	start := w.Script(c.t, "pgpool_remote_start", ssh+`$1 "pg_ctlcluster --skip-systemctl-redirect `+db1.Version+` $(basename "$2") start >/dev/null 2>&1"`+"\n")
	for _, n := range []debiantest.Cluster{db1, db2} { // pgpool wants them in the primary's data directory
		n.Root("install", "-o", "postgres", "-m", "0700", first, start, n.Data())
	}
	c.env = append(c.env, "INTERREX_FAILOVER_COMMAND="+failover+" %d %P %H %R", "INTERREX_RECOVERY_1ST_STAGE_COMMAND=basebackup.sh")
}

// TestPgpoolScriptsOverSSH has the scripts of a pgpool user promote and recover;
// what they did is looked up.
func TestPgpoolScriptsOverSSH(t *testing.T) {
	c, w, servers := overSSH(t)
	db1 := c.nodes["db1"]
	c.scripts(w, servers["db1"].Port, `SSH$3 "`+db1.Bin("pg_ctl")+` -D '$4' -w promote"
`)
	u := c.up()
	u.await("a healthy cluster under db1", healthy("db1"))
	if err := syscall.Kill(c.postmaster("db1"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.await("db2 promoted by the script", func(s status) bool { return s.Phase == "healthy" && s.Primary == "db2" })
	if out := c.must("log"); !strings.Contains(out, "failover_command") {
		t.Errorf("the log says nothing of the script:\n%s", out)
	}
	if out := c.must("recover", "db1", "--yes"); !strings.Contains(out, "scripts") {
		t.Errorf("recover says:\n%s", out)
	}
	u.await("db1 back as a standby", healthy("db2"))
	db1.Streams()
	if got := db1.SQL("SHOW primary_slot_name"); got != "interrex_db1" {
		t.Errorf("db1 follows without its slot: %q", got)
	}
	if out := c.must("log", "--output", "json"); !strings.Contains(out, `"verdict":"verified"`) && !strings.Contains(out, `"verdict": "verified"`) {
		t.Errorf("the log does not say that the scripts were verified:\n%s", out)
	}
	u.stop()
}

// TestLyingScript: exit status 0 is not believed. The candidate that was not
// promoted is stopped, since nobody knows what the script has begun; with two
// nodes nobody is left then, and the cluster is stalled with a reason.
func TestLyingScript(t *testing.T) {
	c, w, servers := overSSH(t)
	c.scripts(w, servers["db1"].Port, "echo promoted >&2\n")
	c.env = append(c.env, "INTERREX_SEARCH_PRIMARY_NODE_TIMEOUT=2s")
	u := c.up()
	u.await("a healthy cluster under db1", healthy("db1"))
	if err := syscall.Kill(c.postmaster("db1"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s := u.await("a primary again, or a named reason", func(s status) bool { return s.Term > 1 && (s.Phase == "healthy" || s.Phase == "stalled") })
	out := c.must("log")
	if !strings.Contains(out, "not done though the script succeeded") {
		t.Errorf("the log does not say what the script did:\n%s", out)
	}
	if s.Phase == "healthy" && s.Primary != "db1" {
		t.Errorf("the cluster is healthy under %s, which was not promoted\n%s", s.Primary, out)
	}
}
