package scenarios

import (
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// result reports on the newest order of that kind to that node.
func result(status string) func(*Player, arg, args) error {
	return func(p *Player, name arg, a args) error {
		n, err := p.nodeOf(name, &a)
		if err != nil {
			return err
		}
		action, err := a.take(name, "an action")
		if err != nil {
			return err
		}
		ref := events.OrderRef{Node: n.Name, Action: events.Action(action)}
		for _, o := range p.state.Orders {
			if o.Node == n.Name && o.Do == ref.Action {
				ref.Decision, ref.Term = o.Decision, o.Order.Term
			}
		}
		if ref.Decision == 0 {
			return wrong(name.column, "%s was not ordered to %s", n.Name, action)
		}
		switch status {
		case "started":
			return p.happen(events.OrderStarted{OrderRef: ref}, a)
		case "done":
			return p.happen(events.OrderDone{OrderRef: ref}, a)
		case "failed":
			return p.happen(events.OrderFailed{OrderRef: ref}, a)
		}
		return p.happen(events.OrderRefused{OrderRef: ref}, a)
	}
}

func (p *Player) asks(name arg, a args) error {
	what, err := a.take(name, "what is asked for, for example switchover")
	if err != nil {
		return err
	}
	kind := what + "-requested"
	blank, err := events.Decode(kind, 1, "", "", []byte(`{"who":"anna@ops","actor":"anna"}`))
	if err != nil {
		return err
	}
	if _, unknown := blank.(events.Unknown); unknown {
		return wrong(name.column, "nobody can ask for %q", what)
	}
	return p.happen(blank, a)
}

// rings appends deadline-reached for a wait that is due, after that time.
func (p *Player) rings(name arg, a args) error {
	want, _ := a.pop("name")
	node, _ := a.pop("node")
	var due []string
	for _, d := range fsm.Deadlines(p.state) {
		if d.Name == want && d.Node == node {
			p.clock += d.Wait
			return p.happen(events.DeadlineReached{
				Controller: controllerID, BasedOn: p.state.Seq, Name: d.Name, Node: d.Node, Since: d.Since, Waited: events.Duration(d.Wait),
			}, a)
		}
		due = append(due, d.Name+" "+d.Node)
	}
	return wrong(name.column, "no deadline %q node %q is due; due are: %q", want, node, due)
}

func (p *Player) wait(name arg, a args) error {
	w, err := a.take(name, "a duration")
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(w)
	if err != nil || d < 0 {
		return wrong(name.column, "%q is not a duration like 3s", w)
	}
	p.clock += d
	return nil
}

func (p *Player) tellState(arg, args) error {
	p.show()
	return nil
}

// forge appends a decision that is valid unless the arguments make it void, and
// that no rule of ours made.
func (p *Player) forge(_ arg, a args) error {
	s := p.state
	return p.happen(events.Decided{
		Controller: "c9", BasedOn: s.Seq, Previous: s.LastDecision, Digest: s.Digest.String(), RuleSet: s.RuleSet, PolicyHash: s.PolicyHash,
		Durability: s.Policy.Durability, Rule: 999, From: s.Phase, To: s.Phase, Why: "forged", Term: s.Term, Primary: s.Primary,
	}, a)
}

func (p *Player) unknown(name arg, a args) error {
	kind, _ := a.pop("kind")
	class, _ := a.pop("class")
	if kind == "" || class == "" || len(a) > 0 {
		return wrong(name.column, "%s", macros["unknown"].usage)
	}
	p.clock += step
	if err := p.append(events.Unknown{KindName: kind, Version: 1, ClassIn: events.Class(class), KeyIn: "future", Reason: "unknown kind"}); err != nil {
		return err
	}
	return p.decide()
}
