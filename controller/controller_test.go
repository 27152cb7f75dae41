package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/scenarios"
)

// TestFormsACluster: from what the agents say follow the first grant, the lease
// and a healthy cluster, each decision signed and based on what stands before it.
func TestFormsACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		r := begin(t, log, "c1")
		tell(t, log, found(3)...)
		serve(t, log, r)
		if err := r.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v; expected that its context ended", err)
		}
		s := r.now()
		if s.Term != 1 || s.Primary != "db1" || s.Grant.Acquired == 0 || len(s.Alarms) > 0 {
			t.Fatalf("term %d of %q, lease acquired by event %d, alarms %v", s.Term, s.Primary, s.Grant.Acquired, s.Alarms)
		}
		for _, e := range all(t, log) {
			d, ok := e.Data.(events.Decided)
			if ok && (d.Controller != "c1" || e.Source != "controller/c1" || d.BasedOn != e.Seq-1) {
				t.Errorf("event %d: controller %q, source %q, based on %d", e.Seq, d.Controller, e.Source, d.BasedOn)
			}
		}
	})
}

// drawn makes one fact that may or may not make sense in the state.
func drawn(rng *rand.Rand, s fsm.State) events.Data {
	names := []string{"db1", "db2", "db3"}
	n, other := names[rng.Intn(3)], names[rng.Intn(3)]
	holder := s.Grant.Node
	if holder == "" {
		holder = n
	}
	lsn := events.LSN(1000 + rng.Intn(100000))
	ref := events.OrderRef{Node: n, Decision: s.LastDecision, Action: events.ActPromote, Term: s.Term}
	beat := events.Heartbeat{Node: n, State: events.PostgresUp, LSN: lsn}
	who := events.Request{Who: "anna@ops", Actor: "anna", Reason: "random"}
	all := []events.Data{
		beat, beat, beat, agentStarted(n), events.AgentStopped{Node: n, Incarnation: "x"}, primarySeen(n), standbySeen(n, other),
		events.PostgresSeen{Node: n, State: events.PostgresDown}, events.PostgresSeen{Node: n, State: events.PostgresSilent},
		events.PostgresExited{Node: n, PID: 7, Term: s.Term}, events.PostgresExited{Node: n, PID: 7, Clean: true, Term: s.Term},
		events.PostgresDead{Node: n, Term: s.Term, Cause: events.CauseCrashed, EndLSN: lsn, Timeline: 1, SystemID: "sys", StandbySignal: true},
		events.FenceFailed{Node: n, Term: s.Term, Error: "x"}, events.PeerSeen{Node: n, By: other, State: events.PostgresUp},
		events.PositionReported{Node: n, Decision: s.LastDecision, LSN: lsn, Timeline: 1, SystemID: "sys"},
		events.PositionReported{Node: n, Decision: s.Episode, LSN: lsn, Timeline: 1, SystemID: "sys"},
		events.LeaseAcquired{Node: holder, Term: s.Term, Grant: s.Grant.Seq, Fence: "guardian"},
		events.LeaseRenewed{Term: s.Term, Grant: s.Grant.Seq, Heartbeat: events.Heartbeat{Node: holder, State: events.PostgresUp, LSN: lsn}},
		events.OrderDone{OrderRef: ref}, events.OrderFailed{OrderRef: ref, Acted: true, Error: "x"}, events.OrderRefused{OrderRef: ref, Reason: "x"},
		events.SwitchoverRequested{Request: who}, events.FailoverRequested{Request: who, Node: n, AcceptLoss: true},
		events.RecoverRequested{Request: who, Node: n}, events.DetachRequested{Request: who, Node: n}, events.AttachRequested{Request: who, Node: n},
		events.PauseRequested{Request: who, For: events.Duration(3 * time.Second)}, events.ResumeRequested{Request: who}, events.StartupRequested{Request: who},
	}
	return all[rng.Intn(len(all))]
}

// TestTwoControllers: whatever happens, two controllers on one log never make
// two decisions from one prefix, no decision is void, every decision is the one
// that the rules give, and both end in the same state.
func TestTwoControllers(t *testing.T) {
	for seed := range int64(6) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewSource(seed))
			log := memlog.New()
			a, b := begin(t, log, "c1"), begin(t, log, "c2")
			tell(t, log, found(3)...)
			serve(t, log, a)
			for range 250 {
				if rng.Intn(3) > 0 {
					time.Sleep(time.Duration(rng.Intn(400)) * time.Millisecond)
				}
				tell(t, log, drawn(rng, a.now()))
			}
			time.Sleep(time.Second)
			a.cancel()
			b.cancel()
			synctest.Wait()
			es := all(t, log)
			for _, r := range []*run{a, b} { // what the other appended last may not have been folded
				s := r.now()
				for _, e := range es[s.Seq:] {
					var err error
					if s, err = fsm.Fold(s, e); err != nil {
						t.Fatal(err)
					}
				}
				r.state = s
			}
			if !reflect.DeepEqual(a.state, b.state) {
				t.Errorf("seed %d: the two hold different states of one log", seed)
			}
			judge(t, fmt.Sprint("seed ", seed), es)
		})
	}
}

