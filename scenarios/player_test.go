package scenarios

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
)

func TestStepsThatCannotBePlayed(t *testing.T) {
	for steps, want := range map[string]string{
		"cluster nodes=2\nfly db1":                              `line 2, column 1: there is no step "fly"`,
		"cluster nodes=2\nheartbeat node=db1 lns=0/1":           `line 2, column 20: unknown field "lns"; heartbeat has: lsn node probes`,
		"cluster nodes=2\nheartbeat node=db1 lsn=17":            "line 2, column 20: lsn=17 is no events.LSN",
		"cluster nodes=2\nheartbeat node=db1 probes=5":          "line 2, column 20: probes=5 is no events.ProbeSummary",
		"cluster nodes=2\nheartbeat node=db1 probes={\"n\":":    "line 2, column 27:",
		"cluster nodes=2\nheartbeat node":                       "line 2, column 11: node needs a value",
		"cluster nodes=2\nbeat":                                 "line 2, column 1: beat needs a node",
		"cluster nodes=2\nbeat db9":                             `there is no node "db9"`,
		"cluster nodes=2\ndone db1 promote":                     "db1 was not ordered to promote",
		"cluster nodes=2\nrings name=lease node=db1":            `no deadline "lease" node "db1" is due`,
		"cluster nodes=2\nasks beer":                            `nobody can ask for "beer"`,
		"cluster nodes=2\nwait soon":                            `"soon" is not a duration`,
		"cluster nodes=2\nbeat db1 at=1ms":                      "not before",
		"cluster nodes=0":                                       "nodes=0 must be a number from 1 to 128",
		"nodes=2":                                               "a step begins with its name",
		"cluster nodes=2\npolicy lease=5":                       "column 8: lease=5 is no events.Duration",
		"cluster nodes=2\nup db1 primary \"a\"x":                "column",
		"cluster nodes=2\nheartbeat node=\"db1\"x":              "a space must follow",
		"cluster nodes=2\nunknown kind=x":                       "unknown kind=NAME class=CLASS",
		"cluster nodes=2\nheartbeat probes={\"n\":1} lsn=0/1 x": `column 34: unknown field "x"`,
	} {
		_, err := NewPlayer().Play(steps)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n got  %v\n want %s", steps, err, want)
		}
	}
}

func TestFieldsOfAStep(t *testing.T) {
	p := NewPlayer()
	if _, err := p.Play("cluster nodes=1\n\n# a comment\nheartbeat node=db1 state=up lsn=0/30 probes={\"n\": 3, \"max_us\": 7}\npostgres-seen node=db1 error=\"two words\" in_recovery"); err != nil {
		t.Fatal(err)
	}
	log := p.Log()
	hb := log[3].Data.(events.Heartbeat)
	if want := (events.Heartbeat{Node: "db1", State: events.PostgresUp, LSN: 0x30, Probes: events.ProbeSummary{Count: 3, MaxMicros: 7}}); !reflect.DeepEqual(hb, want) {
		t.Errorf("%+v", hb)
	}
	if seen := log[4].Data.(events.PostgresSeen); seen.Error != "two words" || !seen.InRecovery {
		t.Errorf("%+v", seen)
	}
}

