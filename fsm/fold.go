package fsm

import (
	"fmt"
	"slices"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Fold applies one event. It trusts the decisions that it finds, whatever
// today's tables would say, and only checks their envelope: a decision that
// fails the check is void for every reader, and an alarm. The error is for an
// event out of order; the state is then unchanged.
func Fold(s State, e events.Event) (State, error) {
	if err := s.comesNext(e); err != nil {
		return s, err
	}
	s = s.clone()
	s.apply(e)
	return s, nil
}

func (s *State) comesNext(e events.Event) error {
	if e.Seq <= s.Seq {
		return fmt.Errorf("fsm: event %d comes after event %d: the log must be folded in order, each event once", e.Seq, s.Seq)
	}
	return nil
}

// apply is Fold on a state that the caller owns.
func (s *State) apply(e events.Event) {
	switch d := e.Data.(type) {
	case events.Decided:
		s.decided(e, d)
	case events.Declined:
		s.declined(d)
	case events.DeadlineReached:
		s.deadlineReached(e, d)
	case events.Unknown:
		s.unknown(e, d)
	case events.ClusterFormed:
		s.formed(d)
	case events.RulesActivated:
		s.activated(e, d)
	case events.PolicySet:
		s.policySet(e, d)
	default:
		if !s.fact(e) && !s.result(e) {
			s.request(e)
		}
	}
	s.Digest = s.Digest.Next(e)
	s.Seq = e.Seq
	if e.Time.After(s.Time) {
		s.Time = e.Time
	}
}

// check says why a decision is void, or "".
func (s *State) check(e events.Event, d events.Decided) string {
	switch {
	case d.BasedOn != s.Seq || e.Seq != d.BasedOn+1:
		return fmt.Sprintf("it is based on event %d, but event %d stands before it", d.BasedOn, s.Seq)
	case d.Digest != s.Digest.String():
		return "its digest of the log differs from ours: this is not the log that it was decided on"
	case d.From != s.Phase:
		return fmt.Sprintf("it was decided from phase %s, but the cluster is %s", d.From, s.Phase)
	case d.Term < s.Term:
		return fmt.Sprintf("its term %d is older than %d", d.Term, s.Term)
	case d.Previous != s.LastDecision:
		return fmt.Sprintf("it follows decision %d, but the last one is %d", d.Previous, s.LastDecision)
	}
	return ""
}

func (s *State) alarm(seq uint64, format string, args ...any) {
	s.Alarms = append(s.Alarms, Alarm{seq, fmt.Sprintf(format, args...)})
	if len(s.Alarms) > 16 {
		s.Alarms = s.Alarms[1:]
	}
}

func (s *State) decided(e events.Event, d events.Decided) {
	why := s.check(e, d)
	// A void decision still takes the subject's last sequence, which the
	// conditions of lease events name.
	s.LastDecision = e.Seq
	if why != "" {
		s.alarm(e.Seq, "decision %d of controller %s is void: %s", e.Seq, d.Controller, why)
		return
	}
	for _, m := range d.Statuses {
		if n := s.node(m.Node); n != nil {
			n.Status, n.StatusSince = m.To, e.Time
		}
	}
	s.attachDetach(d)
	if d.Pause != nil {
		s.Pause = Pause{*d.Pause, e.Seq}
	}
	s.granted(e, d)
	s.answered(d.Request)
	for _, o := range d.Orders {
		s.Orders = append(s.Orders, OrderState{Order: o, Decision: e.Seq})
	}
	// Of a large cluster every node's newest order must be there: whoever was
	// asked for his position must not seem unasked.
	if extra := len(s.Orders) - max(32, 4*len(s.Nodes)); extra > 0 {
		s.Orders = slices.Delete(s.Orders, 0, extra)
	}
	begins := d.From != d.To || d.Grant != nil && d.Grant.Term > s.Term || d.Trigger == string(ShutdownAsked)
	if d.Rule != 0 && begins {
		s.enter(e, d)
	}
	s.Term, s.Primary = d.Term, d.Primary
	if d.Grant == nil {
		return
	}
	for i := range s.Nodes { // a standby's last report may be older than its primary's name
		s.Nodes[i].HadStreaming = s.Nodes[i].HadStreaming || follows(*s, s.Nodes[i])
	}
	if n := s.primary(); n.PG.State == events.PostgresUp && !n.PG.InRecovery {
		// So may the primary's own: candidates are measured against it.
		s.PrimaryTLI, s.SystemID = n.PG.Timeline, n.PG.SystemID
	}
}

func (s *State) attachDetach(d events.Decided) {
	if n := s.node(d.Detach); n != nil {
		n.Detached = true
	}
	if n := s.node(d.Attach); n != nil {
		n.Detached = false
	}
}

func (s *State) granted(e events.Event, d events.Decided) {
	if d.Grant == nil {
		return
	}
	old := s.Grant
	started := func(o events.Order) bool {
		return o.Node == d.Grant.Node && (o.Do == events.ActPromote || o.Do == events.ActResume)
	}
	s.Grant = Grant{Grant: *d.Grant, Seq: e.Seq, Begun: e.Seq, Running: !slices.ContainsFunc(d.Orders, started)}
	if d.Grant.Term == old.Term && d.Grant.Node == old.Node {
		// Only whether it may stay has changed. Its holder goes on writing by the
		// old grant until it has read this one: it is no unused grant.
		s.Grant.Begun, s.Grant.Acquired, s.Grant.Fence, s.Grant.Running, s.Grant.End = old.Begun, old.Acquired, old.Fence, old.Running, old.End
		return
	}
	s.LeaseWait = s.Policy.ExpiryWait() // its agent reads the policy before it reads this decision
	if d.Proof != nil && d.Proof.EndLSN != 0 {
		// Should this node not take office, the next choice is still measured
		// against what the last one that did has written.
		s.PrimaryLSN, s.Grant.End = d.Proof.EndLSN, d.Proof.EndLSN
	}
	if n := s.node(d.Grant.Node); n != nil {
		n.HadStreaming = false // from here on its WAL may be one of its own
	}
}

// serving are the phases in which the primary of the term serves.
func serving(p events.Phase) bool { return p == events.Healthy || p == events.Settling }

func (s *State) enter(e events.Event, d events.Decided) {
	begins := serving(s.Phase) || s.Phase == events.Forming
	if begins && !serving(d.To) || d.To == events.Forming { // what failed before an orderly stop may work after it
		s.Episode = e.Seq
	}
	if s.Phase == events.Promoting && !serving(d.To) && d.To != events.Forming {
		if n := s.node(s.Primary); n != nil { // could not take office: see failed
			n.FailedIn, n.FailedAt, n.FailedMute = s.Episode, s.PhaseSince, n.Heard < s.PhaseSince
		}
	}
	if serving(d.To) {
		s.Served = d.Primary
	}
	s.Phase, s.PhaseSince, s.PhaseRule = d.To, e.Seq, d.Rule
	s.Declined = nil
	s.Stall = d.Stall
	s.Target = d.Target
	s.Started = 0 // answered, or overtaken: it speaks of the phase in which it came
}

func (s *State) declined(d events.Declined) {
	s.answered(d.Request)
	s.Declined = append(s.Declined, declinedKey(d))
	if extra := len(s.Declined) - 64; extra > 0 { // refused requests of a long healthy time
		s.Declined = slices.Delete(s.Declined, 0, extra)
	}
}

// declinedKey says when two declined events tell the same.
func declinedKey(d events.Declined) string {
	return fmt.Sprintf("%d %d %s", d.Rule, d.Request, d.Missing)
}

func (s *State) answered(request uint64) {
	if request != 0 {
		s.Requests = slices.DeleteFunc(s.Requests, func(r Request) bool { return r.Seq == request })
	}
}

func (s *State) deadlineReached(e events.Event, d events.DeadlineReached) {
	if d.BasedOn != s.Seq { // as for a decision: void when something came between
		return
	}
	r := Rung{d.Name, d.Node, d.Since, time.Duration(d.Waited), e.Seq}
	for i := range s.Rung {
		if s.Rung[i].Name == d.Name && s.Rung[i].Node == d.Node {
			s.Rung[i] = r
			return
		}
	}
	s.Rung = append(s.Rung, r)
}

// unknown keeps and skips observations; what a decision could depend on, or is,
// stops this program from deciding.
func (s *State) unknown(e events.Event, d events.Unknown) {
	if d.ClassIn == events.ClassDecision {
		s.LastDecision = e.Seq
	}
	if d.ClassIn == events.ClassDecision || d.ClassIn == events.ClassPolicy {
		s.Halted = fmt.Sprintf("event %d is a %s that this version does not know (%s): upgrade it; nothing is decided here until then", e.Seq, d.KindName, d.Reason)
	}
	s.alarm(e.Seq, "event %d of kind %q was skipped: %s", e.Seq, d.KindName, d.Reason)
}

func (s *State) formed(d events.ClusterFormed) {
	s.Cluster, s.Created, s.Bootstrap = d.Cluster, d.Created, d.Bootstrap
	old := s.Nodes
	s.Nodes = nil
	for _, m := range d.Members {
		n := Node{Member: m}
		for _, o := range old {
			if o.Name == m.Name {
				n = o
				n.Member = m
			}
		}
		s.Nodes = append(s.Nodes, n)
	}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return a.ID - b.ID })
}

func (s *State) activated(e events.Event, d events.RulesActivated) {
	s.RuleSet = d.RuleSet
	if d.RuleSet != events.RuleSet {
		s.alarm(e.Seq, "event %d activated rule set %d, and this program has rule set %d: it decides nothing; use the version that the cluster uses", e.Seq, d.RuleSet, events.RuleSet)
	}
}

// policySet takes a policy only when it is sound: whoever wrote a broken one
// into the log must not make the cluster decide by it.
//
// Whoever holds the lease may not have read a shorter one yet, or may have a
// longer one that still runs: the shorter one counts from the next term on.
func (s *State) policySet(e events.Event, d events.PolicySet) {
	if err := d.Policy.Check(); err != nil {
		s.alarm(e.Seq, "policy of event %d is refused: %v", e.Seq, err)
		return
	}
	s.Policy, s.PolicyHash = d.Policy, d.Policy.Hash()
	s.LeaseWait = max(s.LeaseWait, s.Policy.ExpiryWait())
}
