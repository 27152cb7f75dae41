package fsm

import (
	"github.com/interrex-ha/interrex/events"
)

// Conclusions about the cluster. Rules of evidence: the surest first;
// first-hand beats hearsay; unknown is never down; fresh is what was seen after
// the event that it would contradict.
const (
	PrimaryFound        Trigger = "PrimaryFound"
	LastPrimaryReady    Trigger = "LastPrimaryReady"
	LastPrimaryMissing  Trigger = "LastPrimaryMissing"
	PrimaryDead         Trigger = "PrimaryDead"
	PrimaryCrashed      Trigger = "PrimaryCrashed"
	PrimaryStopped      Trigger = "PrimaryStopped"
	PrimarySilent       Trigger = "PrimarySilent"
	PrimaryHung         Trigger = "PrimaryHung"
	PrimaryStartTimeout Trigger = "PrimaryStartTimeout"
	PrimaryReadOnly     Trigger = "PrimaryReadOnly"
	PrimaryRestarted    Trigger = "PrimaryRestarted"
	PrimaryBack         Trigger = "PrimaryBack"
	StopGraceOver       Trigger = "StopGraceOver"
	LeaseExpired        Trigger = "LeaseExpired"
	FencingFailed       Trigger = "FencingFailed"
	FencingTimeout      Trigger = "FencingTimeout"
	CandidateFound      Trigger = "CandidateFound"
	ResumeFound         Trigger = "ResumeFound"
	NoCandidate         Trigger = "NoCandidate"
	PrimaryServes       Trigger = "PrimaryServes"
	OfficeRefused       Trigger = "OfficeRefused"
	OfficeTimeout       Trigger = "OfficeTimeout"
	OfficeFailed        Trigger = "OfficeFailed"
	StandbysFollow      Trigger = "StandbysFollow"
	SettleTimeout       Trigger = "SettleTimeout"
	TargetReady         Trigger = "TargetReady"
	TargetLost          Trigger = "TargetLost"
	SwitchoverFailed    Trigger = "SwitchoverFailed"
	SwitchTimeout       Trigger = "SwitchTimeout"
	NodeReturned        Trigger = "NodeReturned"
	PauseOver           Trigger = "PauseOver"
	StandbyAtRest       Trigger = "StandbyAtRest"
	StayChanged         Trigger = "StayChanged"
	NothingYet          Trigger = "NothingYet"
	NodeEmpty           Trigger = "NodeEmpty"

	SwitchoverAsked  Trigger = "SwitchoverAsked"
	FailoverAsked    Trigger = "FailoverAsked"
	FailoverAccepted Trigger = "FailoverAccepted"
	ShutdownAsked    Trigger = "ShutdownAsked"
	PauseAsked       Trigger = "PauseAsked"
	ResumeAsked      Trigger = "ResumeAsked"
	RecoverAsked     Trigger = "RecoverAsked"
	DetachAsked      Trigger = "DetachAsked"
	AttachAsked      Trigger = "AttachAsked"

	NodeServes   Trigger = "NodeServes"
	ClientSeen   Trigger = "ClientSeen"
	NodeLost     Trigger = "NodeLost"
	NodeDetached Trigger = "NodeDetached"
	NodeAstray   Trigger = "NodeAstray"
)

