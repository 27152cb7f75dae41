//go:build linux

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

func TestCandidates(t *testing.T) {
	c := opsUp(t, 3, "INTERREX_POLICY_MAX_LAG=1MB")
	c.part("the most advanced wins", candidateMostWAL)
	c.part("one beyond the bound is refused", candidateBeyond)
	c.part("none fits", candidateNone)
	c.part("no proof", candidateUnproved)
}

// standbys are the nodes that are not the primary, by id.
func (c *opsCluster) standbys() (a, b string) {
	s := c.now()
	var out []string
	for _, n := range s.Nodes {
		if n.Name != s.Primary {
			out = append(out, n.Name)
		}
	}
	return out[0], out[1]
}

// cutOff ends a standby's replication until it is led to a primary again.
func (c *opsCluster) cutOff(t *testing.T, node string) {
	t.Helper()
	c.sql(t, node, "alter system set primary_conninfo = ''", "select pg_reload_conf()")
	c.await(node+" without a receiver", func(s fsm.State) bool { n, _ := s.Node(node); return n.PG.Receiver == "" })
}

// explained is the newest decision that a person asks about.
func (c *opsCluster) explained(t *testing.T) events.Decided {
	t.Helper()
	var x struct{ Decision events.Decided }
	if err := json.Unmarshal([]byte(c.must("explain", "--output", "json")), &x); err != nil {
		t.Fatal(err)
	}
	return x.Decision
}

func candidate(d events.Decided, node string) events.Candidate {
	for _, c := range d.Candidates {
		if c.Node == node {
			return c
		}
	}
	return events.Candidate{}
}

// candidateMostWAL: the lower id lags a little, so the higher one wins.
func candidateMostWAL(t *testing.T, c *opsCluster) {
	s := c.now()
	behind, ahead := c.standbys()
	c.cutOff(t, behind)
	w := c.client(t)
	c.sql(t, s.Primary, "create table ahead ()")
	c.await("a standby that is ahead", func(s fsm.State) bool {
		a, _ := s.Node(ahead)
		b, _ := s.Node(behind)
		return a.LSN > b.LSN
	})
	// It lacks a little as well: the other one's position is waited for.
	lose := c.deaf(t, ahead)
	c.sql(t, s.Primary, "create table only_on_the_primary ()")
	c.kill(t, s.Primary)
	lose()
	c.failedOver(s.Term, ahead)
	d := c.explained(t)
	if x := candidate(d, ahead); !x.Chosen || x.Rejected != "" {
		t.Errorf("the candidate %s: %+v", ahead, x)
	}
	if x := candidate(d, behind); x.Chosen || x.Rejected != "" || x.LSN == 0 || x.LSN >= candidate(d, ahead).LSN {
		t.Errorf("the candidate %s: %+v", behind, x)
	}
	c.recover(s.Primary)
	w.settle(t)
}

// candidateBeyond: more than max_lag was written since one lost its receiver.
func candidateBeyond(t *testing.T, c *opsCluster) {
	s := c.now()
	behind, ahead := c.standbys()
	c.cutOff(t, behind)
	w := c.client(t)
	c.sql(t, s.Primary, bulk(3<<20), "drop table bulk")
	c.await("a standby far ahead", func(s fsm.State) bool {
		a, _ := s.Node(ahead)
		b, _ := s.Node(behind)
		return b.LSN.Behind(a.LSN) > 2<<20
	})
	lose := c.deaf(t, ahead)
	c.sql(t, s.Primary, "create table only_on_this_one_too ()")
	c.kill(t, s.Primary)
	lose()
	c.failedOver(s.Term, ahead)
	if x := candidate(c.explained(t), behind); !strings.Contains(x.Rejected, "max_lag is 1048576") || x.Lag < 1<<20 {
		t.Errorf("the candidate %s: %+v", behind, x)
	}
	if said := c.must("explain"); !strings.Contains(said, behind+" at ") || !strings.Contains(said, "no: it lacks ") {
		t.Errorf("explain does not name the refused candidate:\n%s", said)
	}
	c.recover(s.Primary)
	w.settle(t)
}

