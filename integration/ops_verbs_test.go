//go:build linux

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

func TestVerbs(t *testing.T) {
	c := opsUp(t, 2)
	c.part("status", verbStatus)
	c.part("log and replay", verbLog)
	c.part("policy", verbPolicy)
	c.part("detach and attach", verbDetach)
	c.part("switchover", verbSwitchover)
	c.part("switchover refused", verbSwitchoverRefused)
	c.part("switchover whose target dies", verbTargetDies)
	c.part("pause", verbPause)
	c.part("pause runs out", verbPauseEnds)
	c.part("wrong use", verbWrong)
}

// columns of pgpool-II 4.3's SHOW POOL_NODES, and of 3.4's.
const (
	columns43 = "node_id | hostname | port | status | pg_status | lb_weight | role | pg_role | select_cnt | load_balance_node | replication_delay | replication_state | replication_sync_state | last_status_change"
	columns34 = "node_id | hostname | port | status | lb_weight | role"
)

// columnsOf is the heading of a table, its spaces made one.
func columnsOf(said string) string {
	for _, line := range strings.Split(said, "\n") {
		if strings.Contains(line, "node_id") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return ""
}

func verbStatus(t *testing.T, c *opsCluster) {
	if got := columnsOf(c.must("status")); got != columns34 {
		t.Errorf("columns %q, expected %q", got, columns34)
	}
	said := c.must("status", "--format", "pgpool43")
	if got := columnsOf(said); got != columns43 {
		t.Errorf("columns %q, expected %q", got, columns43)
	}
	row := regexp.MustCompile(`(?m)^ 1 +\| db2 +\| \d+ +\| (waiting|up) +\| up +\| 0\.500000 +\| standby \| standby \| 0 +\| false +\| \d+ +\| streaming +\| async +\| \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$`)
	if !row.MatchString(said) {
		t.Errorf("no row of db2 as expected in:\n%s", said)
	}
	v := c.view(t)
	for _, k := range []string{"cluster", "phase", "term", "durability", "nodes", "seq"} {
		if _, ok := v[k]; !ok {
			t.Errorf("status --output json has no %q", k)
		}
	}
	nodes, _ := v["nodes"].([]any)
	if len(nodes) != 2 {
		t.Fatalf("status has %d nodes, expected 2", len(nodes))
	}
	node, _ := nodes[0].(map[string]any)
	for _, k := range []string{
		"node_id", "name", "hostname", "port", "status", "pg_status", "lb_weight", "role", "pg_role", "replication_delay",
		"replication_state", "replication_sync_state", "last_status_change", "agent_pid", "postmaster_pid",
	} {
		if _, ok := node[k]; !ok {
			t.Errorf("a node of status --output json has no %q", k)
		}
	}
	if pid, _ := node["postmaster_pid"].(float64); !alive(int(pid)) {
		t.Errorf("postmaster_pid %v is no process", pid)
	}
}

func verbLog(t *testing.T, c *opsCluster) {
	lines := strings.Split(strings.TrimSpace(c.must("log", "--all", "--output", "json")), "\n")
	last := uint64(0)
	for _, l := range lines {
		var e events.Stored
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatalf("%v in %s", err, l)
		}
		if e.Seq != last+1 {
			t.Fatalf("event %d comes after event %d", e.Seq, last)
		}
		last = e.Seq
	}
	file := filepath.Join(t.TempDir(), "log.jsonl")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range [][]string{nil, {"--from", file}} {
		var r struct{ Events, Decisions, Rederived, Different, Void, Broken int }
		if err := json.Unmarshal([]byte(c.must(append([]string{"replay", "--output", "json"}, from...)...)), &r); err != nil {
			t.Fatal(err)
		}
		if r.Events < len(lines) || r.Decisions == 0 || r.Different+r.Void+r.Broken != 0 {
			t.Errorf("replay %q: %+v", from, r)
		}
	}
	changed := strings.Replace(strings.Join(lines, "\n"), `"rule":101`, `"rule":103`, 1)
	if err := os.WriteFile(file, []byte(changed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("replay", "--from", file).says(t, "the replay of a changed decision", 1, "differs: event")
	if said := c.must("log", "--kind", "decided"); !strings.Contains(said, "rule 101") || strings.Contains(said, "took the lease") {
		t.Errorf("log --kind decided printed:\n%s", said)
	}
	var x struct {
		Seq      uint64
		Decision events.Decided
		Evidence []struct{ Seq uint64 }
		Results  []struct{ Seq uint64 }
	}
	if err := json.Unmarshal([]byte(c.must("explain", "--output", "json")), &x); err != nil {
		t.Fatal(err)
	}
	if x.Decision.Rule != 101 || len(x.Evidence) == 0 || len(x.Results) == 0 {
		t.Errorf("explain: %+v", x)
	}
	c.run("explain", "1").says(t, "explain of an event that is no decision", 1, "no decision", "--kind decided")
}

func verbPolicy(t *testing.T, c *opsCluster) {
	before := c.now().PolicyHash
	c.run("policy", "set", "lease=1s", "--reason", "test").says(t, "a policy that breaks an inequality", 3, "lease=1s", "at least 1s")
	c.run("policy", "set", "leese=5s", "--reason", "test").says(t, "a misspelt field", 2, "leese", "did you mean lease")
	c.run("policy", "set", "lease=5", "--reason", "test").says(t, "a number without a unit", 2, `lease="5"`, "3s")
	c.run("policy", "set", "lease=5s").says(t, "no reason", 2, "--reason")
	if now := c.now().PolicyHash; now != before {
		t.Errorf("a refused policy changed %s to %s", before, now)
	}
	said := c.must("policy", "set", "stop_grace=3s", "max_lag=8MB", "--reason", "test")
	if !strings.Contains(said, "stop_grace=3s (was 5s), max_lag=8388608 (was 16777216)") {
		t.Errorf("policy set said %q", said)
	}
	s := c.await("the new policy", func(s fsm.State) bool { return s.PolicyHash != before })
	if s.Policy.StopGrace.D() != 3*time.Second || s.Policy.MaxLag != 8<<20 {
		t.Errorf("the policy is %+v", s.Policy)
	}
	last := len(c.since(0))
	if said := c.must("policy", "set", "stop_grace=3s", "--reason", "test"); !strings.Contains(said, "nothing to change") {
		t.Errorf("a policy set that changes nothing said %q", said)
	}
	for _, e := range c.since(0)[last:] {
		if e.Kind() == (events.PolicySet{}).Kind() {
			t.Errorf("a policy set that changes nothing wrote event %d", e.Seq)
		}
	}
	if said := c.must("policy"); !strings.Contains(said, "stop_grace=3s") || !strings.Contains(said, s.PolicyHash) {
		t.Errorf("policy said:\n%s", said)
	}
	dsn := strings.TrimSpace(c.must("dsn"))
	if dsn != c.layout.DSN() {
		t.Errorf("dsn is %q, expected %q", dsn, c.layout.DSN())
	}
	if said := c.must("version"); !strings.Contains(said, "rule set 1") {
		t.Errorf("version said %q", said)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(c.must("version", "--output", "json")), &v); err != nil || v["rule_set"] != float64(1) {
		t.Errorf("version --output json: %v %v", v, err)
	}
}

func verbDetach(t *testing.T, c *opsCluster) {
	c.refused([]string{"db1 is the primary", "switchover"}, "detach", "db1")
	c.refused([]string{"db2 is not detached"}, "attach", "db2")
	if said := c.must("detach", "db2", "--reason", "test"); !strings.Contains(said, "db2 detached") {
		t.Errorf("detach said %q", said)
	}
	if said := c.must("status"); !strings.Contains(said, "detached: db2") {
		t.Errorf("status does not tell of the detach:\n%s", said)
	}
	c.await("status 3 of db2", func(s fsm.State) bool {
		n, _ := s.Node("db2")
		return n.Status == fsm.StatusDown && n.PG.Receiver == "streaming" // nothing is stopped
	})
	c.refused([]string{"detached already"}, "detach", "db2")
	c.refused([]string{"db2 is detached", "attach it first"}, "switchover", "db2", "--yes")
	c.refused([]string{"db2 is detached"}, "switchover", "--yes")
	c.must("attach", "1")
	c.healthy()
	c.run("detach", "db9").says(t, "a node that is not there", 2, `"db9"`, "db1, db2")
}

func verbSwitchover(t *testing.T, c *opsCluster) {
	w := c.client(t)
	for _, args := range [][]string{{"switchover", "db2", "--yes"}, {"switchover", "--yes"}} {
		s := c.now()
		seq, to := s.Seq, c.other(s.Primary)
		said := c.must(args...)
		if !strings.Contains(said, to+" is the primary of term") {
			t.Errorf("%q said %q", args, said)
		}
		if now := c.healthy(); now.Primary != to || now.Term != s.Term+1 {
			t.Errorf("the primary is %s in term %d, expected %s in %d", now.Primary, now.Term, to, s.Term+1)
		}
		for _, e := range c.since(seq) {
			if d, ok := e.Data.(events.Decided); ok && d.Loss != nil && d.Loss.Bytes != 0 {
				t.Errorf("decision %d of a switchover admits the loss of %d bytes", e.Seq, d.Loss.Bytes)
			}
		}
	}
	if v := w.settle(t); len(v.Lost) > 0 {
		t.Errorf("%d rows are lost by switchovers", len(v.Lost))
	}
}

func verbSwitchoverRefused(t *testing.T, c *opsCluster) {
	s := c.now()
	to := c.other(s.Primary)
	c.refused([]string{s.Primary + " is the primary already"}, "switchover", s.Primary, "--yes")
	c.run("switchover", to).says(t, "without a terminal", 2, "--yes")

	c.sql(t, to, "select pg_wal_replay_pause()")
	c.await("a paused replay", func(s fsm.State) bool { n, _ := s.Node(to); return n.PG.ReplayPaused })
	c.refused([]string{"replay is paused on " + to, "pg_wal_replay_resume"}, "switchover", to, "--yes")
	c.sql(t, to, "select pg_wal_replay_resume()")
	c.await("a resumed replay", func(s fsm.State) bool { n, _ := s.Node(to); return !n.PG.ReplayPaused })

	lagging(t, c, to)

	c.kill(t, to)
	c.await("the standby's end", func(s fsm.State) bool { n, _ := s.Node(to); return n.PG.State == events.PostgresDown })
	c.refused([]string{to + " does not stream", "interrex recover " + to}, "switchover", to, "--yes")
	c.recover(to)
	if now := c.now(); now.Term != s.Term {
		t.Errorf("refused switchovers led from term %d to %d", s.Term, now.Term)
	}
}

// lagging: a receiver that stands still while more than max_lag is written.
func lagging(t *testing.T, c *opsCluster, to string) {
	primary := c.now().Primary
	c.must("policy", "set", "max_lag=1MB", "--reason", "test")
	thaw := opsFreeze(t, c.receiver(t, to))
	c.sql(t, primary, bulk(3<<20), "drop table bulk")
	c.await("a lag that is seen", func(s fsm.State) bool {
		n, _ := s.Node(to)
		return n.LSN.Behind(s.PrimaryLSN) > 1<<20
	})
	c.refused([]string{to + " lags ", "max_lag is 1048576"}, "switchover", to, "--yes")
	thaw()
	c.await("a standby that caught up", func(s fsm.State) bool {
		n, _ := s.Node(to)
		return n.LSN.Behind(s.PrimaryLSN) == 0
	})
	c.must("policy", "set", "max_lag=16MB", "--reason", "test")
}

// bulk is a statement that writes so much WAL.
func bulk(bytes int) string {
	return "create table bulk as select repeat(md5(i::text), 30) as x from generate_series(1, " + strconv.Itoa(bytes/1000) + ") i"
}

// verbTargetDies kills the target between the decision to switch and its
// promotion: the old primary takes over again.
func verbTargetDies(t *testing.T, c *opsCluster) {
	w := c.client(t)
	for range 5 {
		s := c.now()
		to := c.other(s.Primary)
		postmaster, err := c.layout.Postmaster(to)
		if err != nil {
			t.Fatal(err)
		}
		verb := opsStart(t, nil, "switchover", to, "--yes", "--dir", c.dir)
		c.awaitEvent("the decision to switch", s.Seq, decidedBy(701))
		if err := syscall.Kill(postmaster, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		code := verb.ended(t, opsWait)
		now := c.await("an end of the switchover", func(s fsm.State) bool { return s.Phase == events.Healthy })
		if now.Primary == to || len(named(c, s.Seq)) > 0 && named(c, s.Seq)[0] == to {
			c.healthyAfter(t, now)
			continue // it was promoted before it died
		}
		if code != 1 || !strings.Contains(verb.out.String(), s.Primary+" took over again") {
			t.Errorf("switchover ended with %d:\n%s", code, verb.out)
		}
		if now.Primary != s.Primary || now.Term != s.Term+1 {
			t.Errorf("the primary is %s in term %d, expected %s again in %d", now.Primary, now.Term, s.Primary, s.Term+1)
		}
		c.awaitEvent("rule 705", s.Seq, decidedBy(705))
		c.recover(to)
		if v := w.settle(t); len(v.Lost) > 0 {
			t.Errorf("%d rows are lost", len(v.Lost))
		}
		return
	}
	t.Error("the target could not be killed in time in 5 switchovers")
}

// named lists the primaries that the decisions after seq named.
func named(c *opsCluster, seq uint64) (out []string) {
	for _, e := range c.since(seq) {
		if d, ok := e.Data.(events.Decided); ok && d.Grant != nil && d.Proof != nil {
			out = append(out, d.Grant.Node)
		}
	}
	return out
}

// healthyAfter recovers whichever standby is down.
func (c *opsCluster) healthyAfter(t *testing.T, s fsm.State) {
	t.Helper()
	for _, n := range s.Nodes {
		if n.Name != s.Primary && n.PG.State != events.PostgresUp {
			c.must("recover", n.Name, "--yes")
		}
	}
	c.healthy()
}

// verbPause: what would have been done is logged, and done when it ends.
func verbPause(t *testing.T, c *opsCluster) {
	w := c.client(t)
	c.run("pause").says(t, "a pause without a reason", 2, "--reason")
	c.run("pause", "--reason", "x", "--for", "48h").says(t, "a pause of two days", 2, "24h")
	c.refused([]string{"not paused"}, "resume")
	c.must("pause", "--reason", "work on the switch", "--for", "1h")
	said := c.must("status")
	if !regexp.MustCompile(`paused: by \S+@\S+ for 1h0m0s: work on the switch`).MatchString(said) {
		t.Errorf("status does not tell of the pause:\n%s", said)
	}
	s := c.await("a grant that may stay", func(s fsm.State) bool { return s.Paused() && s.Grant.Stay })
	to := c.other(s.Primary)
	c.kill(t, s.Primary)
	c.awaitEvent("the declined failover", s.Seq, func(e events.Event) bool {
		d, ok := e.Data.(events.Declined)
		return ok && d.Rule == 203 && strings.Contains(d.Missing, "paused by") && strings.Contains(d.Missing, "work on the switch")
	})
	last := c.now().Seq
	c.await("some heartbeats", func(s fsm.State) bool { return s.Seq >= last+4 })
	if now := c.now(); now.Term != s.Term || now.Primary != s.Primary {
		t.Errorf("a paused cluster went on to term %d of %s", now.Term, now.Primary)
	}
	for _, e := range c.since(s.Seq) {
		if d, ok := e.Data.(events.Decided); ok && len(d.Orders) > 0 {
			t.Errorf("a paused cluster ordered %+v in decision %d", d.Orders, e.Seq)
		}
	}
	c.must("resume", "--reason", "done")
	c.failedOver(s.Term, to)
	c.recover(s.Primary)
	w.settle(t)
}

// verbPauseEnds: a short pause is over by itself.
func verbPauseEnds(t *testing.T, c *opsCluster) {
	seq := c.now().Seq
	c.must("pause", "--reason", "short", "--for", "1s")
	e := c.awaitEvent("the pause's end", seq, decidedBy(905))
	s := c.await("a cluster that is not paused", func(s fsm.State) bool { return !s.Paused() && !s.Grant.Stay })
	if d := e.Data.(events.Decided); d.Pause == nil || d.Pause.Owner != "" {
		t.Errorf("decision %d does not lift the pause: %+v", e.Seq, d.Pause)
	}
	if strings.Contains(c.must("status"), "paused") {
		t.Error("status still tells of a pause")
	}
	to := c.other(s.Primary)
	c.kill(t, s.Primary)
	c.failedOver(s.Term, to)
	c.recover(s.Primary)
}

func verbWrong(t *testing.T, c *opsCluster) {
	for _, x := range []struct {
		args  []string
		code  int
		words []string
	}{
		{[]string{"swichover"}, 2, []string{`"swichover"`, "did you mean: interrex switchover"}},
		{[]string{"xyzzy-plugh"}, 2, []string{"xyzzy-plugh", "interrex --help"}},
		{[]string{"failover", "--yes"}, 2, []string{"--reason"}},
		{[]string{"recover"}, 2, []string{"arg", "interrex recover --help"}},
		{[]string{"status", "--format", "pgpool5"}, 2, []string{"pgpool5", "pgpool43"}},
		{[]string{"status", "--output", "xml"}, 2, []string{"xml", "json"}},
		{[]string{"status", "--frmat", "x"}, 2, []string{"--frmat"}},
		{[]string{"policy", "sett", "lease=5s"}, 2, []string{`"policy sett"`, "did you mean: interrex policy set"}},
		{[]string{"log", "--node", "db9"}, 2, []string{`"db9"`, "db1, db2"}},
		{[]string{"log", "--after", "99999999"}, 2, []string{"99999999", "ends at event"}},
		{[]string{"bench", "failover", "--faults", "X"}, 2, []string{`"X"`, "A, B, C, D, E, F"}},
		{[]string{"log", "--kind", "decidd"}, 2, []string{"decidd", "decided"}},
		{[]string{"explain", "first"}, 2, []string{`"first"`, "last"}},
		{[]string{"policy", "set", "lease", "--reason", "x"}, 2, []string{`"lease"`, "NAME=VALUE"}},
	} {
		c.run(x.args...).says(t, "interrex "+strings.Join(x.args, " "), x.code, x.words...)
	}
}