// conclusions reads facts into triggers, the surest first. Each returns the
// events that it rests on.
var conclusions = []struct {
	on    Trigger
	holds func(State) ([]uint64, bool)
}{
	{TargetReady, targetReady},
	{TargetLost, targetLost},
	{PrimaryDead, primaryDead},
	{FencingFailed, fencingFailed},
	{PrimaryCrashed, primaryCrashed},
	{PrimaryServes, primaryServes},
	{PrimaryRestarted, primaryRestarted},
	{PrimaryBack, primaryBack},
	{PrimaryStopped, primaryStopped},
	{StopGraceOver, stopGraceOver},
	{PrimaryHung, primaryHung},
	{PrimaryStartTimeout, primaryStartTimeout},
	{PrimaryReadOnly, primaryReadOnly},
	{LeaseExpired, leaseExpired},
	{PrimarySilent, primarySilent},
	{OfficeRefused, officeRefused},
	{OfficeFailed, officeFailed},
	{OfficeTimeout, phaseRung(DeadlineOffice)},
	{FencingTimeout, phaseRung(DeadlineFence)},
	{SwitchoverFailed, switchoverFailed},
	{SwitchTimeout, phaseRung(DeadlineSwitch)},
	{CandidateFound, candidateFound},
	{ResumeFound, resumeFound},
	{NoCandidate, noCandidate},
	{NodeReturned, nodeReturned},
	{PrimaryFound, primaryFound},
	{LastPrimaryReady, lastPrimaryReady},
	{LastPrimaryMissing, lastPrimaryMissing},
	{StandbysFollow, standbysFollow},
	{SettleTimeout, phaseRung(DeadlineSettle)},
	{PauseOver, pauseOver},
	{StayChanged, stayChanged},
	{StandbyAtRest, standbyAtRest},
	{NothingYet, nothingYet},
	{NodeEmpty, nodeEmpty},
}

func seqs(v ...uint64) []uint64 {
	out := v[:0]
	for _, x := range v {
		if x != 0 {
			out = append(out, x)
		}
	}
	return out
}

// phaseRung concludes from the deadline of the phase itself.
func phaseRung(name string) func(State) ([]uint64, bool) {
	return func(s State) ([]uint64, bool) {
		r := s.rung(name, "")
		return seqs(r.Seq), r.Since == s.PhaseSince && r.Seq != 0
	}
}

func primaryDead(s State) ([]uint64, bool) {
	p, ok := proofDead(s)
	if !ok || s.Phase == events.Switching && s.primary().Dead.Clean {
		return nil, false // a clean end is what a switchover ordered
	}
	return p.Events, true
}

func fencingFailed(s State) ([]uint64, bool) {
	n := s.primary()
	return seqs(n.FenceFailed), n.FenceFailed > s.PhaseSince
}

func primaryCrashed(s State) ([]uint64, bool) {
	n := s.primary()
	if n.Exited > s.Grant.Begun {
		return seqs(n.Exited), !n.ExitedClean
	}
	// An agent that came back, found PostgreSQL stopped and could not prove it:
	// it is heard, so that nobody would ever wait for the lease.
	tried := max(n.FenceFailed, n.DeadSeq)
	_, proved := proofDead(s)
	down := n.PG.State == events.PostgresDown && n.PGSeq > n.AgentSeq && n.Exited == 0
	return seqs(n.PGSeq, tried), down && !proved && !n.AgentLeft && tried > max(n.AgentSeq, s.Grant.Begun)
}

// provable: the primary serves nobody, by its own agent, which has not proved it
// dead yet: it was stopped and its lease ran out during the stop grace, or it
// hangs.
func provable(s State) bool {
	n := s.primary()
	_, dead := proofDead(s)
	_, stopped := primaryStopped(s)
	gone := stopped && n.PG.State == events.PostgresDown || n.PG.State == events.PostgresSilent
	return gone && (!dead || n.DeadSeq < n.AgentSeq) && s.AgentLives(n)
}

func primaryStopped(s State) ([]uint64, bool) {
	n := s.primary()
	return seqs(n.Exited), n.Exited > s.Grant.Begun && n.ExitedClean
}

func stopGraceOver(s State) ([]uint64, bool) {
	n := s.primary()
	r := s.rung(DeadlineStop, n.Name)
	down := n.PG.State == events.PostgresDown // else it is being started: that has a time-out of its own
	return seqs(n.Exited, r.Seq), n.Exited != 0 && n.ExitedClean && down && r.Since == n.Exited
}

// primaryHung is first-hand: its own agent gets no answer.
func primaryHung(s State) ([]uint64, bool) {
	n := s.primary()
	r := s.rung(DeadlineHang, n.Name)
	return seqs(n.PGFirst, r.Seq), n.PG.State == events.PostgresSilent && r.Since == n.PGFirst && r.Seq != 0
}

func primaryStartTimeout(s State) ([]uint64, bool) {
	n := s.primary()
	r := s.rung(DeadlineStart, n.Name)
	waiting := n.PG.State == events.PostgresStarting || n.PG.State == events.PostgresStopping
	return seqs(n.PGFirst, r.Seq), waiting && r.Since == n.PGFirst && r.Seq != 0
}

