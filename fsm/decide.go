package fsm

import (
	"fmt"
	"slices"

	"github.com/interrex-ha/interrex/events"
)

// Decide returns what should follow in this state: a Decided, a Declined, or
// nothing. Surest facts come first, then what operators asked for, then the
// nodes' statuses. The caller adds its own name and appends the answer by
// compare-and-swap at s.Seq.
func (m *Machine) Decide(s State) (events.Data, bool) {
	if s.MayDecide() != "" {
		return nil, false
	}
	if d, ok := m.conclude(s); ok {
		return m.withStatuses(s, d), true
	}
	if d, ok := m.answer(s); ok {
		return d, true
	}
	if s.Phase != events.Electing && s.Phase != events.Switching { // those are short: the next decision carries them
		if d, ok := m.statusMoves(s); ok {
			return d, true
		}
	}
	return m.lament(s)
}

// conclude fires the first conclusion that the table knows in this phase.
func (m *Machine) conclude(s State) (events.Data, bool) {
	for _, c := range conclusions {
		if !m.knows(s.Phase, c.on) {
			continue
		}
		evidence, holds := c.holds(s)
		if !holds {
			continue
		}
		rule, to, _ := m.move(s.Phase, c.on)
		if rule.Auto && s.Paused() {
			if d, ok := decline(s, rule.ID, rule.Why, "paused by "+s.Pause.Owner+": "+s.Pause.Reason, "when the pause ends", 0); ok {
				return d, true
			}
			continue
		}
		d := begin(s, rule, c.on, to)
		d.Evidence = evidence
		fill(s, &d)
		return d, true
	}
	return nil, false
}

// begin makes the part of a decision that every rule shares.
func begin(s State, r Rule, on Trigger, to events.Phase) events.Decided {
	target := s.Target
	if serving(to) || s.Phase == events.Switching && (to == events.Electing || to == events.Fencing) {
		target = "" // reached, given up, or no longer planned: then the most WAL wins
	}
	return events.Decided{
		BasedOn: s.Seq, Previous: s.LastDecision, Digest: s.Digest.String(), RuleSet: events.RuleSet, PolicyHash: s.PolicyHash,
		Durability: s.Policy.Durability, Rule: r.ID, Trigger: string(on), From: s.Phase, To: to, Why: r.Why,
		Term: s.Term, Primary: s.Primary, Target: target,
	}
}

// fill adds what entering the phase takes: the grant, the proof, the orders.
func fill(s State, d *events.Decided) {
	switch Trigger(d.Trigger) {
	case PrimaryFound:
		found(s, d)
	case LastPrimaryReady:
		p, _ := proofAny(s)
		name(s, d, s.Primary, p)
		d.Orders = []events.Order{order(s, d, events.ActResume, s.Primary)}
	case TargetReady:
		p, _ := proofDead(s)
		promote(s, d, s.Target, p, nil)
	case TargetLost:
		p, _ := proofDead(s)
		resume(s, d, s.Primary, p)
	case CandidateFound, ResumeFound:
		e := elect(s)
		d.Candidates = e.table
		if e.resume {
			resume(s, d, e.winner, e.proof)
		} else {
			promote(s, d, e.winner, e.proof, e.loss)
		}
	case NoCandidate:
		e := elect(s)
		d.Candidates = e.table
		d.Stall = e.missing + ". Bring a node back, or: interrex failover NODE --accept-loss --reason …"
		if provable(s) {
			d.Orders = []events.Order{order(s, d, events.ActFence, s.Primary)} // proved dead, it could take office again
		}
	case FencingFailed:
		d.Stall = fmt.Sprintf("%s could not be proved dead: %s. Stop that host, then: interrex failover NODE --accept-loss --reason …", s.Primary, s.primary().FenceError)
	case FencingTimeout:
		_, missing, _ := proof(s)
		d.Stall = fmt.Sprintf("no proof that %s can take no more writes: %s. Stop that host, then: interrex failover NODE --accept-loss --reason …", s.Primary, missing)
		d.Orders = []events.Order{order(s, d, events.ActFence, s.Primary)} // should its agent be there after all
	case PrimaryServes:
		serves(s, d)
	case PauseOver:
		d.Pause = &events.Pause{}
		restay(s, d, true)
	case StayChanged:
		restay(s, d, false)
	case StandbyAtRest:
		n, _ := atRest(s)
		d.Orders = []events.Order{led(s, d, n.Name, "start")}
	case NothingYet:
		d.Orders = []events.Order{order(s, d, events.ActInit, s.Bootstrap)}
	case NodeEmpty:
		n, _ := copyless(s)
		d.Orders = []events.Order{led(s, d, n.Name, "auto")}
	case PrimaryHung, PrimaryStartTimeout, PrimaryReadOnly, StopGraceOver, OfficeTimeout, OfficeFailed, SwitchTimeout:
		d.Orders = append(positions(s, "wait"), order(s, d, events.ActFence, s.Primary))
	case PrimaryCrashed:
		d.Orders = positions(s, "wait")
		if s.primary().Exited == 0 { // its agent tried once, and failed
			d.Orders = append(d.Orders, order(s, d, events.ActFence, s.Primary))
		}
	default:
		if d.To == events.Electing {
			askPositions(s, d)
		}
	}
}

