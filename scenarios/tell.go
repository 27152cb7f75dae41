package scenarios

import (
	"fmt"
	"strings"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// tell writes a decision as an operator would read it.
func (p *Player) tell(data events.Data) {
	switch d := data.(type) {
	case events.Declined:
		rule := ""
		if d.Rule != 0 {
			rule = fmt.Sprintf(" %d", d.Rule)
		}
		fmt.Fprintf(&p.out, "declined%s: %s: %s\n", rule, d.Would, d.Missing)
	case events.Decided:
		move := "statuses"
		if d.Rule != 0 {
			move = fmt.Sprintf("%d %s -> %s: %s", d.Rule, d.From, d.To, d.Why)
		}
		fmt.Fprintln(&p.out, move)
		p.tellGrant(d)
		for _, o := range d.Orders {
			fmt.Fprintf(&p.out, "  order %s\n", orderText(o))
		}
		for _, m := range d.Statuses {
			fmt.Fprintf(&p.out, "  status %s %d -> %d (%d: %s)\n", m.Node, m.From, m.To, m.Rule, m.Why)
		}
		p.tellRest(d)
	}
}

func (p *Player) tellGrant(d events.Decided) {
	if g := d.Grant; g != nil {
		stay := ""
		if g.Stay {
			stay = ", may stay without the log: " + g.Why
		}
		fmt.Fprintf(&p.out, "  grant term %d to %s%s\n", g.Term, g.Node, stay)
	}
	if x := d.Proof; x != nil {
		fmt.Fprintf(&p.out, "  proof %s%s: %s\n", x.Kind, p.because(x), x.Why)
	}
	for _, c := range d.Candidates {
		fmt.Fprintf(&p.out, "  candidate %s\n", candidateText(c))
	}
	if l := d.Loss; l != nil {
		fmt.Fprintf(&p.out, "  loss %s\n", l.Text())
	}
}

// because names the events that a proof rests on.
func (p *Player) because(x *events.Proof) string {
	if x.Node == "" {
		return ""
	}
	var kinds []string
	for _, seq := range x.Events {
		kinds = append(kinds, p.log[seq-1].Kind())
	}
	return fmt.Sprintf(" of %s in term %d (%s)", x.Node, x.Term, strings.Join(kinds, ", "))
}

func (p *Player) tellRest(d events.Decided) {
	if d.Pause != nil && d.Pause.Owner != "" {
		fmt.Fprintf(&p.out, "  paused by %s for %s: %s\n", d.Pause.Owner, d.Pause.For, d.Pause.Reason)
	}
	if d.Pause != nil && d.Pause.Owner == "" {
		fmt.Fprintln(&p.out, "  pause lifted")
	}
	target := d.Target
	if d.Rule == 0 {
		target = ""
	}
	for _, x := range []struct{ name, value string }{
		{"target", target}, {"detach", d.Detach}, {"attach", d.Attach}, {"way out", d.Stall},
	} {
		if x.value != "" {
			fmt.Fprintf(&p.out, "  %s: %s\n", x.name, x.value)
		}
	}
}

func orderText(o events.Order) string {
	s := fmt.Sprintf("%s %s term=%d", o.Do, o.Node, o.Term)
	if o.Primary != "" {
		s += " primary=" + o.Primary
	}
	if o.Target != 0 {
		s += " target=" + o.Target.String()
	}
	if o.How != "" {
		s += " how=" + o.How
	}
	return s
}

func candidateText(c events.Candidate) string {
	switch {
	case c.Rejected != "":
		return c.Node + ": no: " + c.Rejected
	case c.Chosen:
		return fmt.Sprintf("%s at %s: chosen", c.Node, c.LSN)
	}
	return fmt.Sprintf("%s at %s", c.Node, c.LSN)
}

// tellDeadlines writes the waits that began since it was last called.
func (p *Player) tellDeadlines() {
	now := map[string]bool{}
	for _, d := range fsm.Deadlines(p.state) {
		name := d.Name
		if d.Node != "" {
			name += " " + d.Node
		}
		key := fmt.Sprintf("deadline %s %s", name, d.Wait)
		now[key] = true
		if !p.due[key] {
			fmt.Fprintln(&p.out, key)
		}
	}
	p.due = now
}

// show writes the phase and every node's status.
func (p *Player) show() {
	s := p.state
	fmt.Fprintf(&p.out, "%s, term %d", s.Phase, s.Term)
	for _, n := range s.Nodes {
		mark := ""
		if n.Name == s.Primary {
			mark = " primary"
		}
		fmt.Fprintf(&p.out, ", %s%s %d", n.Name, mark, n.Status)
	}
	if s.Paused() {
		fmt.Fprint(&p.out, ", paused")
	}
	if why := s.MayDecide(); why != "" {
		fmt.Fprintf(&p.out, ", decides nothing: %s", why)
	}
	fmt.Fprintln(&p.out)
}
