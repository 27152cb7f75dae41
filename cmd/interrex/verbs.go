package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// moved ends a verb that gives the cluster a new primary: to, or any when it is
// empty.
func moved(verb, to string) func(events.Event, fsm.State, uint64) (string, error) {
	term := uint64(0)
	from := ""
	begun := false
	return func(_ events.Event, s fsm.State, _ uint64) (string, error) {
		if !begun {
			begun, term, from = true, s.Term, s.Primary
			if s.Phase == events.Promoting { // decided and named in one decision
				term, from = term-1, ""
			}
		}
		switch {
		case s.Phase == events.Stalled:
			return "", codedError{exitFailed, fmt.Errorf("%s: the cluster is stalled: %s", verb, s.Stall)}
		case s.Term > term && s.Phase == events.Healthy && s.Primary == from:
			return "", codedError{exitFailed, fmt.Errorf("%s took over again, in term %d: no other node could (interrex explain)", s.Primary, s.Term)}
		case s.Term > term && s.Phase == events.Healthy && to != "" && s.Primary != to:
			return "", codedError{exitFailed, fmt.Errorf("%s took over, in term %d, and not %s (interrex explain)", s.Primary, s.Term, to)}
		case s.Term > term && s.Phase == events.Healthy:
			return fmt.Sprintf("%s done: %s is the primary of term %d", verb, s.Primary, s.Term), nil
		case s.Term == term && s.Phase == events.Healthy:
			return "", codedError{exitFailed, fmt.Errorf("%s failed: %s still is the primary (interrex explain)", verb, s.Primary)}
		}
		return "", nil
	}
}

func newSwitchoverCommand(g *globals) *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "switchover [NODE]",
		Short: "Move the primary to a standby, planned: nothing is lost",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := g.nodeArg(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), yes, "The primary will be stopped and another node take over."); err != nil {
				return err
			}
			return g.ask(cmd, asked{data: events.SwitchoverRequested{Request: request(reason), Node: node}, wait: time.Minute, over: moved("switchover", node)})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newFailoverCommand(g *globals) *cobra.Command {
	var reason string
	var accept, yes bool
	c := &cobra.Command{
		Use:   "failover [NODE]",
		Short: "Stop the primary by force and promote a standby; with --accept-loss even one that automation refuses",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := events.FailoverRequested{Request: request(reason), AcceptLoss: accept}
			if err := valid(ask); err != nil {
				return err
			}
			node, err := g.nodeArg(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), yes, "The primary will be stopped by force."); err != nil {
				return err
			}
			ask.Node = node
			return g.ask(cmd, asked{data: ask, wait: 2 * time.Minute, over: moved("failover", node)})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log (required)")
	c.Flags().BoolVar(&accept, "accept-loss", false, "promote although writes will be lost, or although nobody proved that the old primary is dead")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newRecoverCommand(g *globals) *cobra.Command {
	var how, reason string
	var clean, yes bool
	c := &cobra.Command{
		Use:   "recover NODE",
		Short: "Make a node a streaming standby again: start, pg_rewind or base backup",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := events.RecoverRequested{Request: request(reason), How: how, Clean: clean}
			if err := valid(ask); err != nil {
				return err
			}
			node, err := g.nodeArg(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			question := "The data directory of " + node + " will be overwritten (the old one is kept aside)."
			if clean {
				question = "What earlier recoveries of " + node + " kept aside will be removed."
			}
			if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), yes, question); err != nil {
				return err
			}
			ask.Node = node
			return g.ask(cmd, asked{
				data: ask,
				wait: 24 * time.Hour, over: recovered(node, clean),
				each: func(e events.Event) {
					if p, ok := e.Data.(events.OrderProgress); ok && p.Node == node {
						fmt.Fprintln(cmd.ErrOrStderr(), events.Sentence(p))
					}
				},
			})
		},
	}
	c.Flags().StringVar(&how, "how", "auto", "auto, rewind or basebackup")
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	c.Flags().BoolVar(&clean, "clean", false, "remove what earlier recoveries kept aside, and nothing else")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// recovered ends when the order is done and the node's status follows.
func recovered(node string, clean bool) func(events.Event, fsm.State, uint64) (string, error) {
	began := time.Time{}
	return func(e events.Event, s fsm.State, decision uint64) (string, error) {
		if began.IsZero() {
			began = e.Time
		}
		for _, o := range s.Orders {
			if o.Decision != decision {
				continue
			}
			switch o.Status {
			case "failed", "refused":
				return "", codedError{exitFailed, fmt.Errorf("recover %s: %s", node, o.Error)}
			case "done":
				n, _ := s.Node(node)
				if clean {
					return "removed what earlier recoveries of " + node + " had kept aside", nil
				}
				if n.Status == fsm.StatusWaiting || n.Status == fsm.StatusUp {
					return fmt.Sprintf("%s streams from %s again (%s, %.1f s)", node, s.Primary, o.How, e.Time.Sub(began).Seconds()), nil
				}
			}
		}
		return "", nil
	}
}

func newDetachCommand(g *globals) *cobra.Command {
	return nodeVerb(g, "detach NODE", "Take a standby out: status 3, no candidate, nothing is stopped", func(r events.Request, node string) events.Data {
		return events.DetachRequested{Request: r, Node: node}
	}, decided("detached"))
}

func newAttachCommand(g *globals) *cobra.Command {
	return nodeVerb(g, "attach NODE", "Take a detach back", func(r events.Request, node string) events.Data {
		return events.AttachRequested{Request: r, Node: node}
	}, attached)
}

// attached says what is still to be done: a node that was detached does not
// follow a primary that was named meanwhile.
func attached(node string, s fsm.State) string {
	n, _ := s.Node(node)
	if n.PG.State == events.PostgresUp && n.PG.Receiver == "streaming" && n.PG.Upstream == s.Primary {
		return node + " attached"
	}
	return fmt.Sprintf("%s attached; it does not stream from %s yet: a running standby is led there now; if it does not come (interrex status), make it a standby again with: interrex recover %s", node, s.Primary, node)
}

func decided(word string) func(string, fsm.State) string {
	return func(node string, _ fsm.State) string { return node + " " + word }
}

func nodeVerb(g *globals, use, short string, data func(events.Request, string) events.Data, done func(string, fsm.State) string) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := g.nodeArg(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			over := func(_ events.Event, s fsm.State, _ uint64) (string, error) { return done(node, s), nil }
			return g.ask(cmd, asked{data: data(request(reason), node), wait: 30 * time.Second, over: over})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	return c
}

func newPauseCommand(g *globals) *cobra.Command {
	var reason string
	var span time.Duration
	c := &cobra.Command{
		Use:   "pause",
		Short: "Suspend automatic failover for a time; what would have been done is logged",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := events.PauseRequested{Request: request(reason), For: events.Duration(span)}
			if err := valid(ask); err != nil {
				return err
			}
			return g.ask(cmd, asked{
				data: ask, wait: 30 * time.Second,
				over: decidedIsDone("automatic failover is suspended for " + span.String()),
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why (required)")
	c.Flags().DurationVar(&span, "for", 30*time.Minute, "for how long, at most 24h")
	return c
}

func newResumeCommand(g *globals) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "resume", Short: "End a pause", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.ask(cmd, asked{data: events.ResumeRequested{Request: request(reason)}, wait: 30 * time.Second, over: decidedIsDone("automatic failover is on again")})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
