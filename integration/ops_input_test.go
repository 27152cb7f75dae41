//go:build linux

package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/internal/unroot"
)

// TestBadInput: one clear error each, that names the variable, the node or the
// file and says what to do; and nothing is made.
func TestBadInput(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	const data = "INTERREX_NODE_0_DATA_DIRECTORY=/nonexistent/a"
	for _, x := range []struct {
		name  string
		env   []string
		flags []string
		code  int
		words []string
	}{
		{"a gap in the node numbers", []string{data, "INTERREX_NODE_2_DATA_DIRECTORY=/nonexistent/c"}, nil, 2, []string{"INTERREX_NODE_2_", "not node 1", "INTERREX_NODE_1_DATA_DIRECTORY"}},
		{"an unknown variable", []string{"INTERREX_CLUSTR=x"}, nil, 2, []string{"INTERREX_CLUSTR", "did you mean INTERREX_CLUSTER"}},
		{"an unknown variable of a node", []string{data, "INTERREX_NODE_0_PROT=5432"}, nil, 2, []string{"INTERREX_NODE_0_PROT", "did you mean INTERREX_NODE_0_PORT"}},
		{"a bad duration", []string{"INTERREX_POLICY_LEASE=5"}, nil, 2, []string{`INTERREX_POLICY_LEASE="5"`, "duration with its unit"}},
		{"a broken inequality", []string{"INTERREX_POLICY_LEASE=1s"}, nil, 2, []string{"INTERREX_POLICY_LEASE", "lease=1s", "at least 1s"}},
		{"two nodes in one directory", []string{data, "INTERREX_NODE_1_DATA_DIRECTORY=/nonexistent/./a"}, nil, 2, []string{"INTERREX_NODE_1_DATA_DIRECTORY", "/nonexistent/a", "node 0"}},
		{"a dot in the cluster's name", []string{"INTERREX_CLUSTER=a.b"}, nil, 2, []string{`INTERREX_CLUSTER="a.b"`, "a-z, 0-9, _ and -"}},
		{"a data directory that is not there", []string{data}, nil, 2, []string{`INTERREX_NODE_0_DATA_DIRECTORY="/nonexistent/a"`, "SHOW data_directory"}},
		{"a port in use", nil, []string{"--port", port}, 1, []string{"port " + port, "db1", "in use", "choose another"}},
		{"a port that is none", nil, []string{"--port", "70000"}, 1, []string{"70000", "65535"}},
		{"too many nodes", nil, []string{"--nodes", "99"}, 1, []string{"99 nodes"}},
		{"no such way to authenticate", nil, []string{"--auth", "none"}, 1, []string{`"none"`, "scram", "trust"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := opsDir(t)
			opsRun(t, x.env, append([]string{"up", "--dir", dir}, x.flags...)...).says(t, "interrex up", x.code, x.words...)
			if made, _ := filepath.Glob(filepath.Join(dir, "*")); len(made) > 1 { // up.lock may stay
				t.Errorf("%q was made", made)
			}
		})
	}
	t.Run("no cluster", inputNoCluster)
	t.Run("no PostgreSQL", inputNoPostgres)
	t.Run("somebody else's directory", inputForeignDir)
}

// inputForeignDir: a directory with other things in it is refused, and as root
// it is not given away.
func inputForeignDir(t *testing.T) {
	dir := opsDir(t)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "theirs")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"up", "demo"} {
		opsRun(t, nil, verb, "--dir", dir).says(t, verb+" in somebody else's directory", 1, dir, "theirs", "absent or empty")
		after, err := os.Stat(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if b, a := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t); a.Uid != b.Uid || a.Gid != b.Gid {
			t.Errorf("%s gave %s from uid %d to uid %d", verb, theirs, b.Uid, a.Uid)
		}
	}
}

// inputNoCluster: a verb on a directory without a cluster says how to make one,
// and does not make the directory.
func inputNoCluster(t *testing.T) {
	dir := opsDir(t)
	for _, args := range [][]string{
		{"status"}, {"log"}, {"explain"}, {"replay"}, {"dsn"}, {"policy"}, {"controller"}, {"agent", "db1"},
		{"switchover", "--yes"}, {"failover", "--yes", "--reason", "x"}, {"recover", "db1", "--yes"}, {"detach", "db1"},
		{"pause", "--reason", "x"}, {"resume"}, {"controller", "--serve-log"}, {"up", "--join"},
	} {
		opsRun(t, nil, append(args, "--dir", dir)...).says(t, "interrex "+strings.Join(args, " "), 1, dir, "interrex up --dir")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was made", dir)
	}
}

