package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events/natslog"
)

// subscription is what a NATS client needs to hear of decisions.
type subscription struct {
	URL     string `json:"url"`
	KeyFile string `json:"key_file"`
	Subject string `json:"subject"`
	Cluster string `json:"cluster"`
	Line    string `json:"command"` // for NATS' own command-line client
}

func newSubscriberCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "subscriber", Short: "Print how a program of yours hears of decisions: address, key and subject for any NATS client", Args: cobra.NoArgs,
		Long: `Print how a program of yours hears of decisions: address, key and subject for
any NATS client. The key can listen to the cluster's events and publish nothing;
it may be copied to whoever runs alerts. Only what is stored is heard, and only
from now on: what was missed is in interrex log. The header ce-sentence of each
decision tells it in one line; examples/subscriber is a program that prints it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := g.subscription()
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd.OutOrStdout(), s)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), s.Line)
			return err
		},
	}
}

func (g *globals) subscription() (subscription, error) {
	a, err := readAddress(g.dir)
	if err != nil {
		return subscription{}, err
	}
	s := subscription{
		URL: a.URL, KeyFile: natslog.KeyFile(keysDir(g.dir), natslog.RoleSubscriber), Cluster: a.Cluster,
		Subject: "interrex." + a.Cluster + ".decision.>",
	}
	if _, err := os.Stat(s.KeyFile); err != nil {
		return subscription{}, fmt.Errorf("the subscriber's key is not there: %w; a log that an older version started has none until interrex up is started again", err)
	}
	s.Line = strings.Join([]string{"nats sub --server", s.URL, "--nkey", shellQuote(s.KeyFile), "'" + s.Subject + "'"}, " ")
	return s, nil
}

// shellQuote quotes a word for a POSIX shell, where it needs to be.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