// judge checks the decisions of a whole log.
func judge(t *testing.T, what string, es []events.Event) {
	t.Helper()
	by := map[string]int{}
	based := map[uint64]uint64{}
	for _, e := range es {
		d, ok := e.Data.(events.Decided)
		if !ok {
			continue
		}
		by[d.Controller]++
		if other := based[d.BasedOn]; other != 0 {
			t.Errorf("%s: decisions %d and %d are both based on event %d", what, other, e.Seq, d.BasedOn)
		}
		based[d.BasedOn] = e.Seq
	}
	i := 0
	r, err := scenarios.Replay(func() (events.Event, bool, error) {
		if i == len(es) {
			return events.Event{}, false, nil
		}
		i++
		return es[i-1], true, nil
	})
	if err != nil || r.Void > 0 || len(r.Differences) > 0 || r.Broken > 0 {
		t.Errorf("%s: replayed with %v: %+v", what, err, r)
	}
	if len(based) == 0 {
		t.Errorf("%s: nothing was decided", what)
	}
	t.Logf("%s: %d events, decisions: %v", what, len(es), by)
}

// TestStoredAndNotAnswered: an append that is stored though it seems lost is
// folded when it is read, and not decided again.
func TestStoredAndNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := hook()
		lost := 0
		log.onAppend = func(d events.Draft, e events.Event, err error) (events.Event, error) {
			if strings.HasPrefix(d.Source, "controller/") && err == nil && lost < 5 {
				lost++
				return events.Event{}, fmt.Errorf("test: %w", events.ErrUnavailable)
			}
			return e, err
		}
		r := begin(t, log, "c1")
		tell(t, log, found(3)...)
		serve(t, log, r)
		time.Sleep(5 * time.Second)
		r.cancel()
		synctest.Wait()
		if lost != 5 {
			t.Fatalf("%d answers were lost, expected 5: the test tests nothing", lost)
		}
		es := all(t, log)
		judge(t, "answers lost", es)
		granted := map[uint64]int{}
		for _, d := range of[events.Decided](es) {
			if d.Grant != nil && d.Grant.Node == "db1" && d.Rule == 101 {
				granted[d.Grant.Term]++
			}
		}
		if len(granted) != 1 || granted[1] != 1 {
			t.Errorf("db1 was found primary in terms %v, expected once in term 1", granted)
		}
	})
}

// TestUnknownDecisionHalts: a decision of a kind that this version does not know
// ends its deciding, until it is upgraded.
func TestUnknownDecisionHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		r := begin(t, log, "c1")
		tell(t, log, found(3)...)
		serve(t, log, r)
		e := tell(t, log, events.Unknown{KindName: "decided-by-vote", Version: 1, ClassIn: events.ClassDecision, KeyIn: "c9"})
		tell(t, log, events.PostgresDead{Node: "db1", Term: 1, Cause: events.CauseCrashed, EndLSN: 1000, Timeline: 1, SystemID: "sys", StandbySignal: true})
		time.Sleep(10 * time.Second)
		if r.now().Halted == "" {
			t.Error("an unknown decision did not halt the controller")
		}
		for _, x := range all(t, log)[e.Seq:] {
			if strings.HasPrefix(x.Source, "controller/") {
				t.Errorf("after an unknown decision it appended event %d, %s", x.Seq, x.Kind())
			}
		}
	})
}

// TestRulesThatChaseOneAnother: after loopLimit decisions in a row with no news,
// anybody's, nothing is decided until something happens.
func TestRulesThatChaseOneAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		tell(t, log, found(3)...)
		for i := range loopLimit {
			tell(t, log, events.Declined{Controller: "c9", Would: "go round", Missing: fmt.Sprint(i)})
		}
		r := begin(t, log, "c1")
		time.Sleep(5 * time.Second)
		if d := of[events.Decided](all(t, log)); len(d) > 0 {
			t.Fatalf("in a loop of %d decisions it made another: rule %d", loopLimit, d[0].Rule)
		}
		tell(t, log, events.Heartbeat{Node: "db2", State: events.PostgresUp, LSN: 1000})
		until(t, "it decides after news", func() bool { return r.now().Primary == "db1" })
	})
}

// TestTimeIsNews: many waits that end one after another are no loop, though
// nothing else is heard.
func TestTimeIsNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Controller{}
		for range loopLimit - 1 {
			c.count(events.Event{Data: events.Decided{}})
		}
		c.count(events.Event{Data: events.DeadlineReached{}})
		c.count(events.Event{Data: events.Decided{}})
		if c.streak != 1 {
			t.Errorf("after a deadline and one decision the streak is %d", c.streak)
		}
	})
}