// inputNoPostgres hides every server of this host from one process.
func inputNoPostgres(t *testing.T) {
	onlyRoot(t, "it hides /usr/lib/postgresql in a mount namespace")
	cmd := exec.Command("unshare", "-m", "/bin/sh", "-c", `/bin/mount -t tmpfs none /usr/lib/postgresql && exec "$0" up --dir "$1"`, binary, opsDir(t))
	cmd.Env = []string{"PATH=/usr/sbin", "HOME=/"} // no pg_config either
	out, _ := cmd.CombinedOutput()
	opsAnswer{cmd.ProcessState.ExitCode(), string(out), ""}.says(t, "interrex up without PostgreSQL", 1, "postgresql", "apt")
}

// TestOddLogs: what the log may do to its readers.
func TestOddLogs(t *testing.T) {
	c := opsUp(t, 2)
	c.part("strangers", inputStrangers)
	c.part("a second up", inputSecondUp)
	c.part("unknown observation", inputUnknownFact)
	c.part("no log", inputNoLog)
	c.part("a log that went backwards", inputBackwards)
	c.part("unknown policy", inputUnknownPolicy) // the last: nothing is decided after it
}

// opsAs is a command run as another account.
func opsAs(t *testing.T, uid, gid uint32, args ...string) opsAnswer {
	t.Helper()
	cmd := opsCommand(nil, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return opsAnswer{cmd.ProcessState.ExitCode(), string(out), ""}
}

func inputStrangers(t *testing.T, c *opsCluster) {
	at, err := c.address()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	for _, connect := range []string{`{}`, `{"user":"admin","pass":"admin"}`, `{"nkey":"UAAAA","sig":"x"}`} {
		if said := stranger(t, u.Host, connect); !strings.Contains(said, "Authorization Violation") {
			t.Errorf("CONNECT %s was answered with %q, expected an authorization violation", connect, said)
		}
	}
	onlyRoot(t, "it runs the binary as other accounts")
	opsAs(t, 65534, 65534, "status", "--dir", c.dir).says(t, "status as nobody", 1, c.dir, "belongs to another user", "as root")
	opsAs(t, 65534, 65534, "switchover", "--yes", "--dir", c.dir).says(t, "switchover as nobody", 1, "belongs to another user")
	uid, gid, _, err := unroot.Account()
	if err != nil {
		t.Fatal(err)
	}
	key := natslog.KeyFile(filepath.Join(c.dir, "keys"), natslog.RoleReader)
	if err := os.Chmod(key, 0); err != nil {
		t.Fatal(err)
	}
	opsAs(t, uid, gid, "status", "--dir", c.dir).says(t, "status without its key", 1, key, "permission denied", "as root")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	opsAs(t, uid, gid, "status", "--dir", c.dir).says(t, "status as the owner", 0, "healthy")
}

// stranger speaks NATS' protocol without a key of ours.
func stranger(t *testing.T, host, connect string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", host, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\nSUB interrex.> 1\r\n", connect)
	said, _ := io.ReadAll(in)
	return string(said)
}

func inputSecondUp(t *testing.T, c *opsCluster) {
	opsRun(t, nil, "up", "--dir", c.dir).says(t, "a second up", 1, "another interrex up", c.dir)
	opsRun(t, []string{"INTERREX_CLUSTER=other"}, "up", "--dir", c.dir).says(t, "another name while it runs", 1, c.dir)
	c.healthy()
}

