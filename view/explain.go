package view

import (
	"slices"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Explanation is one decision with what it rests on and what came of it:
// `interrex explain --output json` and GET /v1/decisions/{id}.
type Explanation struct {
	Seq      uint64         `json:"seq"`
	Time     time.Time      `json:"time"`
	Decision events.Decided `json:"decision"`
	Evidence []Told         `json:"evidence"`
	Results  []Told         `json:"results"`
}

// Told is an event as a sentence.
type Told struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Source   string    `json:"source"`
	Sentence string    `json:"sentence"`
}

// Tell turns an event into a sentence.
func Tell(e events.Event) Told {
	return Told{e.Seq, e.Time, e.Source, events.Sentence(e.Data)}
}

// Story decides whether a decision is one that a person asks about: not the
// status moves and the steps that follow by themselves.
func Story(d events.Decided) bool {
	return d.Grant != nil && d.Proof != nil || d.To == events.Stalled
}

// Cited are the events that a decision names as its reasons, in order.
func Cited(d events.Decided) []uint64 {
	cited := slices.Clone(d.Evidence)
	if d.Proof != nil {
		cited = append(cited, d.Proof.Events...)
	}
	slices.Sort(cited)
	return slices.Compact(cited)
}

// Explainer gathers an explanation from the events of the log.
type Explainer struct {
	x     Explanation
	cited map[uint64]bool
	way   []Told // since the cluster was healthy
}

// Explain begins the explanation of the decision d that event e holds.
func Explain(e events.Event, d events.Decided) *Explainer {
	r := &Explainer{x: Explanation{Seq: e.Seq, Time: e.Time, Decision: d}, cited: map[uint64]bool{}}
	for _, seq := range Cited(d) {
		r.cited[seq] = true
	}
	return r
}

// Add takes the log's events in their order. Of those that are no decision,
// result or lease, only the cited ones (Cited), failures and ends of servers are
// needed; what does not matter is passed over.
func (r *Explainer) Add(e events.Event) {
	switch {
	case e.Seq < r.x.Seq:
		if d, ok := e.Data.(events.Decided); ok && d.To == events.Healthy {
			r.way = slices.DeleteFunc(r.way, func(t Told) bool { return !r.cited[t.Seq] })
		}
		if r.cited[e.Seq] || onTheWay(e, r.x.Decision) {
			r.way = append(r.way, Tell(e))
		}
	case e.Seq > r.x.Seq && resultOf(e, r.x.Seq):
		r.x.Results = append(r.x.Results, Tell(e))
	}
}

// Explanation is what was gathered.
func (r *Explainer) Explanation() Explanation {
	x := r.x
	x.Evidence = append([]Told{}, r.way...)
	return x
}

// onTheWay finds the earlier decisions of the same loss, what failed, and the
// end of the server that it begins with: how it came to this decision.
func onTheWay(e events.Event, x events.Decided) bool {
	if !Story(x) {
		return false
	}
	switch d := e.Data.(type) {
	case events.Decided:
		return d.From != d.To && d.To != events.Healthy
	case events.OrderFailed, events.FenceFailed:
		return true
	case events.PostgresExited:
		return x.Proof == nil || d.Node == x.Proof.Node && d.Term == x.Proof.Term
	}
	return false
}

func resultOf(e events.Event, decision uint64) bool {
	switch d := e.Data.(type) {
	case events.OrderStarted:
		return d.Decision == decision
	case events.OrderDone:
		return d.Decision == decision
	case events.OrderFailed:
		return d.Decision == decision
	case events.OrderRefused:
		return d.Decision == decision
	case events.LeaseAcquired:
		return d.Grant == decision
	}
	return false
}