// askPositions adds the orders for positions on the way into electing, unless this
// episode has ordered them already.
func askPositions(s State, d *events.Decided) {
	how := "wait"
	if Trigger(d.Trigger) == LeaseExpired {
		how = "detach" // the upstream may still be there
	}
	d.Orders = positions(s, how)
}

func proofAny(s State) (events.Proof, bool) {
	p, _, ok := proof(s)
	return p, ok
}

// order makes an order of the decision's own term.
func order(s State, d *events.Decided, do events.Action, node string) events.Order {
	expires := s.Policy.StartTimeout
	return events.Order{Do: do, Node: node, Term: d.Term, Expires: expires}
}

// led is an order that leads a node to the primary of the decision.
func led(s State, d *events.Decided, node, how string) events.Order {
	o := order(s, d, events.ActRecover, node)
	o.Primary, o.How = d.Primary, how
	return o
}

// positions asks every standby that can answer where its WAL ends.
func positions(s State, how string) []events.Order {
	var out []events.Order
	for _, n := range s.Nodes {
		if n.Name == s.Primary || n.Detached || !s.AgentLives(n) || n.PG.State == events.PostgresDown || asked(s, n, how) {
			continue
		}
		out = append(out, events.Order{Do: events.ActPosition, Node: n.Name, Term: s.Term, How: how, Expires: s.Policy.StartTimeout})
	}
	return out
}

// name names a primary of the next term.
func name(s State, d *events.Decided, node string, p events.Proof) {
	d.Term, d.Primary, d.Target = s.Term+1, node, ""
	d.Grant = &events.Grant{Term: d.Term, Node: node}
	d.Grant.Stay = len(s.Nodes) == 1
	if d.Grant.Stay {
		d.Grant.Why = "the only node: nothing could be promoted"
	}
	if n, ok := s.Node(node); ok && n.Agent.Place != "" {
		d.Grant.Stay, d.Grant.Why = true, whyUnfenced
	}
	d.Proof = &p
}

// asked reports whether this episode has the node's position already, or has an
// order for it under way: a second one would only stand in a promotion's way.
func asked(s State, n Node, how string) bool {
	if serving(s.Phase) || s.Phase == events.Forming {
		return false // a new episode begins
	}
	known := n.Position.Decision >= s.Episode && n.Position.Error == "" // not a late answer to an older question
	if n.PositionSeq > max(s.Episode, n.AgentSeq, n.PGFirst) && known {
		return true
	}
	return awaited(s, n, how)
}

// awaited reports whether the node was asked for its position in this episode,
// in this way or, with "", in any, and has not answered: its report is the only
// result of such an order.
func awaited(s State, n Node, how string) bool {
	return slices.ContainsFunc(s.Orders, func(o OrderState) bool {
		open := o.Do == events.ActPosition && (o.Status == "" || o.Status == "started") && (how == "" || o.Order.How == how)
		answered := n.PositionSeq != 0 && n.Position.Decision >= o.Decision
		return open && !answered && o.Node == n.Name && o.Decision >= max(s.Episode, n.AgentSeq)
	})
}

func promote(s State, d *events.Decided, node string, p events.Proof, loss *events.Loss) {
	old := s.Primary
	name(s, d, node, p)
	d.Loss = loss
	if d.Loss == nil {
		if n, ok := s.Node(node); ok {
			d.Loss = lossOf(s, p, n.Position.LSN)
		}
	}
	o := order(s, d, events.ActPromote, node)
	if n, ok := s.Node(node); ok {
		o.Target = n.Position.LSN
	}
	d.Orders = []events.Order{o}
	if n, ok := s.Node(old); ok && (n.Status == StatusWaiting || n.Status == StatusUp) {
		d.Statuses = []events.StatusMove{{Node: old, From: n.Status, To: StatusDown, Rule: 1105, Why: statusWhy(1105)}}
	}
}

func resume(s State, d *events.Decided, node string, p events.Proof) {
	name(s, d, node, p)
	d.Orders = []events.Order{order(s, d, events.ActResume, node)}
}