// primaryReadOnly: somebody started it with standby.signal. It takes no writes,
// and nothing would ever change that.
func primaryReadOnly(s State) ([]uint64, bool) {
	n := s.primary()
	for _, o := range s.Orders {
		taking := takesOffice(s, o) && (o.Status == "" || o.Status == "started") // on its way out of recovery
		told := o.Do == events.ActFence && o.Decision > n.PGSeq                  // in vain: not again before it is seen anew
		if o.Node == n.Name && (taking || told) {
			return nil, false
		}
	}
	_, unused := proofUnused(s)
	return seqs(n.PGSeq), !unused && n.PG.State == events.PostgresUp && n.PG.InRecovery && !n.AgentLeft
}

// back reports whether the primary's own agent sees it serve, after the phase
// began.
func back(s State) bool {
	n := s.primary()
	return n.Heard > s.PhaseSince && n.Exited == 0 && n.PG.State == events.PostgresUp && !n.PG.InRecovery && !n.AgentLeft
}

func primaryRestarted(s State) ([]uint64, bool) {
	n := s.primary()
	alive := back(s) || n.PG.State == events.PostgresRefusing
	return seqs(n.PGSeq), s.PhaseRule == 205 && alive && n.PGSeq > s.PhaseSince
}

// primaryBack also holds when the agent came back to a PostgreSQL that is not to
// be observed, or starting: unknown is never down, and those have rules of their own.
func primaryBack(s State) ([]uint64, bool) {
	n := s.primary()
	alive := n.PG.State == events.PostgresRefusing || n.PG.State == events.PostgresStarting || n.PG.State == events.PostgresUnreachable
	ok := s.PhaseRule != 205 && n.Heard > s.PhaseSince && n.PGSeq != 0 && (back(s) || alive && n.Exited == 0)
	return seqs(n.Heard), ok
}

// primarySilent does not hold when the agent left in order: that is maintenance.
func primarySilent(s State) ([]uint64, bool) {
	n := s.primary()
	r := s.rung(DeadlineSilence, n.Name)
	return seqs(n.Heard, r.Seq), n.Heard != 0 && r.Since == n.Heard && !n.AgentLeft
}

func leaseExpired(s State) ([]uint64, bool) {
	p, _, ok := proofExpired(s)
	return p.Events, ok
}

// primaryFound: exactly one node runs as a primary, every other node has been
// looked at, and none of another history claims to be part of the cluster.
func primaryFound(s State) ([]uint64, bool) {
	if s.PhaseSince != 0 && s.Started == 0 {
		return nil, false // stopped in order: nothing is named until a startup is asked for
	}
	var found Node
	var ev []uint64
	for _, n := range s.Nodes {
		if n.PGSeq == 0 || n.AgentLeft {
			return nil, false
		}
		ev = append(ev, n.PGSeq)
		if n.PG.State == events.PostgresUp && !n.PG.InRecovery {
			if found.Name != "" {
				return nil, false
			}
			found = n
		}
	}
	if found.Name == "" || s.Primary != "" && found.Name != s.Primary && !otherIsSafe(s) {
		return nil, false
	}
	for _, n := range s.Nodes {
		if n.PG.SystemID != "" && n.PG.SystemID != found.PG.SystemID {
			return nil, false
		}
	}
	return ev, true
}

// otherIsSafe: a node other than the last primary serves; is the last one out of
// the way?
func otherIsSafe(s State) bool {
	_, _, ok := proof(s)
	old := s.primary()
	return ok || old.PG.State == events.PostgresUp && old.PG.InRecovery
}

func lastPrimaryReady(s State) ([]uint64, bool) {
	n := s.primary()
	ready := s.Started != 0 && s.Primary != "" && mayResume(s) == "" && n.AgentSeq > 0 && n.PGSeq != 0
	return seqs(s.Started, n.DeadSeq), ready
}

func lastPrimaryMissing(s State) ([]uint64, bool) {
	r := s.rung(DeadlineForm, "")
	return seqs(r.Seq), s.Started != 0 && s.Primary != "" && r.Since == s.Started
}

