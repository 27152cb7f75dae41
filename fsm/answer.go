package fsm

import (
	"fmt"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// answer decides on the oldest request of an operator. Each is answered: by a
// decision, or by a declined event that says what is missing.
func (m *Machine) answer(s State) (events.Data, bool) {
	if len(s.Requests) == 0 {
		return nil, false
	}
	r := s.Requests[0]
	if tooEarly(s, r) {
		return nil, false
	}
	on, refusal := judge(s, r)
	if refusal == "" {
		rule, to, ok := m.move(s.Phase, on)
		if ok {
			d := begin(s, rule, on, to)
			d.Request = r.Seq
			d.Evidence = []uint64{r.Seq}
			grantRequest(s, &d, r)
			return d, true
		}
		refusal = fmt.Sprintf("the cluster is %s; try again when it is healthy", s.Phase)
		if s.Stall != "" {
			refusal = "the cluster is stalled: " + s.Stall
		}
	}
	return decline(s, 0, r.Data.Kind(), refusal, "", r.Seq)
}

// tooEarly: the primary is just about to take its lease, and what was asked is
// decided when it has; for as long as a lease lasts.
func tooEarly(s State, r Request) bool {
	_, planned := r.Data.(events.SwitchoverRequested)
	return planned && s.Phase == events.Healthy && s.Grant.Acquired == 0 && s.rung(DeadlineRequest, "").Since != r.Seq
}

// judge reads a request into its trigger, or says why it is refused.
func judge(s State, r Request) (Trigger, string) {
	switch d := r.Data.(type) {
	case events.SwitchoverRequested:
		if s.Phase != events.Healthy {
			return SwitchoverAsked, ""
		}
		if s.Grant.Acquired == 0 {
			return SwitchoverAsked, s.Primary + " has not taken the lease of its term: see the log of its agent (is its guardian started?)"
		}
		_, why := switchTarget(s, d.Node)
		return SwitchoverAsked, why
	case events.FailoverRequested:
		return judgeFailover(s, d)
	case events.RecoverRequested:
		return RecoverAsked, judgeRecover(s, d)
	case events.DetachRequested:
		n, ok := s.Node(d.Node)
		switch {
		case !ok:
			return DetachAsked, unknownNode(s, d.Node)
		case n.Name == s.Primary:
			return DetachAsked, d.Node + " is the primary: switch over first (interrex switchover)"
		case n.Detached:
			return DetachAsked, d.Node + " is detached already"
		}
		return DetachAsked, ""
	case events.AttachRequested:
		n, ok := s.Node(d.Node)
		switch {
		case !ok:
			return AttachAsked, unknownNode(s, d.Node)
		case !n.Detached:
			return AttachAsked, d.Node + " is not detached; if its status is 3, make it a standby again with: interrex recover " + d.Node
		}
		return AttachAsked, ""
	case events.PauseRequested:
		return PauseAsked, ""
	case events.ResumeRequested:
		if !s.Paused() {
			return ResumeAsked, "the cluster is not paused"
		}
		return ResumeAsked, ""
	case events.ShutdownRequested:
		return ShutdownAsked, ""
	}
	return "", "this version does not know the request"
}

func judgeFailover(s State, d events.FailoverRequested) (Trigger, string) {
	if d.Node != "" {
		if _, ok := s.Node(d.Node); !ok {
			return FailoverAsked, unknownNode(s, d.Node)
		}
		if d.Node == s.Primary && s.Phase != events.Stalled {
			return FailoverAsked, d.Node + " is the primary already"
		}
	}
	if s.Phase != events.Stalled {
		return FailoverAsked, noSuccessor(s, d.Node)
	}
	if !d.AcceptLoss {
		return FailoverAccepted, "the cluster is stalled (" + s.Stall + "): say that you accept the loss with --accept-loss"
	}
	if best, _, why := accepted(s, d.Node); best.Name == "" {
		return FailoverAccepted, "no node can be promoted: " + why
	}
	return FailoverAccepted, ""
}

// noSuccessor says why a primary must not be stopped for the one named, or for
// whoever is best, or "".
func noSuccessor(s State, node string) string {
	var all []string
	for _, n := range s.Nodes {
		if n.Name == s.Primary || node != "" && n.Name != node {
			continue
		}
		why := cannotSucceed(s, n)
		if why == "" {
			why = leftBehind(s, n)
		}
		if why == "" {
			return ""
		}
		all = append(all, why)
	}
	return reasons(all)
}

func reasons(all []string) string {
	if len(all) == 0 {
		return "there is no other node"
	}
	return strings.Join(all, "; ")
}

// cannotSucceed says why not even an operator's word could promote the node, or
// "". How much it lacks is for him to judge.
func cannotSucceed(s State, n Node) string {
	switch {
	case n.Detached:
		return n.Name + " is detached: attach it first (interrex attach " + n.Name + ")"
	case !s.AgentLives(n):
		return "no agent stands for " + n.Name
	case n.PG.State != events.PostgresUp || !n.PG.InRecovery:
		return n.Name + " does not run as a standby"
	case s.SystemID != "" && n.PG.SystemID != "" && n.PG.SystemID != s.SystemID:
		return fmt.Sprintf("%s is a copy of something else: its system identifier is %s, the cluster's is %s", n.Name, n.PG.SystemID, s.SystemID)
	}
	return ""
}

// leftBehind says why the choice would reject a standby that runs beside a healthy
// primary and does not receive from it, or "".
func leftBehind(s State, n Node) string {
	if s.Phase != events.Healthy || follows(s, n) {
		return ""
	}
	if lag := n.LSN.Behind(s.PrimaryLSN); lag > s.Policy.MaxLag {
		return fmt.Sprintf("%s does not stream from the primary and lacks %d bytes of its WAL, max_lag is %d: interrex recover %s", n.Name, lag, s.Policy.MaxLag, n.Name)
	}
	if n.PG.Timeline != 0 && n.PG.Timeline < s.PrimaryTLI {
		return fmt.Sprintf("%s does not stream from the primary and is on timeline %d, the primary on %d: interrex recover %s", n.Name, n.PG.Timeline, s.PrimaryTLI, n.Name)
	}
	return ""
}

// accepted is the node that an operator's word may promote: the one named, or
// the one with the most WAL on the newest timeline; or why there is none. An old
// primary that failed already is tried again when it is named, or alone.
func accepted(s State, node string) (best Node, resume bool, why string) {
	old, noResume := resumable(s)
	if node == s.Primary && old.Name == node {
		noResume = cannotResume(s)
	}
	var all []string
	for _, n := range s.Nodes {
		again := n.Name == old.Name && noResume == ""
		if node != "" && n.Name != node {
			continue
		}
		if no := cannotSucceed(s, n); !again && (no != "" || n.Name == s.Primary) {
			if n.Name == s.Primary {
				no = n.Name + ": " + noResume
			}
			all = append(all, no)
			continue
		}
		if best.Name == "" || further(s, n, best) {
			best, resume = n, again
		}
	}
	if best.Name == "" && node == "" && cannotResume(s) == "" {
		return s.primary(), true, ""
	}
	return best, resume, reasons(all)
}

// further compares what two nodes hold; a position on another timeline says
// nothing.
func further(s State, a, b Node) bool {
	if x, y := reportedTLI(s, a), reportedTLI(s, b); x != y && x != 0 && y != 0 {
		return x > y
	}
	return a.LSN > b.LSN
}

// reportedTLI is the timeline that a node named with its position in this
// failover, 0 when it did not. What probes see of a standby's lags behind.
func reportedTLI(s State, n Node) uint32 {
	if n.PositionSeq == 0 || n.Position.Decision < s.Episode || n.Position.Error != "" {
		return 0
	}
	return n.Position.Timeline
}

func judgeRecover(s State, d events.RecoverRequested) string {
	n, ok := s.Node(d.Node)
	switch {
	case !ok:
		return unknownNode(s, d.Node)
	case !s.AgentLives(n):
		return "no agent stands for " + d.Node + ": start it first (interrex up, or interrex agent " + d.Node + ")"
	case d.Clean:
		return ""
	case n.Name == s.Primary:
		return d.Node + " is the primary: there is nothing to recover it from"
	case follows(s, n) && d.How != "basebackup":
		return d.Node + " streams from the primary already"
	case s.Phase != events.Healthy:
		return "" // the table refuses with the phase
	}
	for _, o := range s.Orders {
		if o.Node == d.Node && o.Do == events.ActRecover && (o.Status == "" || o.Status == "started") && o.Decision > n.AgentSeq {
			return fmt.Sprintf("%s is being recovered already (decision %d)", d.Node, o.Decision)
		}
	}
	return ""
}

func unknownNode(s State, node string) string {
	names := ""
	for _, n := range s.Nodes {
		names += " " + n.Name
	}
	return fmt.Sprintf("there is no node %q; the cluster has:%s", node, names)
}

// switchTarget is the standby that a switchover would promote, or why there is
// none.
func switchTarget(s State, want string) (string, string) {
	if want != "" {
		n, ok := s.Node(want)
		if !ok {
			return "", unknownNode(s, want)
		}
		return want, notSwitchable(s, n)
	}
	best, why := "", "there is no standby"
	for _, n := range s.Nodes {
		if n.Name == s.Primary {
			continue
		}
		if w := notSwitchable(s, n); w != "" {
			why = w
			continue
		}
		b, ok := s.Node(best)
		if !ok || n.LSN > b.LSN || n.LSN == b.LSN && n.Priority > b.Priority {
			best = n.Name
		}
	}
	if best != "" {
		why = ""
	}
	return best, why
}

func notSwitchable(s State, n Node) string {
	lag := n.LSN.Behind(s.PrimaryLSN)
	switch {
	case n.Name == s.Primary:
		return n.Name + " is the primary already"
	case n.Detached:
		return n.Name + " is detached: attach it first"
	case !s.AgentLives(n):
		return "no agent stands for " + n.Name
	case !follows(s, n):
		return n.Name + " does not stream from the primary: interrex recover " + n.Name
	case n.PG.ReplayPaused:
		return "replay is paused on " + n.Name + ": SELECT pg_wal_replay_resume()"
	case lag > s.Policy.MaxLag:
		return fmt.Sprintf("%s lags %d bytes behind, max_lag is %d: wait until it caught up", n.Name, lag, s.Policy.MaxLag)
	}
	return ""
}

// astray reports whether a standby runs and does not stream from the primary that
// serves: it missed a failover while it was detached, and nobody else leads it there.
func astray(s State, n Node) bool {
	p := s.primary()
	serves := serving(s.Phase) && p.PG.State == events.PostgresUp && !p.PG.InRecovery
	return serves && s.AgentLives(n) && n.PG.State == events.PostgresUp && n.PG.InRecovery && !follows(s, n)
}

// grantRequest fills in what the operator asked for.
func grantRequest(s State, d *events.Decided, r Request) {
	switch q := r.Data.(type) {
	case events.SwitchoverRequested:
		d.Target, _ = switchTarget(s, q.Node)
		demote := order(s, d, events.ActDemote, s.Primary)
		demote.Expires = s.Policy.SwitchWait
		d.Orders = append(positions(s, "wait"), demote)
	case events.FailoverRequested:
		grantFailover(s, d, q)
	case events.RecoverRequested:
		o := led(s, d, q.Node, q.How)
		if o.How == "" {
			o.How = "auto"
		}
		if q.Clean {
			o = order(s, d, events.ActClean, q.Node)
		}
		d.Orders = []events.Order{o}
	case events.DetachRequested:
		d.Detach = q.Node
	case events.AttachRequested:
		d.Attach = q.Node
		if n, _ := s.Node(q.Node); astray(s, n) {
			o := order(s, d, events.ActFollow, n.Name)
			o.Primary = d.Primary
			d.Orders = []events.Order{o}
		}
	case events.PauseRequested:
		d.Pause = &events.Pause{Owner: q.Who, Reason: q.Reason, For: q.For}
		s.Pause = Pause{Pause: *d.Pause}
		restay(s, d, false)
	case events.ResumeRequested:
		d.Pause = &events.Pause{}
		restay(s, d, true)
	case events.ShutdownRequested:
		shutdown(s, d, q)
	}
}

func grantFailover(s State, d *events.Decided, q events.FailoverRequested) {
	if s.Phase != events.Stalled {
		d.Target = q.Node
		d.Orders = append(positions(s, "wait"), order(s, d, events.ActFence, s.Primary))
		return
	}
	n, again, _ := accepted(s, q.Node)
	p, ok := proofAny(s)
	if !ok {
		p = events.Proof{Kind: events.ProofOperator, Node: s.Primary, Term: s.Term, Events: d.Evidence, Why: q.Who + " says so: " + q.Reason}
	}
	if again {
		resume(s, d, n.Name, p)
		return
	}
	loss := lossOf(s, p, n.LSN)
	if tli := reportedTLI(s, n); tli != 0 && tli != s.PrimaryTLI {
		loss = &events.Loss{} // it has left the history: positions compare no more
	}
	promote(s, d, n.Name, p, loss)
}

// shutdown stops everything in order, the primary first, or, with Keep, lets
// PostgreSQL run without us: then the grant says that it may stay.
func shutdown(s State, d *events.Decided, q events.ShutdownRequested) {
	if q.Keep {
		if s.Grant.Seq != 0 {
			d.Grant = &events.Grant{Term: s.Grant.Term, Node: s.Grant.Node, Stay: true, Why: "maintenance: Interrex was stopped in order"}
		}
		return
	}
	if p := s.primary(); p.Name != "" && p.DeadSeq == 0 {
		do := events.ActDemote
		if p.PG.State == events.PostgresDown { // stopped by hand just before: it only has to be proved
			do = events.ActFence
		}
		d.Orders = append(d.Orders, order(s, d, do, s.Primary))
	}
	for _, n := range s.Nodes {
		if n.Name != s.Primary && s.AgentLives(n) {
			d.Orders = append(d.Orders, order(s, d, events.ActStop, n.Name))
		}
	}
}
