package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/operator"
	"github.com/interrex-ha/interrex/view"
)

// Pages of a list.
const (
	defaultLimit = 100
	maxLimit     = 1000
	maxPage      = 4 << 20 // bytes of events
	readingTime  = 10 * time.Second
)

// Nodes is the list of all nodes.
type Nodes struct {
	Nodes []view.Node `json:"nodes"`
}

// Decision is one row of the list of decisions; its reasons are at
// /v1/decisions/{seq}.
type Decision struct {
	Seq      uint64       `json:"seq"`
	Time     time.Time    `json:"time"`
	Rule     int          `json:"rule"` // 0: only nodes' statuses move
	From     events.Phase `json:"from"`
	To       events.Phase `json:"to"`
	Term     uint64       `json:"term"`
	Primary  string       `json:"primary"`
	Request  uint64       `json:"request,omitempty"` // the operator's event that it answers
	Sentence string       `json:"sentence"`
}

func brief(e events.Event, d events.Decided) Decision {
	return Decision{
		Seq: e.Seq, Time: e.Time, Rule: d.Rule, From: d.From, To: d.To, Term: d.Term, Primary: d.Primary,
		Request: d.Request, Sentence: events.Sentence(d),
	}
}

// Decisions is one page; ask for the next with after=next while more is true.
type Decisions struct {
	Decisions []Decision `json:"decisions"`
	Next      uint64     `json:"next"`
	More      bool       `json:"more"`
}

// Events is one page of the log as stored; ask for the next with after=next
// while more is true.
type Events struct {
	Events []events.Stored `json:"events"`
	Next   uint64          `json:"next"`
	More   bool            `json:"more"`
}

func (s *Server) getCluster(w http.ResponseWriter, _ *http.Request) error {
	state, err := s.follower.state()
	if err != nil {
		return unavailable(err)
	}
	return writeJSON(w, http.StatusOK, view.NewStatus(state))
}

func (s *Server) getNodes(w http.ResponseWriter, _ *http.Request) error {
	state, err := s.follower.state()
	if err != nil {
		return unavailable(err)
	}
	return writeJSON(w, http.StatusOK, Nodes{append([]view.Node{}, view.Nodes(state)...)})
}

func (s *Server) getNode(w http.ResponseWriter, r *http.Request) error {
	state, err := s.follower.state()
	if err != nil {
		return unavailable(err)
	}
	name, err := operator.Node(state, r.PathValue("node"))
	if err != nil {
		return fail(http.StatusNotFound, "%v", err)
	}
	for _, n := range view.Nodes(state) {
		if n.Name == name {
			return writeJSON(w, http.StatusOK, n)
		}
	}
	return unknownNode(state, name)
}

// page reads after= and limit=.
func page(r *http.Request) (after uint64, limit int, err error) {
	q := r.URL.Query()
	if q.Has("after") {
		if after, err = sequence("after", q.Get("after")); err != nil {
			return 0, 0, err
		}
	}
	limit = defaultLimit
	if q.Has("limit") {
		if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 || limit > maxLimit {
			return 0, 0, bad("limit=%q must be a number from 1 to %d", q.Get("limit"), maxLimit)
		}
	}
	return after, limit, nil
}

func sequence(name, text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, bad("%s is %q; it must be the sequence of an event, a whole number", name, text)
	}
	return n, nil
}

func (s *Server) getDecisions(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := page(r)
	if err != nil {
		return err
	}
	if _, err := s.follower.state(); err != nil {
		return unavailable(err)
	}
	rows, more := s.follower.decisionsAfter(after, limit)
	out := Decisions{Decisions: []Decision{}, Next: after, More: more}
	for _, d := range rows {
		out.Decisions, out.Next = append(out.Decisions, d.brief), d.seq
	}
	return writeJSON(w, http.StatusOK, out)
}

func (f *follower) decisionsAfter(after uint64, limit int) ([]decided, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := f.decisions
	for i, d := range rest {
		if d.seq > after {
			rest = rest[i:]
			return slices.Clone(rest[:min(limit, len(rest))]), len(rest) > limit
		}
	}
	return nil, false
}

// decision finds a decision, 0: the last that a person would ask for.
func (f *follower) decision(seq uint64) (decided, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range slices.Backward(f.decisions) {
		if d.seq == seq || seq == 0 && d.story {
			return d, true
		}
	}
	return decided{}, false
}

