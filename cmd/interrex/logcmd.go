package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
)

type logOptions struct {
	follow bool
	all    bool
	kinds  []string
	node   string
	after  uint64
}

func newLogCommand(g *globals) *cobra.Command {
	var o logOptions
	c := &cobra.Command{
		Use:   "log",
		Short: "Print the log, one sentence an event (--output json: one object a line, as stored)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			log, err := g.openLog(cmd.Context(), natslog.RoleReader, "log")
			if err != nil {
				return err
			}
			defer log.Close()
			last, err := lastOf(cmd.Context(), log)
			if err != nil {
				return err
			}
			if o.after > last {
				return usage("--after is %d, and the log ends at event %d", o.after, last)
			}
			if o.node, err = g.nodeArg(cmd.Context(), o.node); err != nil {
				return err
			}
			err = log.Read(cmd.Context(), events.Query{After: o.after, Follow: o.follow}, func(e events.Event) error {
				if !o.wants(e) {
					return nil
				}
				return printEvent(cmd.OutOrStdout(), e, g.json())
			})
			if errors.Is(err, cmd.Context().Err()) {
				return nil
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with what is new")
	f.BoolVarP(&o.all, "all", "a", false, "heartbeats and lease renewals too")
	f.StringSliceVar(&o.kinds, "kind", nil, "only these kinds, for example decided,postgres-dead")
	f.StringVar(&o.node, "node", "", "only what concerns this node (name or id)")
	f.Uint64Var(&o.after, "after", 0, "only events after this sequence")
	return c
}

// check refuses kinds that this version does not know: nothing would be printed,
// and nobody would see the misspelling.
func (o logOptions) check() error {
	for _, k := range o.kinds {
		if !slices.Contains(events.Kinds(), k) {
			return usage("there is no kind %q; the kinds are %s", k, strings.Join(events.Kinds(), ", "))
		}
	}
	return nil
}

func (o logOptions) wants(e events.Event) bool {
	if len(o.kinds) > 0 {
		for _, k := range o.kinds {
			if k == e.Kind() {
				return o.node == "" || e.Data.Key() == o.node
			}
		}
		return false
	}
	switch e.Data.(type) {
	case events.Heartbeat, events.LeaseRenewed, events.OrderProgress:
		if !o.all {
			return false
		}
	}
	return o.node == "" || e.Data.Key() == o.node
}

func printEvent(w io.Writer, e events.Event, asJSON bool) error {
	if asJSON {
		b, err := json.Marshal(events.Export(e))
		if err != nil {
			return fmt.Errorf("event %d: %w", e.Seq, err)
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	_, err := fmt.Fprintf(w, "%6d %s %-20s %s\n", e.Seq, e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Source, events.Sentence(e.Data))
	return err
}

func shortTime(t time.Time) string { return t.Local().Format("15:04:05.000") }