func TestClock(t *testing.T) {
	p := NewPlayer()
	if _, err := p.Play("cluster nodes=1 at=10s\nwait 5s\nagent db1\nagent db1 at=1m"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range p.Log() {
		got = append(got, e.Time.Sub(begin).String())
	}
	if want := []string{"10s", "10.1s", "10.2s", "15.3s", "1m0s"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestReadStory(t *testing.T) {
	s, err := ReadStory("x.txt", strings.NewReader("# What it\n# tells.\n\nshow\nshow\n----\nforming, term 0\nforming, term 0\n\n# later\nwait 1s\n----\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.About != "What it\ntells.\n" || len(s.Blocks) != 2 || s.Blocks[0].Line != 4 || s.Blocks[0].Steps != "show\nshow\n" || s.Blocks[1].Want != "" {
		t.Errorf("%+v", s)
	}
	for text, want := range map[string]string{
		"":                   "no steps",
		"# only a comment\n": "no steps",
		"show\n":             "x.txt:1: the steps have no ---- after them",
	} {
		if _, err := ReadStory("x.txt", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestRunTellsTheFirstDifference(t *testing.T) {
	for text, want := range map[string]string{
		"running nodes=1\n----\nhealthy, term 1, db1 primary 1\n":       "",
		"running nodes=1\n----\nhealthy, term 2, db1 primary 1\n":       "expected: healthy, term 2",
		"running nodes=1\n----\n":                                       "expected: (nothing more)",
		"running nodes=1\n----\nhealthy, term 1, db1 primary 1\nmore\n": "expected: more",
		"running nodes=1\nfly\n----\nhealthy, term 1, db1 primary 1\n":  "x.txt: block at line 1: line 2, column 1: there is no step",
	} {
		s, err := ReadStory("x.txt", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		log, err := s.Run()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || len(log) == 0 {
			t.Errorf("%q: %d events, %v", text, len(log), err)
		}
	}
}

// crashed plays a failover and returns its log, whose events a test may change.
func crashed(t *testing.T) []events.Event {
	t.Helper()
	p := NewPlayer()
	if _, err := p.Play("running nodes=2\ncrash db1\ndead db1\nposition db2\nlease db2\nserves db2 tli=2"); err != nil {
		t.Fatal(err)
	}
	return p.Log()
}

// altered replaces the first decision of a rule by another, and the log after it
// is cut: its digests would no longer fit.
func altered(t *testing.T, log []events.Event, rule int, change func(*events.Decided)) []events.Event {
	t.Helper()
	for i, e := range log {
		if d, ok := e.Data.(events.Decided); ok && d.Rule == rule {
			change(&d)
			forged, err := Store(e.Seq, e.Time, d)
			if err != nil {
				t.Fatal(err)
			}
			return append(append([]events.Event{}, log[:i]...), forged)
		}
	}
	t.Fatalf("no decision of rule %d", rule)
	return nil
}

func TestReplayFindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		rule             int
		change           func(*events.Decided)
		different, broke string
		void             bool
	}{
		"nothing":             {401, func(*events.Decided) {}, "", "", false},
		"other controller":    {401, func(d *events.Decided) { d.Controller = "c2" }, "", "", false},
		"other reason":        {401, func(d *events.Decided) { d.Why = "because" }, "why: the rules say", "", false},
		"wrong base":          {401, func(d *events.Decided) { d.BasedOn-- }, "", "", true},
		"wrong digest":        {401, func(d *events.Decided) { d.Digest = "00" }, "", "", true},
		"no proof":            {401, func(d *events.Decided) { d.Proof = nil }, "proof", "no proof", false},
		"proof of nothing":    {401, func(d *events.Decided) { d.Proof.Kind = events.ProofNone }, "proof", "a proof is needed", false},
		"unacquired":          {401, func(d *events.Decided) { d.Proof.Kind = events.ProofUnused }, "proof", "acquired term 1", false},
		"expired, too soon":   {401, func(d *events.Decided) { d.Proof.Kind = events.ProofExpired }, "proof", "nobody waited", false},
		"operator":            {401, func(d *events.Decided) { d.Proof.Kind = events.ProofOperator }, "proof", "nobody asked", false},
		"own invention":       {401, func(d *events.Decided) { d.Proof.Kind = "dream" }, "proof", "not known", false},
		"of another node":     {401, func(d *events.Decided) { d.Proof.Node = "db2" }, "proof", "the proof is about db2", false},
		"wrong evidence":      {401, func(d *events.Decided) { d.Proof.Events = []uint64{1} }, "proof", "not proved dead", false},
		"term reused":         {401, func(d *events.Decided) { d.Term, d.Grant.Term, d.Orders[0].Term = 1, 1, 1 }, "grant", "was granted to db1", false},
		"order without right": {401, func(d *events.Decided) { d.Grant = nil }, "grant", "without a new term", false},
		"two promotions":      {401, func(d *events.Decided) { d.Orders = append(d.Orders, d.Orders[0]) }, "orders", "2 nodes", false},
		"order of old term":   {401, func(d *events.Decided) { d.Orders[0].Term = 1 }, "orders", "carries term 1", false},
		"unknown order":       {401, func(d *events.Decided) { d.Orders[0].Do = "dance" }, "orders", "has no executor", false},
		"status invented":     {203, func(d *events.Decided) { d.Statuses[0].From = 0 }, "statuses", "status of db1 moves from 0", false},
		"other rules":         {401, func(d *events.Decided) { d.RuleSet = 7 }, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Replay(from(altered(t, crashed(t), c.rule, c.change)))
			if err != nil {
				t.Fatal(err)
			}
			check := func(what, want string, notes []Note, count uint64) {
				text := ""
				for _, n := range notes {
					text += n.Text + "; "
				}
				if (want == "") != (count == 0) || !strings.Contains(text, want) {
					t.Errorf("%s: %q, want %q", what, text, want)
				}
			}
			check("differences", c.different, r.Differences, r.Different)
			check("breaks", c.broke, r.Breaks, r.Broken)
			if (r.Void == 1) != c.void || r.OK() != (c.different == "" && c.broke == "") {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestReplayCountsWhatWasDue(t *testing.T) {
	p := NewPlayer()
	if _, err := p.Play("running nodes=2"); err != nil {
		t.Fatal(err)
	}
	// The controller is away while the primary dies.
	for _, d := range []events.Data{events.PostgresExited{Node: "db1"}, events.Heartbeat{Node: "db2"}, events.Heartbeat{Node: "db2"}} {
		if err := p.append(d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Play("beat db2"); err != nil {
		t.Fatal(err)
	}
	r, err := Replay(from(p.Log()))
	if err != nil || !r.OK() || r.Undecided != 3 || r.LongestWait != 3 {
		t.Errorf("%v %+v", err, r)
	}
}

func TestReplayStopsAtDisorder(t *testing.T) {
	log := crashed(t)
	if r, err := Replay(from(append(log, log[3]))); err == nil || r.Last != log[len(log)-1].Seq {
		t.Errorf("%v, last %d", err, r.Last)
	}
	boom := errors.New("the disk is gone")
	if _, err := Replay(func() (events.Event, bool, error) { return events.Event{}, false, boom }); !errors.Is(err, boom) {
		t.Errorf("%v", err)
	}
}
