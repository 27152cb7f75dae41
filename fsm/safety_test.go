package fsm

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/events"
)

func TestProofDead(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		want   bool
	}{
		"proved":                        {func(s *State) { died(s) }, true},
		"nothing known":                 {func(*State) {}, false},
		"no standby.signal on its disk": {func(s *State) { died(s, func(d *events.PostgresDead) { d.StandbySignal = false }) }, false},
		"of an older term":              {func(s *State) { died(s, func(d *events.PostgresDead) { d.Term = 0 }) }, false},
		"of an older term, but this one was never acquired": {func(s *State) {
			died(s, func(d *events.PostgresDead) { d.Term = 0 })
			s.Grant.Acquired = 0
		}, true},
		"before the grant":                    {func(s *State) { died(s); s.node("db1").DeadSeq = 49 }, false},
		"before a re-grant of the same term":  {func(s *State) { died(s); s.Grant.Seq = 98 }, true},
		"of another node":                     {func(s *State) { died(s); s.Primary, s.Grant.Node = "db2", "db2" }, false},
		"after the term was first granted":    {func(s *State) { died(s); s.Grant.Begun = 94 }, true},
		"before the term was granted to it":   {func(s *State) { died(s); s.Grant.Begun = 96 }, false},
		"of a newer term than the grant's":    {func(s *State) { died(s, func(d *events.PostgresDead) { d.Term = 7 }) }, true},
		"a dead node that holds another term": {func(s *State) { died(s); s.Primary = "db3" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(3)
			c.change(&s)
			p, ok := proofDead(s)
			if ok != c.want || ok && (p.Kind != events.ProofDead || p.Node != "db1" || p.EndLSN != 1000 || p.Events[0] != 95) {
				t.Errorf("%v %+v", ok, p)
			}
		})
	}
}

func TestProofExpired(t *testing.T) {
	wait := events.DefaultPolicy().ExpiryWait()
	if wait <= events.DefaultPolicy().Lease.D() {
		t.Fatalf("the wait %s must be longer than the lease: the clocks may differ", wait)
	}
	for name, c := range map[string]struct {
		change  func(*State)
		missing string // part of what is missing; "" when proved
	}{
		"proved":                     {func(*State) {}, ""},
		"the grant lets it stay":     {func(s *State) { s.Grant.Stay = true }, "lets it stay"},
		"never acquired":             {func(s *State) { s.Grant.Acquired = 0 }, "never acquired"},
		"no fence survives":          {func(s *State) { s.Grant.Fence = "" }, "no fence"},
		"not renewed since re-grant": {func(s *State) { s.Grant.Renewed, s.Rung = 0, nil }, "newest grant"},
		"renewed meanwhile":          {func(s *State) { s.Grant.Renewed = 98 }, "runs until"},
		"nobody waited":              {func(s *State) { s.Rung = nil }, "runs until"},
		"waited 1 ns too short":      {func(s *State) { s.Rung[0].Waited = wait - 1 }, "runs until"},
		"waited for another node":    {func(s *State) { s.Rung[0].Node = "db2" }, "runs until"},
		"waited for something else":  {func(s *State) { s.Rung[0].Name = DeadlineSilence }, "runs until"},
		"a longer lease may be held": {func(s *State) {
			s.LeaseWait *= 2
		}, "runs until"},
		"a peer reaches it": {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresUp, 97}} }, "db2 still reaches"},
		"a receiver advances": {func(s *State) {
			s.node("db3").LSNGrew = true
		}, "receiver of db3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(3)
			s.Phase = events.Suspect
			rang(&s, DeadlineLease, "db1", 90, wait)
			c.change(&s)
			p, missing, ok := proofExpired(s)
			if ok != (c.missing == "") || !strings.Contains(missing, c.missing) {
				t.Errorf("%v %q %+v", ok, missing, p)
			}
			if ok && (p.Kind != events.ProofExpired || p.EndLSN != 0 || len(p.Events) != 2) {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestProofUnused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		want   bool
	}{
		"acquired":                    {func(*State) {}, false},
		"never acquired":              {func(s *State) { s.Grant.Acquired = 0 }, true},
		"no grant":                    {func(s *State) { s.Grant = Grant{} }, false},
		"never acquired, but running": {func(s *State) { s.Grant.Acquired, s.Grant.Running = 0, true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(3)
			c.change(&s)
			if _, ok := proofUnused(s); ok != c.want {
				t.Errorf("%v", ok)
			}
		})
	}
}