// candidateNone: both standbys lag beyond the bound and the old primary cannot
// be started again. Only a person's word resolves it.
func candidateNone(t *testing.T, c *opsCluster) {
	s := c.now()
	one, two := c.standbys()
	c.cutOff(t, one)
	c.cutOff(t, two)
	w := c.client(t)
	c.sql(t, s.Primary, bulk(3<<20), "drop table bulk")
	conf := filepath.Join(c.data(t, s.Primary), "postgresql.auto.conf")
	good, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, append(good, "shared_preload_libraries = 'there_is_no_such_library'\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.kill(t, s.Primary)
	stalled := c.await("a stalled cluster", func(s fsm.State) bool { return s.Phase == events.Stalled })
	for _, word := range []string{one + ": it lacks ", two + ": it lacks ", "max_lag is 1048576", s.Primary + ": ", "--accept-loss", "--reason"} {
		if !strings.Contains(stalled.Stall, word) {
			t.Errorf("the stall does not say %q: %s", word, stalled.Stall)
		}
	}
	if said := c.must("status"); !strings.Contains(said, "stalled: "+one) {
		t.Errorf("status does not tell of the stall:\n%s", said)
	}
	d := acceptLoss(t, c, one)
	if d.Proof == nil || d.Proof.Kind != events.ProofDead || d.Loss == nil || !d.Loss.Exact || d.Loss.Bytes < 1<<20 {
		t.Errorf("decision of rule %d: proof %+v, loss %+v", d.Rule, d.Proof, d.Loss)
	}
	if err := os.WriteFile(conf, good, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must("recover", s.Primary, "--yes")
	c.follows(two)
	w.settle(t)
}

// acceptLoss resolves a stalled cluster: by a person, with a reason, and it is
// recorded who that was.
func acceptLoss(t *testing.T, c *opsCluster, node string) events.Decided {
	t.Helper()
	c.refused([]string{"stalled", "--accept-loss"}, "failover", "--yes", "--reason", "test")
	c.run("failover", node, "--yes", "--accept-loss").says(t, "no reason", 2, "--reason")
	said := c.must("failover", node, "--yes", "--accept-loss", "--reason", "the disk is gone")
	if !strings.Contains(said, node+" is the primary of term") {
		t.Errorf("failover said %q", said)
	}
	d := c.explained(t)
	if d.Rule != 801 || d.Primary != node || d.Request == 0 {
		t.Errorf("the decision: rule %d names %s, answers %d", d.Rule, d.Primary, d.Request)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if said := c.must("explain"); !strings.Contains(said, "@"+host) || !strings.Contains(said, "the disk is gone") {
		t.Errorf("explain does not say who accepted the loss, and why:\n%s", said)
	}
	return d
}

// follows makes sure that a standby streams from the primary of the term.
func (c *opsCluster) follows(node string) {
	c.t.Helper()
	s := c.now()
	if n, _ := s.Node(node); n.PG.Upstream != s.Primary || n.PG.Receiver != "streaming" {
		c.must("recover", node, "--yes")
	}
	c.healthy()
}

// candidateUnproved: the primary is dead, but where its WAL ended cannot be
// read, and so nobody knows what would be lost.
func candidateUnproved(t *testing.T, c *opsCluster) {
	s := c.now()
	one, two := c.standbys()
	control := filepath.Join(c.data(t, s.Primary), "global", "pg_control")
	if err := os.Rename(control, control+".aside"); err != nil {
		t.Fatal(err)
	}
	c.kill(t, s.Primary)
	stalled := c.await("a stalled cluster", func(s fsm.State) bool { return s.Phase == events.Stalled })
	if !strings.Contains(stalled.Stall, "could not be proved dead") || !strings.Contains(stalled.Stall, "--accept-loss") {
		t.Errorf("the stall does not say why: %s", stalled.Stall)
	}
	if d := acceptLoss(t, c, one); d.Proof == nil || d.Proof.Kind != events.ProofOperator || !strings.Contains(d.Proof.Why, "the disk is gone") {
		t.Errorf("the proof is %+v, expected a person's word", d.Proof)
	}
	if err := os.Rename(control+".aside", control); err != nil {
		t.Fatal(err)
	}
	c.must("recover", s.Primary, "--yes", "--how", "basebackup")
	c.follows(two)
}