// standbysFollow: the settle order is done and every standby that lives streams
// from the new primary.
func standbysFollow(s State) ([]uint64, bool) {
	var ev []uint64
	for _, o := range s.Orders {
		if o.Decision != s.PhaseSince {
			continue
		}
		if o.Do == events.ActSettle && o.Status != "done" {
			return nil, false
		}
		n, _ := s.Node(o.Node)
		alive := s.AgentLives(n) && o.Status != "failed" && o.Status != "refused"
		if o.Do != events.ActSettle && alive && !follows(s, n) {
			return nil, false
		}
		ev = append(ev, o.Seq)
	}
	return seqs(ev...), true
}

// follows reports whether the node streams from the primary of the term.
func follows(s State, n Node) bool {
	return n.PG.State == events.PostgresUp && n.PG.InRecovery && n.PG.Upstream == s.Primary && n.PG.Receiver == "streaming"
}

// targetReady: the old primary stopped cleanly and the target has all of it.
func targetReady(s State) ([]uint64, bool) {
	p, ok := proofDead(s)
	n, found := s.Node(s.Target)
	if !ok || !found || !s.primary().Dead.Clean || n.PositionSeq == 0 || n.Position.Decision < s.PhaseSince {
		return nil, false
	}
	reason, lag := rejected(s, n, p.EndLSN)
	return append(p.Events, n.PositionSeq), reason == "" && lag == 0
}

// targetLost: the old primary is cleanly down, and the target did not get there.
func targetLost(s State) ([]uint64, bool) {
	p, ok := proofDead(s)
	if !ok || !s.primary().Dead.Clean || mayResume(s) != "" {
		return nil, false
	}
	n, _ := s.Node(s.Target)
	r := s.rung(DeadlinePosition, "")
	answered := n.PositionSeq != 0 && n.Position.Decision >= s.PhaseSince
	late := r.Since == s.primary().DeadSeq && r.Seq != 0
	lost := answered || late || !s.AgentLives(n) || n.PG.State == events.PostgresDown
	return append(p.Events, seqs(r.Seq, n.PositionSeq)...), lost
}

func switchoverFailed(s State) ([]uint64, bool) {
	for _, o := range s.Orders {
		if o.Decision == s.PhaseSince && o.Do == events.ActDemote && (o.Status == "refused" || o.Status == "failed" && !o.Acted) {
			return seqs(o.Seq), s.primary().Exited == 0
		}
	}
	return nil, false
}

func pauseOver(s State) ([]uint64, bool) {
	r := s.rung(DeadlinePause, "")
	return seqs(r.Seq), s.Paused() && r.Since == s.Pause.Since
}

func stayChanged(s State) ([]uint64, bool) {
	stay, _ := mayStay(s)
	return nil, s.Grant.Seq != 0 && stay != s.Grant.Stay
}

// standbyAtRest: an agent came back (after a reboot, or with interrex up) and
// found its standby stopped. One start for each run of the agent; one that was
// stopped by hand under a living agent is left alone.
func standbyAtRest(s State) ([]uint64, bool) {
	n, ok := atRest(s)
	return seqs(n.AgentSeq, n.PGSeq), ok
}

func atRest(s State) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == s.Primary || n.Detached || !n.HadStreaming || !foundStopped(n) || !s.AgentLives(n) {
			continue
		}
		if !startedBefore(s, n) {
			return n, true
		}
	}
	return Node{}, false
}

// foundStopped: its agent looked and no postmaster ran. One that its agent had
// watched is named in the report, which a probe may bring before the end of the
// process is seen: that one ended, and was not found.
func foundStopped(n Node) bool {
	return n.PG.State == events.PostgresDown && n.PG.PID == 0 && n.Exited == 0 && n.PGSeq > n.AgentSeq
}

// startedBefore reports whether this run of the agent was told to start its
// PostgreSQL already.
func startedBefore(s State, n Node) bool {
	for _, o := range s.Orders {
		if o.Node == n.Name && o.Decision > n.AgentSeq && (o.Do == events.ActRecover || o.Do == events.ActFollow) {
			return true
		}
	}
	return false
}
