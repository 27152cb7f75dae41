package events

import (
	"fmt"
	"strings"
)

// Sentence tells an event in one line, for people: `interrex log`, alerts and
// explanations use it. Its wording may change; nothing may be parsed out of it.
func Sentence(d Data) string {
	switch d := d.(type) {
	case ClusterFormed:
		return fmt.Sprintf("cluster %s formed with %d nodes", d.Cluster, len(d.Members))
	case RulesActivated:
		return fmt.Sprintf("rule set %d activated", d.RuleSet)
	case PolicySet:
		return fmt.Sprintf("policy %s set by %s%s", d.Hash, d.Who, because(d.Reason))
	case Decided:
		return sentenceDecided(d)
	case Declined:
		return sentenceDeclined(d)
	case DeadlineReached:
		return fmt.Sprintf("nothing for %s since event %d: deadline %s%s reached", d.Waited, d.Since, d.Name, of1(d.Node))
	}
	if s := sentenceFact(d); s != "" {
		return s
	}
	if s := sentenceResult(d); s != "" {
		return s
	}
	return sentenceRequest(d)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func of1(node string) string {
	if node == "" {
		return ""
	}
	return " of " + node
}

func sentenceFact(d Data) string {
	switch d := d.(type) {
	case AgentStarted:
		return fmt.Sprintf("agent of %s started (pid %d)", d.Node, d.PID)
	case AgentStopped:
		return fmt.Sprintf("agent of %s ended in order: %s", d.Node, d.Reason)
	case PostgresSeen:
		return sentenceSeen(d)
	case Heartbeat:
		return fmt.Sprintf("%s: %s at %s, %d probes, %d failed", d.Node, d.State, d.LSN, d.Probes.Count, d.Probes.Failures)
	case PostgresExited:
		return fmt.Sprintf("%s: postmaster %d ended %s", d.Node, d.PID, either(d.Clean, "after a clean shutdown", "without a shutdown"))
	case PostgresDead:
		if d.Outside != "" {
			return fmt.Sprintf("%s is dead (%s): %s was killed, no process of it is left, standby.signal is on disk", d.Node, d.Cause, d.Outside)
		}
		return fmt.Sprintf("%s is proved dead (%s): WAL ends at %s, %d processes had to be killed, standby.signal is on disk", d.Node, d.Cause, d.EndLSN, d.Killed)
	case FenceFailed:
		return fmt.Sprintf("%s could not be proved dead: %s", d.Node, d.Error)
	case PeerSeen:
		return fmt.Sprintf("the agent of %s finds %s %s", d.By, d.Node, d.State)
	case PositionReported:
		if d.Error != "" {
			return fmt.Sprintf("%s cannot tell its position: %s", d.Node, d.Error)
		}
		return fmt.Sprintf("%s receives no more; its WAL ends at %s on timeline %d", d.Node, d.LSN, d.Timeline)
	case LeaseAcquired:
		return fmt.Sprintf("%s took the lease of term %d (fence: %s)", d.Node, d.Term, either(d.Fence != "", d.Fence, "none"))
	case LeaseRenewed:
		return fmt.Sprintf("%s renewed the lease of term %d: %s at %s", d.Node, d.Term, d.State, d.LSN)
	case LeaseRefused:
		return fmt.Sprintf("%s: lease of term %d refused: %s", d.Node, d.Term, d.Reason)
	}
	return ""
}

func either(c bool, yes, no string) string {
	if c {
		return yes
	}
	return no
}

func sentenceSeen(d PostgresSeen) string {
	if d.Unheard {
		why := d.Error
		d.Unheard, d.Error = false, ""
		return sentenceSeen(d) + "; its host is not heard of by its agent" + because(why)
	}
	if d.State != PostgresUp {
		return fmt.Sprintf("%s: PostgreSQL is %s%s", d.Node, d.State, because(d.Error))
	}
	if !d.InRecovery {
		return fmt.Sprintf("%s: PostgreSQL takes writes on timeline %d", d.Node, d.Timeline)
	}
	if d.Receiver == "" {
		return fmt.Sprintf("%s: PostgreSQL is a standby and receives nothing", d.Node)
	}
	return fmt.Sprintf("%s: PostgreSQL is a standby, %s from %s", d.Node, d.Receiver, d.Upstream)
}

func sentenceDecided(d Decided) string {
	if d.Rule == 0 {
		var moves []string
		for _, m := range d.Statuses {
			moves = append(moves, fmt.Sprintf("%s %d → %d (%s)", m.Node, m.From, m.To, m.Why))
		}
		return "node status: " + strings.Join(moves, ", ")
	}
	s := fmt.Sprintf("rule %d, %s → %s: %s", d.Rule, d.From, d.To, d.Why)
	if d.From == d.To {
		s = fmt.Sprintf("rule %d: %s%s", d.Rule, d.Why, because(concerned(d)))
	}
	if d.Grant != nil {
		s += fmt.Sprintf("; %s is primary of term %d", d.Grant.Node, d.Grant.Term)
	}
	if d.Loss != nil && d.Loss.Text() != "nothing" {
		s += "; lost: " + d.Loss.Text()
	}
	if d.Stall != "" {
		s += "; " + d.Stall
	}
	var orders []string
	for _, o := range d.Orders {
		orders = append(orders, string(o.Do)+" "+o.Node)
	}
	if orders != nil {
		s += "; orders: " + strings.Join(orders, ", ")
	}
	return s
}

// concerned is the one node that an operator detached, attached or has recovered.
func concerned(d Decided) string {
	switch {
	case d.Detach != "":
		return d.Detach
	case d.Attach != "":
		return d.Attach
	case d.Trigger == "RecoverAsked" && len(d.Orders) == 1:
		return d.Orders[0].Node
	}
	return ""
}

// Text says what was lost. Where the end of the old primary's WAL was not read,
// it is only known up to its last report: a lower bound.
func (l Loss) Text() string {
	switch {
	case l.Exact && l.Bytes == 0:
		return "nothing"
	case l.Exact:
		return fmt.Sprintf("exactly %d bytes of WAL", l.Bytes)
	case l.Bytes == 0:
		return "unknown: what the old primary wrote after its last report"
	}
	return fmt.Sprintf("at least %d bytes of WAL, and what the old primary wrote after its last report", l.Bytes)
}

func sentenceDeclined(d Declined) string {
	if d.Request != 0 {
		return fmt.Sprintf("refused: %s", d.Missing)
	}
	s := fmt.Sprintf("declined to %s (rule %d): %s", d.Would, d.Rule, d.Missing)
	if d.Earliest != "" {
		s += "; at the earliest " + d.Earliest
	}
	return s
}

func sentenceResult(d Data) string {
	switch d := d.(type) {
	case OrderStarted:
		return fmt.Sprintf("%s begins to %s (decision %d)", d.Node, d.Action, d.Decision)
	case OrderProgress:
		if d.Total > 0 {
			return fmt.Sprintf("%s: %s, %d of %d bytes", d.Node, d.Step, d.Done, d.Total)
		}
		return fmt.Sprintf("%s: %s", d.Node, d.Step)
	case OrderDone:
		return fmt.Sprintf("%s: %s done%s in %d ms", d.Node, d.Action, either(d.How != "", " ("+d.How+")", ""), d.TookMicros/1000)
	case OrderFailed:
		return fmt.Sprintf("%s: %s failed: %s", d.Node, d.Action, d.Error)
	case OrderRefused:
		return fmt.Sprintf("%s refuses to %s: %s", d.Node, d.Action, d.Reason)
	}
	return ""
}

func sentenceRequest(d Data) string {
	switch d := d.(type) {
	case SwitchoverRequested:
		return fmt.Sprintf("%s asks for a switchover%s%s", d.Who, either(d.Node != "", " to "+d.Node, ""), because(d.Reason))
	case FailoverRequested:
		return fmt.Sprintf("%s asks for a failover%s%s%s", d.Who, either(d.Node != "", " to "+d.Node, ""), either(d.AcceptLoss, ", accepting the loss", ""), because(d.Reason))
	case RecoverRequested:
		return fmt.Sprintf("%s asks to recover %s%s", d.Who, d.Node, because(d.Reason))
	case DetachRequested:
		return fmt.Sprintf("%s detaches %s%s", d.Who, d.Node, because(d.Reason))
	case AttachRequested:
		return fmt.Sprintf("%s attaches %s%s", d.Who, d.Node, because(d.Reason))
	case PauseRequested:
		return fmt.Sprintf("%s pauses automatic failover for %s%s", d.Who, d.For, because(d.Reason))
	case ResumeRequested:
		return fmt.Sprintf("%s ends the pause%s", d.Who, because(d.Reason))
	case ShutdownRequested:
		return fmt.Sprintf("%s stops Interrex in order%s", d.Who, either(d.Keep, "; PostgreSQL goes on", " and PostgreSQL with it"))
	case StartupRequested:
		return fmt.Sprintf("%s starts the cluster", d.Who)
	}
	return d.Kind()
}