// put appends an event that no version of ours writes.
func (c *opsCluster) put(t *testing.T, role natslog.Role, source string, d events.Data) events.Event {
	t.Helper()
	log, err := natslog.Dial(opsContext(t), natslog.DialOptions{
		Cluster: "main", KeyFile: natslog.KeyFile(filepath.Join(c.dir, "keys"), role), Name: "test", Locate: c.address,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(opsContext(t), 10*time.Second)
	defer cancel()
	var e events.Event
	opsPoll(t, "an append", func() bool {
		e, err = log.Append(ctx, events.Draft{ID: id.String(), Time: time.Now(), Source: source, Data: d})
		return err == nil
	})
	return e
}

// inputUnknownFact: kept and skipped; the cluster goes on.
func inputUnknownFact(t *testing.T, c *opsCluster) {
	e := c.put(t, natslog.RoleAgent, "agent/db2", events.Unknown{KindName: "disk-smelled", Version: 1, ClassIn: events.ClassHealth, KeyIn: "db2"})
	s := c.await("the unknown observation", func(s fsm.State) bool { return s.Seq >= e.Seq })
	if s.Halted != "" {
		t.Errorf("an unknown observation stops decisions: %s", s.Halted)
	}
	c.run("status").says(t, "status", 0, "disk-smelled", "skipped")
	c.crash(t)
	c.healthyAfter(t, c.now())
	c.must("replay")
}

// inputNoLog: what waits for a log says so, and ends when it is told to.
func inputNoLog(t *testing.T, c *opsCluster) {
	c.stop(t)
	c.run("status").says(t, "status without interrex up", 1, "does not run any more", "interrex up --dir "+c.dir)
	waiting := map[*opsProcess]int{
		opsStart(t, nil, "agent", "db1", "--dir", c.dir): 0,
		opsStart(t, nil, "up", "--join", "--dir", c.dir): 1,
	}
	for p, code := range waiting {
		opsPoll(t, "a word on the log", func() bool { return strings.Contains(p.out.String(), "the log does not answer; waiting for it") })
		p.signal(syscall.SIGTERM)
		if got := p.ended(t, opsWait); got != code {
			t.Errorf("%q ended with %d, expected %d:\n%s", p.cmd.Args[1:], got, code, p.out)
		}
	}
	c.start()
	c.healthy()
}

// inputBackwards puts an older copy of the log back.
func inputBackwards(t *testing.T, c *opsCluster) {
	c.stop(t)
	opsRun(t, []string{"INTERREX_CLUSTER=other"}, "up", "--dir", c.dir).says(t, "another cluster's directory", 1, c.dir, `"main"`, `"other"`, "another --dir")
	opsRun(t, nil, "up", "--dir", c.dir, "--nodes", "3").says(t, "another number of nodes", 1, "2 nodes", "--nodes 3")
	opsRun(t, nil, "up", "--dir", c.dir, "--port", "1234").says(t, "another port", 1, "--port 1234", "another --dir")
	opsRun(t, []string{"INTERREX_POLICY_LEASE=9s"}, "up", "--dir", c.dir).says(t, "another policy", 1, "INTERREX_POLICY_LEASE=9s", "lease=3s", "policy set")
	c.unwatch()
	store, old, right := filepath.Join(c.dir, "log"), filepath.Join(c.dir, "log.old"), filepath.Join(c.dir, "log.right")
	if out, err := exec.Command("cp", "-a", store, old).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.start()
	s := c.healthy()
	c.must("switchover", "--yes")
	c.healthy()
	c.stop(t)
	c.unwatch()
	for _, r := range [][2]string{{store, right}, {old, store}} {
		if err := os.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	a := opsRun(t, nil, "up", "--dir", c.dir)
	a.says(t, "up on an older log", 1, "went backwards", store, "head-controller.json")
	for _, n := range c.layout.Nodes {
		if _, err := os.Stat(filepath.Join(n.DataDir, "postmaster.pid")); err == nil {
			t.Errorf("%s was started on an older log", n.Name)
		}
	}
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(right, store); err != nil {
		t.Fatal(err)
	}
	c.start()
	now := c.await("the right log again", func(x fsm.State) bool { return x.Phase == events.Healthy && x.Term > s.Term+1 })
	c.healthy()
	if now.Primary == s.Primary {
		t.Errorf("the primary is %s, which was switched over from", now.Primary)
	}
}

// inputUnknownPolicy: what decisions depend on, and this version does not know,
// stops it from deciding.
func inputUnknownPolicy(t *testing.T, c *opsCluster) {
	s := c.healthy()
	e := c.put(t, natslog.RoleOperator, "operator/root", events.Unknown{KindName: "policy-set", Version: 99, ClassIn: events.ClassPolicy, KeyIn: "root"})
	c.await("the unknown policy", func(s fsm.State) bool { return s.Halted != "" })
	c.run("status").says(t, "status", 0, fmt.Sprintf("not deciding: event %d is a policy-set", e.Seq), "version 99", "upgrade")
	c.kill(t, s.Primary)
	dead := c.awaitEvent("the proof of the primary's death", s.Seq, func(e events.Event) bool {
		d, ok := e.Data.(events.PostgresDead)
		return ok && d.Node == s.Primary
	})
	c.await("heartbeats after it", func(x fsm.State) bool { return x.Seq > dead.Seq+3 })
	for _, x := range c.since(e.Seq) {
		if _, ok := x.Data.(events.Decided); ok {
			t.Errorf("event %d is a decision after the unknown policy", x.Seq)
		}
	}
	c.process.signal(syscall.SIGINT)
	if code := c.process.ended(t, opsWait); code != 1 || !strings.Contains(c.process.out.String(), "nobody decides here") {
		t.Errorf("interrex up ended with %d:\n%s", code, c.process.out)
	}
}
