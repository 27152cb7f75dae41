package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/view"
)

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

// explain finds a decision (0: the last that named a primary or stalled) and
// gathers the events that it names and the results of its orders.
func explain(ctx context.Context, log events.Log, want uint64) (view.Explanation, error) {
	var r *view.Explainer
	_, err := foldAll(ctx, log, func(e events.Event, _ fsm.State) {
		if d, ok := e.Data.(events.Decided); ok && (e.Seq == want || want == 0 && view.Story(d)) {
			r = view.Explain(e, d)
		}
	})
	switch {
	case err != nil:
		return view.Explanation{}, err
	case r == nil && want != 0:
		return view.Explanation{}, fmt.Errorf("event %d is no decision of this log; see: interrex log --kind decided", want)
	case r == nil:
		return view.Explanation{}, fmt.Errorf("the log holds no failover yet; see: interrex log --kind decided")
	}
	_, err = foldAll(ctx, log, func(e events.Event, _ fsm.State) { r.Add(e) })
	return r.Explanation(), err
}

func printExplanation(w io.Writer, x view.Explanation) {
	d := x.Decision
	fmt.Fprintf(w, "decision %d at %s, by controller %s, from events 1 to %d (rule set %d, policy %s)\n", x.Seq, shortTime(x.Time), d.Controller, d.BasedOn, d.RuleSet, d.PolicyHash)
	last := time.Time{}
	line := func(t view.Told, mark string) {
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