// found names the primary that runs already: the first term of a log, or the
// next one after an orderly stop that left PostgreSQL running.
func found(s State, d *events.Decided) {
	for _, n := range s.Nodes {
		if n.PG.State == events.PostgresUp && !n.PG.InRecovery {
			p := events.Proof{Kind: events.ProofNone, Why: "no other node ever held a term"}
			if s.Primary != "" && s.Primary != n.Name {
				p, _ = proofAny(s)
				if p.Kind == "" {
					p = events.Proof{Kind: events.ProofDead, Node: s.Primary, Term: s.Term, Events: []uint64{s.primary().PGSeq}, Why: "the last primary is a standby now"}
				}
			} else if s.Primary == n.Name {
				p.Why = "it is the last primary itself"
			}
			name(s, d, n.Name, p)
		}
	}
	d.Orders = []events.Order{order(s, d, events.ActSettle, d.Primary)}
	if s.Created {
		return // its standbys follow as Interrex has set them up
	}
	for _, n := range s.Nodes { // those that were taken over get their slot, or it would keep WAL for nobody
		if n.Name != d.Primary && !n.Detached && n.PG.State == events.PostgresUp && n.PG.InRecovery {
			o := order(s, d, events.ActFollow, n.Name)
			o.Primary = d.Primary
			d.Orders = append(d.Orders, o)
		}
	}
}

// serves leads the others to the new primary.
func serves(s State, d *events.Decided) {
	d.Target = ""
	d.Orders = []events.Order{order(s, d, events.ActSettle, s.Primary)}
	for _, n := range s.Nodes {
		if n.Name == s.Primary || n.Detached || !s.AgentLives(n) {
			continue
		}
		if n.PG.State == events.PostgresUp && n.PG.InRecovery && n.DeadSeq == 0 {
			o := order(s, d, events.ActFollow, n.Name)
			o.Primary = s.Primary
			d.Orders = append(d.Orders, o)
		} else if stoppedInOrder(s, n) {
			d.Orders = append(d.Orders, led(s, d, n.Name, "start"))
		}
	}
}

// stoppedInOrder: what a switchover stopped cleanly, or a standby that was
// stopped with the whole cluster, comes back by itself.
func stoppedInOrder(s State, n Node) bool {
	if n.DeadSeq != 0 {
		return n.Dead.Clean && n.Dead.Cause == events.CauseSwitched
	}
	return n.HadStreaming && foundStopped(n)
}

// restay re-issues the grant of the same term when whether it may outlive the
// log has changed. The agent acts by the new grant once it cites it.
func restay(s State, d *events.Decided, pauseEnds bool) {
	if pauseEnds {
		s.Pause = Pause{}
	}
	stay, why := mayStay(s)
	if s.Grant.Seq == 0 || stay == s.Grant.Stay {
		return
	}
	d.Grant = &events.Grant{Term: s.Grant.Term, Node: s.Grant.Node, Stay: stay, Why: why}
}

// decline makes a declined event unless this phase has told it already.
func decline(s State, rule int, would, missing, earliest string, request uint64) (events.Data, bool) {
	d := events.Declined{BasedOn: s.Seq, Rule: rule, Would: would, Missing: missing, Earliest: earliest, Request: request}
	key := declinedKey(d)
	for _, k := range s.Declined {
		if k == key {
			return nil, false
		}
	}
	return d, true
}

// lament records why a suspect primary is not failed over yet.
func (m *Machine) lament(s State) (events.Data, bool) {
	switch s.Phase {
	case events.Forming:
		who := holders(s)
		if who == "" {
			return nil, false
		}
		return decline(s, 107, "make a new cluster's first server", who+
			" holds data, and this log knows of no cluster: give this cluster the log that belongs to the data, or start that PostgreSQL where it is; or empty the directories of all nodes, if the data is not wanted", "", 0)
	case events.Suspect:
		if s.PhaseRule == 205 {
			return decline(s, 217, "stop it for good and fail over", "the stop grace has not passed", s.Policy.StopGrace.String()+" after it was stopped", 0)
		}
	case events.Fencing:
		// Not before the lease is over: until then a proof of death is on its
		// way, and a record of its absence would only delay it.
		if s.rung(DeadlineLease, s.Primary).Since != s.Grant.Renewed || s.Grant.Renewed == 0 {
			return nil, false
		}
	default:
		return nil, false
	}
	if _, missing, ok := proof(s); !ok {
		return decline(s, 219, "fail over", missing, s.Policy.ExpiryWait().String()+" after its last renewal", 0)
	}
	return nil, false
}