func (s *Server) getDecision(w http.ResponseWriter, r *http.Request) error {
	want := uint64(0)
	if id := r.PathValue("id"); id != "last" {
		var err error
		if want, err = sequence("the decision", id); err != nil {
			return err
		}
		if want == 0 {
			return fail(http.StatusNotFound, "event 0 is no decision; see /v1/decisions, or ask for last")
		}
	}
	if _, err := s.follower.state(); err != nil {
		return unavailable(err)
	}
	d, ok := s.follower.decision(want)
	switch {
	case !ok && want == 0:
		return fail(http.StatusNotFound, "the log holds no failover yet; see /v1/decisions")
	case !ok:
		return fail(http.StatusNotFound, "event %d is no decision of this log; see /v1/decisions", want)
	}
	x, err := s.explain(r.Context(), d)
	if err != nil {
		return unavailable(err)
	}
	return writeJSON(w, http.StatusOK, x)
}

// explain gathers a decision's reasons and results: from memory, and from the
// log what is not kept there.
func (s *Server) explain(ctx context.Context, d decided) (view.Explanation, error) {
	var of events.Decided
	var at events.Event
	if err := s.fetch(ctx, d.seq, func(e events.Event) { at = e }); err != nil {
		return view.Explanation{}, err
	}
	of, ok := at.Data.(events.Decided)
	if !ok {
		return view.Explanation{}, fmt.Errorf("event %d was a decision and is a %s now: the log was changed", d.seq, at.Kind())
	}
	first := d.seq
	if d.healthy != 0 {
		first = min(first, d.healthy)
	} else {
		first = 1
	}
	kept, forgotten := s.follower.history(first)
	var all []events.Event
	collect := func(e events.Event) { all = append(all, e) }
	if first <= forgotten {
		if err := s.between(ctx, first, forgotten, collect); err != nil {
			return view.Explanation{}, err
		}
	}
	for _, seq := range view.Cited(of) {
		_, found := slices.BinarySearchFunc(kept, seq, func(e events.Event, q uint64) int { return int(e.Seq) - int(q) })
		if seq < first || seq > forgotten && !found {
			if err := s.fetch(ctx, seq, collect); err != nil {
				return view.Explanation{}, err
			}
		}
	}
	all = append(all, kept...)
	slices.SortFunc(all, func(a, b events.Event) int { return int(a.Seq) - int(b.Seq) })
	x := view.Explain(at, of)
	for _, e := range all {
		x.Add(e)
	}
	return x.Explanation(), nil
}

// fetch reads one event, from memory or from the log.
func (s *Server) fetch(ctx context.Context, seq uint64, take func(events.Event)) error {
	if kept, _ := s.follower.history(seq); len(kept) > 0 && kept[0].Seq == seq {
		take(kept[0])
		return nil
	}
	return s.between(ctx, seq, seq, take)
}

// between reads a range of the log.
func (s *Server) between(ctx context.Context, first, last uint64, take func(events.Event)) error {
	return s.read(ctx, first-1, func(e events.Event) error {
		if e.Seq <= last {
			take(e)
		}
		if e.Seq >= last {
			return errStop
		}
		return nil
	})
}

// read reads the log after a sequence up to its end, for at most 10 s; fn ends it
// with errStop. Few such readings run at a time: others wait for them.
func (s *Server) read(ctx context.Context, after uint64, fn func(events.Event) error) error {
	ctx, cancel := context.WithTimeout(ctx, readingTime)
	defer cancel()
	select {
	case s.readings <- struct{}{}:
		defer func() { <-s.readings }()
	case <-ctx.Done():
		return fmt.Errorf("too many readings of the log at a time: %w", ctx.Err())
	}
	err := s.options.Log.Read(ctx, events.Query{After: after}, fn)
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := page(r)
	if err != nil {
		return err
	}
	if err := s.notBeyond("after", after); err != nil {
		return err
	}
	out, bytes := Events{Events: []events.Stored{}, Next: after}, 0
	err = s.read(r.Context(), after, func(e events.Event) error {
		if len(out.Events) == limit || bytes > maxPage {
			out.More = true
			return errStop
		}
		out.Events, out.Next, bytes = append(out.Events, events.Export(e)), e.Seq, bytes+len(e.Body)
		return nil
	})
	if err != nil {
		return unavailable(fmt.Errorf("the log cannot be read: %w", err))
	}
	return writeJSON(w, http.StatusOK, out)
}

// notBeyond refuses to go on after an event that the log does not hold: it is
// another log, or an older copy of it.
func (s *Server) notBeyond(name string, after uint64) error {
	if _, err := s.follower.state(); err != nil {
		return unavailable(err)
	}
	if tail, _ := s.follower.distance(); after > tail {
		return bad("%s is %d, and the log ends at event %d: is it this log's?", name, after, tail)
	}
	return nil
}
