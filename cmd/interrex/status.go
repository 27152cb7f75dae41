package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
)

// statusView is `interrex status --output json`.
type statusView struct {
	Cluster    string      `json:"cluster"`
	Phase      string      `json:"phase"`
	Term       uint64      `json:"term"`
	Primary    string      `json:"primary"`
	Durability string      `json:"durability"`
	Promise    string      `json:"promise"`
	MayStay    bool        `json:"may_stay"`
	Paused     string      `json:"paused,omitempty"`
	Stalled    string      `json:"stalled,omitempty"`
	Halted     string      `json:"halted,omitempty"`
	Nodes      []nodeView  `json:"nodes"`
	Seq        uint64      `json:"seq"`
	Digest     string      `json:"digest"`
	RuleSet    int         `json:"rule_set"`
	PolicyHash string      `json:"policy_hash"`
	Alarms     []fsm.Alarm `json:"alarms,omitempty"`
}

func viewStatus(s fsm.State) statusView {
	v := statusView{
		Cluster: s.Cluster, Phase: string(s.Phase), Term: s.Term, Primary: s.Primary, Durability: s.Policy.Durability,
		Promise: promise(s), MayStay: s.Grant.Stay, Stalled: s.Stall, Halted: s.MayDecide(), Nodes: viewNodes(s),
		Seq: s.Seq, Digest: s.Digest.String(), RuleSet: s.RuleSet, PolicyHash: s.PolicyHash, Alarms: s.Alarms,
	}
	if s.Paused() {
		v.Paused = fmt.Sprintf("by %s for %s: %s", s.Pause.Owner, s.Pause.For, s.Pause.Reason)
	}
	return v
}

// promise is what the durability mode promises, in one sentence.
func promise(s fsm.State) string {
	return fmt.Sprintf("asynchronous: no promotion without a proof that the old primary is gone; a failover may lose what the chosen standby had not received, "+
		"and none is automatic where more than %s of WAL is known to be missing; the loss is logged, exactly where the old primary's disk could be read, else as far as its last report", size(s.Policy.MaxLag))
}

func size(b uint64) string {
	switch {
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	case b >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(b)/(1<<20))
	case b >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(b)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", b)
}

func newStatusCommand(g *globals) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the nodes as pgpool's SHOW POOL_NODES does, and the cluster's phase",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "pgpool34" && format != "pgpool43" {
				return usage("--format is %q; it must be pgpool34 or pgpool43", format)
			}
			s, err := g.state(cmd.Context())
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), viewStatus(s))
			}
			printStatus(cmd.OutOrStdout(), s, format)
			return nil
		},
	}
	c.Flags().StringVar(&format, "format", "pgpool34", "columns of pgpool-II 3.4 (pgpool34) or 4.3 (pgpool43)")
	return c
}

// state connects and folds the whole log.
func (g *globals) state(ctx context.Context) (fsm.State, error) {
	log, err := g.openLog(ctx, natslog.RoleReader, "status")
	if err != nil {
		return fsm.State{}, err
	}
	defer log.Close()
	return foldAll(ctx, log, nil)
}

func printStatus(w io.Writer, s fsm.State, format string) {
	fmt.Fprintf(w, "cluster %s: %s, term %d, durability %s\n", s.Cluster, s.Phase, s.Term, durabilityWords(s.Policy))
	poolNodes(w, s, format)
	v := viewStatus(s)
	for _, note := range []struct{ word, text string }{
		{"paused", v.Paused}, {"stalled", v.Stalled}, {"not deciding", v.Halted},
	} {
		if note.text != "" {
			fmt.Fprintf(w, "%s: %s\n", note.word, note.text)
		}
	}
	for _, n := range v.Nodes {
		if n.Detached {
			fmt.Fprintf(w, "detached: %s; take it in again with: interrex attach %s\n", n.Name, n.Name)
		}
	}
	if s.Phase == events.Forming {
		for _, n := range v.Nodes {
			fmt.Fprintf(w, "forming: %s: agent %s, PostgreSQL %s\n", n.Name, n.Agent, n.PGStatus)
		}
	}
	for _, a := range v.Alarms {
		fmt.Fprintf(w, "alarm: %s\n", a.Text)
	}
}

func durabilityWords(p events.Policy) string {
	if p.Durability == "async" {
		return "asynchronous (may lose up to " + size(p.MaxLag) + " of WAL)"
	}
	return p.Durability
}
