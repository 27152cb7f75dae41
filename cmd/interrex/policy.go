package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
)

func newPolicyCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Print the policy in force; policy set changes it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := g.state(cmd.Context())
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), map[string]any{"policy": s.Policy, "hash": s.PolicyHash})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "# policy %s; a log outage of %s is survived by a healthy primary; a silent primary's lease is certainly over after %s\n",
				s.PolicyHash, s.Policy.SurvivesOutage(), s.LeaseWait)
			for _, f := range config.PolicyFields() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s=%s\n", f, policyValue(s.Policy, f))
			}
			return nil
		},
	}
	c.AddCommand(newPolicySetCommand(g))
	return c
}

// policyValue prints one field as `policy set` takes it.
func policyValue(p events.Policy, field string) string {
	b, err := json.Marshal(p)
	var all map[string]json.RawMessage
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return err.Error()
	}
	return strings.Trim(string(all[field]), `"`)
}

func newPolicySetCommand(g *globals) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "set NAME=VALUE…",
		Short: "Change the policy: checked here, and again by every reader of the log",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage("--reason is required: it stands in the log for ever")
			}
			log, err := g.openLog(cmd.Context(), natslog.RoleOperator, "policy")
			if err != nil {
				return err
			}
			defer log.Close()
			s, err := foldAll(cmd.Context(), log, nil)
			if err != nil {
				return err
			}
			p := s.Policy
			for _, a := range args {
				name, value, ok := strings.Cut(a, "=")
				if !ok {
					return usage("%q is not NAME=VALUE, for example lease=5s", a)
				}
				if err := config.SetPolicy(&p, name, value); err != nil {
					return codedError{exitUsage, err}
				}
			}
			if err := p.Check(); err != nil {
				return codedError{exitRefused, err}
			}
			changes := policyChanges(s.Policy, p)
			if len(changes) == 0 {
				return g.report(cmd.OutOrStdout(), "nothing to change: policy "+s.PolicyHash+" says so already", 0)
			}
			r := request(reason)
			e, err := appendAs(cmd.Context(), log, "operator/"+r.Actor, events.PolicySet{Policy: p, Hash: p.Hash(), Actor: r.Actor, Who: r.Who, Reason: reason})
			if err != nil {
				return err
			}
			said := fmt.Sprintf("policy %s is in force from event %d on: %s", p.Hash(), e.Seq, strings.Join(changes, ", "))
			if p.ExpiryWait() < s.LeaseWait && s.Grant.Seq != 0 {
				said += "; a shorter lease counts from the next term on (interrex switchover): until then a silent primary is waited for as before"
			}
			return g.report(cmd.OutOrStdout(), said, e.Seq)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log (required)")
	return c
}

// policyChanges says each field that differs, with both values.
func policyChanges(was, is events.Policy) []string {
	var out []string
	for _, f := range config.DiffPolicy(was, is) {
		out = append(out, fmt.Sprintf("%s=%s (was %s)", f, policyValue(is, f), policyValue(was, f)))
	}
	return out
}

func newDSNCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "dsn", Short: "Print the multi-host connection URI: libpq and pgx find the primary by it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := g.partTopology()
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), map[string]string{"dsn": t.DSN()})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), t.DSN())
			return err
		},
	}
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version, the rule set and the platform", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.json() {
				return printJSON(cmd.OutOrStdout(), map[string]any{
					"version": version, "rule_set": events.RuleSet, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "interrex %s, rule set %d, %s %s/%s\n", version, events.RuleSet, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// genesis writes the first events of a new log, or checks that the log there is
// the one of this cluster and that the environment does not contradict it.
func genesis(g *globals, s fsm.State, cfg config.Config, t topology, add func(events.Data) error) error {
	r := request("")
	if s.Seq == 0 {
		p := cfg.Policy
		formed := events.ClusterFormed{Cluster: t.Name(), Members: t.Members(), Created: t.Created(), Actor: r.Actor}
		if d, ok := t.(described); ok {
			formed.Bootstrap = d.Bootstrap
		}
		for _, d := range []events.Data{
			formed, events.RulesActivated{RuleSet: events.RuleSet, Actor: r.Actor},
			events.PolicySet{Policy: p, Hash: p.Hash(), Actor: r.Actor, Who: r.Who, Reason: "first start"},
		} {
			if err := add(d); err != nil {
				return err
			}
		}
		return nil
	}
	if s.Cluster != t.Name() {
		return fmt.Errorf("the log in %s is of cluster %q, but %q was asked for: use another --dir", g.dir, s.Cluster, t.Name())
	}
	if err := sameMembers(g.dir, s, t); err != nil {
		return err
	}
	return cfg.Contradicts(s.Policy)
}

// startupNote is appended when interrex up starts.
func startupNote() events.StartupRequested {
	return events.StartupRequested{Request: request("interrex up")}
}

// environment reads INTERREX_ variables.
func environment() (config.Config, error) {
	cfg, err := config.Load(os.Environ())
	if err != nil {
		return cfg, codedError{exitUsage, err}
	}
	return cfg, nil
}

const shutdownWait = 90 * time.Second
