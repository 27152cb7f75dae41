package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
)

// explanation is one decision with what it rests on and what came of it.
type explanation struct {
	Seq      uint64         `json:"seq"`
	Time     time.Time      `json:"time"`
	Decision events.Decided `json:"decision"`
	Evidence []told         `json:"evidence"`
	Results  []told         `json:"results"`
}

// told is an event as a sentence.
type told struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Source   string    `json:"source"`
	Sentence string    `json:"sentence"`
}

func tell(e events.Event) told {
	return told{e.Seq, e.Time, e.Source, events.Sentence(e.Data)}
}

func newExplainCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [DECISION|last]",
		Short: "Say why a decision was made: observations, rule, proof, candidates, orders, results",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			want := uint64(0)
			if a := first(args); a != "" && a != "last" {
				n, err := strconv.ParseUint(a, 10, 64)
				if err != nil {
					return usage("%q is no decision; give its sequence (interrex log --kind decided) or last", a)
				}
				want = n
			}
			log, err := g.openLog(cmd.Context(), natslog.RoleReader, "explain")
			if err != nil {
				return err
			}
			defer log.Close()
			x, err := explain(cmd.Context(), log, want)
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), x)
			}
			printExplanation(cmd.OutOrStdout(), x)
			return nil
		},
	}
}

// story decides whether a decision is one that a person asks about: not the
// status moves and the steps that follow by themselves.
func story(d events.Decided) bool {
	return d.Grant != nil && d.Proof != nil || d.To == events.Stalled
}

// explain finds a decision (0: the last that named a primary or stalled) and
// gathers the events that it names and the results of its orders.
func explain(ctx context.Context, log events.Log, want uint64) (explanation, error) {
	var x explanation
	_, err := foldAll(ctx, log, func(e events.Event, _ fsm.State) {
		if d, ok := e.Data.(events.Decided); ok && (e.Seq == want || want == 0 && story(d)) {
			x = explanation{Seq: e.Seq, Time: e.Time, Decision: d}
		}
	})
	if err != nil {
		return x, err
	}
	if x.Seq == 0 && want != 0 {
		return x, fmt.Errorf("event %d is no decision of this log; see: interrex log --kind decided", want)
	}
	if x.Seq == 0 {
		return x, fmt.Errorf("the log holds no failover yet; see: interrex log --kind decided")
	}
	cited := map[uint64]bool{}
	for _, seq := range x.Decision.Evidence {
		cited[seq] = true
	}
	if x.Decision.Proof != nil {
		for _, seq := range x.Decision.Proof.Events {
			cited[seq] = true
		}
	}
	var way []told // since the cluster was healthy
	_, err = foldAll(ctx, log, func(e events.Event, _ fsm.State) {
		if e.Seq < x.Seq {
			if d, ok := e.Data.(events.Decided); ok && d.To == events.Healthy {
				way = slices.DeleteFunc(way, func(t told) bool { return !cited[t.Seq] })
			}
			if cited[e.Seq] || onTheWay(e, x.Decision) {
				way = append(way, tell(e))
			}
		}
		if e.Seq > x.Seq && resultOf(e, x.Seq) {
			x.Results = append(x.Results, tell(e))
		}
	})
	x.Evidence = append([]told{}, way...)
	return x, err
}

// onTheWay finds the earlier decisions of the same loss, what failed, and the
// end of the server that it begins with: how it came to this decision.
func onTheWay(e events.Event, x events.Decided) bool {
	if !story(x) {
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

func printExplanation(w io.Writer, x explanation) {
	d := x.Decision
	fmt.Fprintf(w, "decision %d at %s, by controller %s, from events 1 to %d (rule set %d, policy %s)\n", x.Seq, shortTime(x.Time), d.Controller, d.BasedOn, d.RuleSet, d.PolicyHash)
	last := time.Time{}
	line := func(t told, mark string) {
		gap := ""
		if !last.IsZero() {
			gap = fmt.Sprintf("%+d ms", t.Time.Sub(last).Milliseconds())
		}
		last = t.Time
		fmt.Fprintf(w, "  %s %s %8s  event %d: %s\n", mark, shortTime(t.Time), gap, t.Seq, t.Sentence)
	}
	for _, t := range x.Evidence {
		line(t, "saw    ")
	}
	fmt.Fprintf(w, "  decided  %s → %s by rule %d (%s): %s\n", d.From, d.To, d.Rule, d.Trigger, d.Why)
	if d.Proof != nil {
		fmt.Fprintf(w, "  proof    %s: %s\n", d.Proof.Kind, d.Proof.Why)
	}
	for _, c := range d.Candidates {
		verdict := "could be promoted"
		if c.Chosen {
			verdict = "chosen"
		} else if c.Rejected != "" {
			verdict = "no: " + c.Rejected
		}
		at := ""
		if c.LSN != 0 {
			at = fmt.Sprintf(" at %s, %d bytes behind", c.LSN, c.Lag)
		}
		fmt.Fprintf(w, "  node     %s%s: %s\n", c.Node, at, verdict)
	}
	if d.Loss != nil {
		fmt.Fprintf(w, "  loss     %s\n", d.Loss.Text())
	}
	if d.Stall != "" {
		fmt.Fprintf(w, "  stalled  %s\n", d.Stall)
	}
	last = x.Time
	for _, t := range x.Results {
		line(t, "then   ")
	}
}
