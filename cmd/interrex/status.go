package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/view"
)

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
				return printJSON(cmd.OutOrStdout(), view.NewStatus(s))
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
	v := view.NewStatus(s)
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
		if n.Unheard {
			fmt.Fprintf(w, "unheard: %s: %s\n", n.Name, n.Error)
		}
		if n.Place != "" {
			fmt.Fprintf(w, "elsewhere: %s is reached by %s; its agent cannot stop it when it is cut off from it, so that its silence is no proof\n", n.Name, n.Place)
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
		return "asynchronous (may lose up to " + view.Size(p.MaxLag) + " of WAL)"
	}
	return p.Durability
}
