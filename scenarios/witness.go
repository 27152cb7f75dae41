package scenarios

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Actions are the actions for which an executor exists.
var Actions = []events.Action{
	events.ActPromote, events.ActResume, events.ActFence, events.ActDemote, events.ActPosition,
	events.ActFollow, events.ActSettle, events.ActRecover, events.ActStop, events.ActClean, events.ActInit,
}

// Witness checks what must hold of every log, whatever happened and whoever
// decided: it keeps its own books from the events alone and asks no rule. The
// zero value stands before the first event.
type Witness struct {
	holders  map[uint64]string // who was named in each term
	statuses map[string]int
	dead     map[string]deathSeen
	term     uint64
	grant    grantSeen
	rung     events.DeadlineReached // the last of a lease
	rungSeq  uint64
	wait     time.Duration // for the end of a lease, by the policy in force
	longest  time.Duration // and by every policy since the term was granted
}

type deathSeen struct {
	seq    uint64
	signal bool
}

type grantSeen struct {
	events.Grant
	begun    uint64 // the decision that first granted the term
	seq      uint64 // the newest that did
	running  bool   // it took writes already when it was named
	acquired bool
	renewed  uint64 // last lease event that cites seq
	fence    string
}

// Step takes the next event and returns what it breaks. void says that readers
// ignore it.
func (w *Witness) Step(e events.Event, void bool) []string {
	if w.holders == nil {
		w.holders, w.statuses, w.dead = map[uint64]string{}, map[string]int{}, map[string]deathSeen{}
	}
	switch d := e.Data.(type) {
	case events.Decided:
		if !void {
			return w.decided(e.Seq, d)
		}
	case events.PolicySet:
		if d.Policy.Check() == nil {
			w.wait = d.Policy.ExpiryWait()
			w.longest = max(w.longest, w.wait)
		}
	case events.DeadlineReached:
		if d.Name == "lease" && d.BasedOn == e.Seq-1 {
			w.rung, w.rungSeq = d, e.Seq
		}
	case events.ClusterFormed: // a node that was left out is a new one when it is named again
		maps.DeleteFunc(w.statuses, func(name string, _ int) bool {
			return !slices.ContainsFunc(d.Members, func(m events.Member) bool { return m.Name == name })
		})
	case events.PostgresDead:
		w.dead[d.Node] = deathSeen{e.Seq, d.StandbySignal}
	case events.LeaseAcquired:
		w.leased(e.Seq, d.Node, d.Grant)
		if d.Grant == w.grant.seq && d.Node == w.grant.Node {
			w.grant.fence = d.Fence
		}
	case events.LeaseRenewed:
		w.leased(e.Seq, d.Node, d.Grant)
	}
	return nil
}

func (w *Witness) leased(seq uint64, node string, grant uint64) {
	if grant == w.grant.seq && node == w.grant.Node {
		w.grant.acquired, w.grant.renewed = true, seq
	}
}

func (w *Witness) decided(seq uint64, d events.Decided) []string {
	var broken []string
	bad := func(format string, a ...any) { broken = append(broken, fmt.Sprintf(format, a...)) }
	if d.Term < w.term {
		bad("term %d after term %d", d.Term, w.term)
	}
	begins := 0
	for _, o := range d.Orders {
		if !slices.Contains(Actions, o.Do) {
			bad("order %q has no executor", o.Do)
		}
		if o.Term != d.Term {
			bad("order %s of %s carries term %d in a decision of term %d", o.Do, o.Node, o.Term, d.Term)
		}
		if o.Do != events.ActPromote && o.Do != events.ActResume {
			continue
		}
		begins++
		if d.Grant == nil || d.Grant.Node != o.Node || d.Grant.Term <= w.term {
			bad("order %s of %s without a new term granted to it", o.Do, o.Node)
		}
		if why := w.unproved(d); why != "" {
			bad("order %s of %s: %s", o.Do, o.Node, why)
		}
	}
	if begins > 1 {
		bad("%d nodes are told to take office", begins)
	}
	for _, m := range d.Statuses {
		if have := w.statuses[m.Node]; m.From != have {
			bad("status of %s moves from %d, and is %d", m.Node, m.From, have)
		}
		w.statuses[m.Node] = m.To
	}
	if d.Grant != nil {
		w.granted(seq, d, begins > 0, bad)
	}
	w.term = max(w.term, d.Term)
	return broken
}

func (w *Witness) granted(seq uint64, d events.Decided, begins bool, bad func(string, ...any)) {
	g := *d.Grant
	who, known := w.holders[g.Term]
	switch {
	case known && who != g.Node:
		bad("term %d is granted to %s, and was granted to %s", g.Term, g.Node, who)
	case !known && g.Term <= w.term:
		bad("term %d is granted for the first time after term %d", g.Term, w.term)
	case g.Term != d.Term || g.Node != d.Primary:
		bad("the grant (term %d, %s) and the decision (term %d, %s) differ", g.Term, g.Node, d.Term, d.Primary)
	}
	next := grantSeen{Grant: g, seq: seq, begun: seq, running: !begins}
	if known && g.Term == w.grant.Term {
		next.begun, next.running, next.acquired, next.fence = w.grant.begun, w.grant.running, w.grant.acquired, w.grant.fence
	}
	if !known {
		w.longest = w.wait // the new holder has read the policy
	}
	w.holders[g.Term] = g.Node
	w.grant = next
}

// unproved says why a decision's proof does not show that the last holder of a
// term can acknowledge no more, or "".
func (w *Witness) unproved(d events.Decided) string {
	p, g := d.Proof, w.grant
	if p == nil {
		return "no proof"
	}
	if g.seq != 0 && (p.Node != g.Node || p.Term != g.Term) {
		return fmt.Sprintf("the proof is about %s in term %d, the last grant about %s in term %d", p.Node, p.Term, g.Node, g.Term)
	}
	switch p.Kind {
	case events.ProofNone:
		if g.seq != 0 {
			return fmt.Sprintf("a proof is needed: %s held term %d", g.Node, g.Term)
		}
	case events.ProofDead, events.ProofKilled:
		x := w.dead[g.Node]
		if x.seq <= g.begun || !x.signal || !slices.Contains(p.Events, x.seq) {
			return fmt.Sprintf("proof dead, but %s was not proved dead after decision %d", g.Node, g.begun)
		}
	case events.ProofUnused:
		if g.acquired || g.running {
			return fmt.Sprintf("proof unacquired, but %s acquired term %d or was running", g.Node, g.Term)
		}
	case events.ProofExpired:
		return w.unexpired(p)
	case events.ProofOperator:
		if d.Request == 0 {
			return "proof operator, but nobody asked"
		}
	default:
		return fmt.Sprintf("proof %q is not known", p.Kind)
	}
	return ""
}

func (w *Witness) unexpired(p *events.Proof) string {
	g := w.grant
	switch {
	case g.Stay:
		return "proof expired against a grant that may stay"
	case g.fence == "":
		return "proof expired, but no fence survives the agent"
	case g.renewed == 0:
		return "proof expired, but the agent has not acted by the newest grant"
	case w.rung.Node != g.Node || w.rung.Since != g.renewed || !slices.Contains(p.Events, w.rungSeq):
		return fmt.Sprintf("proof expired, but nobody waited since the last renewal (event %d)", g.renewed)
	case w.rung.Waited.D() < w.longest:
		return fmt.Sprintf("proof expired after %s, before %s", w.rung.Waited, w.longest)
	}
	return ""
}