// TestProofOrder: the surest first.
func TestProofOrder(t *testing.T) {
	s := cluster(2)
	if _, missing, ok := proof(s); ok || missing == "" {
		t.Errorf("a healthy primary needs no proof? %q", missing)
	}
	s.Grant.Acquired = 0
	if p, _, _ := proof(s); p.Kind != events.ProofUnused {
		t.Errorf("%+v", p)
	}
	died(&s)
	if p, _, _ := proof(s); p.Kind != events.ProofDead {
		t.Errorf("%+v", p)
	}
	s.Grant = Grant{}
	if p, _, _ := proof(s); p.Kind != events.ProofNone {
		t.Errorf("%+v", p)
	}
}

// TestRegrantIsNoUnusedGrant: a grant of the same term keeps its beginning; its
// holder writes on by the older one.
func TestRegrantIsNoUnusedGrant(t *testing.T) {
	s := cluster(2)
	for _, stay := range []bool{true, false, true} {
		d := begin(s, Rule{ID: 915, Why: "test"}, StayChanged, events.Healthy)
		d.Grant = &events.Grant{Term: 1, Node: "db1", Stay: stay}
		s = mustFold(t, s, d)
		if s.Grant.Begun != 50 || s.Grant.Acquired != 51 || s.Grant.Renewed != 0 || s.Grant.Fence != "guardian" || s.Grant.Seq != s.Seq {
			t.Fatalf("%+v", s.Grant)
		}
		if p, _, ok := proof(s); ok {
			t.Fatalf("a proof out of nothing: %+v", p)
		}
	}
	died(&s)
	if _, ok := proofDead(s); !ok {
		t.Error("a death during a pause must still count after it")
	}
	s = mustFold(t, s, events.LeaseRenewed{Term: 1, Grant: 50, Heartbeat: events.Heartbeat{Node: "db1"}})
	if s.Grant.Renewed != 0 {
		t.Error("a renewal under the older grant counts")
	}
	s = mustFold(t, s, events.LeaseRenewed{Term: 1, Grant: s.Grant.Seq, Heartbeat: events.Heartbeat{Node: "db1"}})
	if s.Grant.Renewed != s.Seq {
		t.Error("a renewal under the newest grant does not count")
	}
}

