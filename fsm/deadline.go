package fsm

import (
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Names of deadlines, as they are written into the log.
const (
	DeadlineSilence  = "primary-silence"
	DeadlineLease    = "lease"
	DeadlineStop     = "stop-grace"
	DeadlineHang     = "hang"
	DeadlineStart    = "start"
	DeadlineForm     = "form"
	DeadlineFence    = "fencing"
	DeadlinePosition = "positions"
	DeadlineOffice   = "promoting"
	DeadlineAcquire  = "acquire"
	DeadlineRequest  = "request"
	DeadlineSettle   = "settling"
	DeadlineSwitch   = "switching"
	DeadlinePause    = "pause"
	DeadlineNode     = "node-silence"
)

// Deadline is a wait that matters: nothing but the passing of Wait since the
// controller saw event Since would change what follows.
type Deadline struct {
	Name  string
	Node  string
	Since uint64
	Wait  time.Duration
}

// Deadlines returns every wait that is due in this state and was not reached
// yet. A controller measures each by its own monotonic clock from the moment
// at which it folded event Since, uninterrupted, and appends deadline-reached
// by compare-and-swap when one is over; after a restart it starts anew.
func Deadlines(s State) []Deadline {
	if s.MayDecide() != "" {
		return nil
	}
	var out []Deadline
	add := func(name, node string, since uint64, wait events.Duration) {
		if r := s.rung(name, node); since != 0 && (r.Since != since || r.Waited < wait.D()) { // a policy may have made it longer
			out = append(out, Deadline{name, node, since, wait.D()})
		}
	}
	p := s.primary()
	pol := s.Policy
	switch s.Phase {
	case events.Forming:
		add(DeadlineForm, "", s.Started, pol.StartTimeout)
	case events.Healthy, events.Settling, events.Suspect:
		watchPrimary(s, p, add)
	case events.Electing, events.Stalled: // a late answer, too, is chosen from at once only when all had time
		add(DeadlinePosition, "", s.PhaseSince, pol.PositionWait)
	}
	switch s.Phase {
	case events.Fencing:
		add(DeadlineFence, "", s.PhaseSince, pol.StartTimeout)
	case events.Promoting:
		watchOffice(s, p, add)
	case events.Settling:
		add(DeadlineSettle, "", s.PhaseSince, pol.SettleWait)
	case events.Switching:
		add(DeadlineSwitch, "", s.PhaseSince, pol.SwitchWait)
		if p.DeadSeq > s.PhaseSince {
			add(DeadlinePosition, "", p.DeadSeq, pol.PositionWait)
		}
	}
	if leaseCounts(s) {
		add(DeadlineLease, s.Primary, s.Grant.Renewed, events.Duration(s.LeaseWait))
	}
	if len(s.Requests) > 0 && tooEarly(s, s.Requests[0]) {
		add(DeadlineRequest, "", s.Requests[0].Seq, pol.Lease)
	}
	if s.Paused() {
		add(DeadlinePause, "", s.Pause.Since, s.Pause.For)
	}
	for _, n := range s.Nodes {
		if n.Name != s.Primary && !n.AgentLeft {
			add(DeadlineNode, n.Name, n.Heard, pol.NodeSilence)
		}
	}
	return out
}

func watchPrimary(s State, p Node, add func(string, string, uint64, events.Duration)) {
	if s.Phase != events.Suspect && !p.AgentLeft {
		add(DeadlineSilence, p.Name, p.Heard, s.Policy.Grace)
	}
	if p.Exited != 0 && p.ExitedClean {
		add(DeadlineStop, p.Name, p.Exited, s.Policy.StopGrace)
	}
	switch p.PG.State {
	case events.PostgresSilent:
		add(DeadlineHang, p.Name, p.PGFirst, s.Policy.Hang)
	case events.PostgresStarting, events.PostgresStopping:
		add(DeadlineStart, p.Name, p.PGFirst, s.Policy.StartTimeout)
	}
}

func watchOffice(s State, p Node, add func(string, string, uint64, events.Duration)) {
	if p.Heard < s.PhaseSince {
		add(DeadlineSilence, s.Primary, s.PhaseSince, s.Policy.Grace)
	} else if s.Grant.Acquired == 0 {
		add(DeadlineSilence, s.Primary, p.Heard, s.Policy.Grace)
		if replaceable(s) {
			add(DeadlineAcquire, s.Primary, s.PhaseSince, s.Policy.Lease)
		}
	}
	add(DeadlineOffice, "", s.PhaseSince, s.Policy.StartTimeout)
}

// leaseCounts says whether the end of the lease can be a proof here. Where the
// agent itself could not stop PostgreSQL, no fence beside it could either.
func leaseCounts(s State) bool {
	switch s.Phase {
	case events.Stalled:
		if _, dead := proofDead(s); dead || s.primary().FenceFailed > s.Grant.Begun {
			return false
		}
		fallthrough
	case events.Suspect, events.Fencing, events.Promoting, events.Switching:
		return s.Grant.Acquired != 0 && !s.Grant.Stay && s.Grant.Fence != ""
	}
	return false
}