func TestSeenAlive(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		want   string
	}{
		"nobody":            {func(*State) {}, ""},
		"up":                {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresUp, 9}} }, "db2"},
		"starting":          {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresStarting, 9}} }, "db2"},
		"stopping":          {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresStopping, 9}} }, "db2"},
		"too many clients":  {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresRefusing, 9}} }, "db2"},
		"silent is unknown": {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresSilent, 9}} }, ""},
		"down":              {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresDown, 9}} }, ""},
		"unreachable":       {func(s *State) { s.node("db1").Peers = []Peer{{"db2", events.PostgresUnreachable, 9}} }, ""},
		"by an agent that left": {func(s *State) {
			s.node("db1").Peers = []Peer{{"db2", events.PostgresUp, 9}}
			s.node("db2").AgentLeft = true
		}, ""},
		"by a node that is no more": {func(s *State) { s.node("db1").Peers = []Peer{{"db7", events.PostgresUp, 9}} }, ""},
		"one of two": {func(s *State) {
			s.node("db1").Peers = []Peer{{"db2", events.PostgresDown, 9}, {"db3", events.PostgresUp, 9}}
		}, "db3"},
		"by an agent that is silent": {func(s *State) {
			s.node("db1").Peers = []Peer{{"db2", events.PostgresUp, 9}}
			rang(s, DeadlineNode, "db2", 90, 0)
		}, ""},
		"receiver grows":                   {func(s *State) { s.node("db2").LSNGrew = true }, "receiver of db2"},
		"receiver grew from another":       {func(s *State) { s.node("db2").LSNGrew = true; s.node("db2").PG.Upstream = "db3" }, ""},
		"receiver grew and is gone":        {func(s *State) { s.node("db2").LSNGrew = true; s.node("db2").PG.Receiver = "" }, ""},
		"receiver of a silent agent":       {func(s *State) { s.node("db2").LSNGrew = true; rang(s, DeadlineNode, "db2", 90, 0) }, ""},
		"receiver of a stopped PostgreSQL": {func(s *State) { s.node("db2").LSNGrew = true; s.node("db2").PG.State = events.PostgresDown }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(3)
			c.change(&s)
			got := seenAlive(s, s.primary())
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestFirstReportIsNoMovement: a standby's first position says nothing about
// whether its receiver advances.
func TestFirstReportIsNoMovement(t *testing.T) {
	s := cluster(2)
	s.node("db2").LSN = 0
	for i, c := range []struct {
		lsn  events.LSN
		want bool
	}{{500, false}, {600, true}, {600, false}, {0, false}, {700, true}} {
		s = mustFold(t, s, events.Heartbeat{Node: "db2", State: events.PostgresUp, LSN: c.lsn})
		if got := s.node("db2").LSNGrew; got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

func TestMayStay(t *testing.T) {
	for name, c := range map[string]struct {
		nodes  int
		change func(*State)
		want   bool
	}{
		"a standby is up":            {2, func(*State) {}, false},
		"alone":                      {1, func(*State) {}, true},
		"paused":                     {3, func(s *State) { s.Pause.Owner = "anna" }, true},
		"its agent left":             {3, func(s *State) { s.node("db1").AgentLeft = true }, true},
		"standby waiting":            {2, func(s *State) { s.node("db2").Status = StatusWaiting }, false},
		"standby down":               {2, func(s *State) { s.node("db2").Status, s.node("db2").PG.State = StatusDown, events.PostgresDown }, true},
		"standby detached":           {2, func(s *State) { s.node("db2").Detached = true }, true},
		"one of two up":              {3, func(s *State) { s.node("db2").Status, s.node("db2").PG.State = StatusDown, events.PostgresDown }, false},
		"streams, not yet shown up":  {2, func(s *State) { s.node("db2").Status = StatusUnused }, false},
		"never seen":                 {2, func(s *State) { n := s.node("db2"); n.Status, n.PG = StatusUnused, events.PostgresSeen{} }, true},
		"no fence":                   {2, func(s *State) { s.Grant.Acquired, s.Grant.Fence = 5, "" }, true},
		"no fence, not acquired":     {2, func(s *State) { s.Grant.Acquired, s.Grant.Fence = 0, "" }, false},
		"reached from elsewhere":     {2, func(s *State) { s.node("db1").Agent.Place = "ssh pg-a" }, true},
		"no fence, of another":       {2, func(s *State) { s.Grant.Acquired, s.Grant.Fence, s.Grant.Node = 5, "", "db2" }, false},
		"shown up, agent silent now": {2, func(s *State) { rang(s, DeadlineNode, "db2", 90, 0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(c.nodes)
			c.change(&s)
			if got, why := mayStay(s); got != c.want || got && why == "" {
				t.Errorf("%v %q", got, why)
			}
		})
	}
}

func TestRejected(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State, *Node)
		want   string
		lag    uint64
	}{
		"fits":                   {func(*State, *Node) {}, "", 0},
		"the primary itself":     {func(s *State, n *Node) { s.Primary = "db2" }, "old primary", 0},
		"detached":               {func(_ *State, n *Node) { n.Detached = true }, "detached", 0},
		"no agent":               {func(_ *State, n *Node) { n.AgentSeq = 0 }, "no agent", 0},
		"agent left":             {func(_ *State, n *Node) { n.AgentLeft = true }, "no agent", 0},
		"failed in this episode": {func(s *State, n *Node) { s.Episode, n.FailedIn, n.FailedAt = 60, 60, 61 }, "could not take office", 0},
		"failed in an older one": {func(s *State, n *Node) { s.Episode, n.FailedIn = 60, 40 }, "", 0},
		"no position":            {func(_ *State, n *Node) { n.PositionSeq = 0 }, "has not reported", 0},
		"silent, no position": {func(s *State, n *Node) {
			n.PositionSeq = 0
			rang(s, DeadlineNode, "db2", 90, 0)
		}, "agent is silent", 0},
		"position of an older episode": {func(s *State, n *Node) { s.Episode = 61 }, "has not reported", 0},
		"position unknown":             {func(_ *State, n *Node) { n.Position.Error = "replay is stuck" }, "replay is stuck", 0},
		"position zero":                {func(_ *State, n *Node) { n.Position.LSN = 0 }, "unknown", 0},
		"other system":                 {func(_ *State, n *Node) { n.Position.SystemID = "other" }, "system identifier", 0},
		"other timeline":               {func(_ *State, n *Node) { n.Position.Timeline = 2 }, "timeline 2", 0},
		"behind, within the bound":     {func(s *State, n *Node) { n.Position.LSN = 900 }, "", 100},
		"at the bound":                 {func(s *State, n *Node) { s.Policy.MaxLag, n.Position.LSN = 100, 900 }, "", 100},
		"one byte beyond the bound":    {func(s *State, n *Node) { s.Policy.MaxLag, n.Position.LSN = 99, 900 }, "lacks 100 bytes", 100},
		"ahead of the last known end":  {func(_ *State, n *Node) { n.Position.LSN = 2000 }, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(3)
			reported(&s, "db2", 1000)
			c.change(&s, s.node("db2"))
			reason, lag := rejected(s, *s.node("db2"), 1000)
			if (reason == "") != (c.want == "") || !strings.Contains(reason, c.want) || lag != c.lag {
				t.Errorf("%q lag %d, want %q lag %d", reason, lag, c.want, c.lag)
			}
		})
	}
}

func TestMayResume(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		want   string
	}{
		"dead, agent there":   {func(s *State) { died(s) }, ""},
		"alive":               {func(*State) {}, "not proved dead"},
		"no grant":            {func(s *State) { s.Grant = Grant{} }, "no node ever"},
		"agent left":          {func(s *State) { died(s); s.node("db1").AgentLeft = true }, "silent"},
		"failed before":       {func(s *State) { died(s); s.Episode = 60; s.node("db1").FailedIn, s.node("db1").FailedAt = 60, 61 }, "could not be started"},
		"unacquired, alive":   {func(s *State) { s.Grant.Acquired = 0 }, "not proved dead"},
		"agent is a new one":  {func(s *State) { died(s); s.node("db1").AgentSeq = 97 }, "anew"},
		"failed in older one": {func(s *State) { died(s); s.Episode = 60; s.node("db1").FailedIn = 40 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster(2)
			c.change(&s)
			if got := mayResume(s); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestLoss(t *testing.T) {
	s := cluster(2)
	for name, c := range map[string]struct {
		end, at, known events.LSN
		want           *events.Loss
	}{
		"all of it":       {1000, 1000, 900, &events.Loss{Exact: true}},
		"more":            {1000, 1100, 900, &events.Loss{Exact: true}},
		"some missing":    {1000, 900, 900, &events.Loss{Exact: true, From: 900, To: 1000, Bytes: 100}},
		"end not read":    {0, 800, 900, &events.Loss{From: 800, To: 900, Bytes: 100}},
		"nothing known":   {0, 800, 0, nil},
		"no position yet": {1000, 0, 900, &events.Loss{Exact: true, From: 0, To: 1000, Bytes: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			s.PrimaryLSN = c.known
			got := lossOf(s, events.Proof{EndLSN: c.end}, c.at)
			if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestBoundOutlivesAFailedPromotion: the bound is measured against what the last
// primary in office had written, until another one has its own history.
func TestBoundOutlivesAFailedPromotion(t *testing.T) {
	s := cluster(3)
	died(&s, func(d *events.PostgresDead) { d.EndLSN = 5000 })
	d := begin(s, Rule{ID: 401, Why: "test"}, CandidateFound, events.Promoting)
	promote(s, &d, "db2", events.Proof{Kind: events.ProofDead, Node: "db1", Term: 1, EndLSN: 5000}, nil)
	s = mustFold(t, s, d)
	if s.PrimaryLSN != 5000 {
		t.Fatalf("after the grant: %s", s.PrimaryLSN)
	}
	s = mustFold(t, s, events.PostgresSeen{Node: "db2", State: events.PostgresUp, Timeline: 2, SystemID: "sys", LSN: 4000})
	if s.PrimaryLSN != 4000 || s.PrimaryTLI != 2 {
		t.Fatalf("after it serves on its own timeline: %s %d", s.PrimaryLSN, s.PrimaryTLI)
	}
}

// TestExpiryWait: W(1−ρ) ≥ L(1+ρ) with the integers that are really used, and
// not a microsecond more than needed.
func TestExpiryWait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := events.DefaultPolicy()
		p.Lease = events.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "lease"))
		p.DriftPPM = rapid.Int64Range(100, 100_000).Draw(t, "ppm")
		w := p.ExpiryWait()
		slow := float64(w) * (1 - float64(p.DriftPPM)/1e6)
		fast := float64(p.Lease) * (1 + float64(p.DriftPPM)/1e6)
		if slow < fast-1e-3*float64(time.Microsecond) {
			t.Fatalf("a slow controller rings after %f, a fast lease ends at %f", slow, fast)
		}
		if slow > fast+float64(2*time.Microsecond) {
			t.Fatalf("too long: %f, needed %f", slow, fast)
		}
	})
}
