package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/scenarios"
)

func newReplayCommand(g *globals) *cobra.Command {
	var from string
	c := &cobra.Command{
		Use:   "replay",
		Short: "Decide everything in the log again, each from its own prefix, and compare",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := g.replay(cmd.Context(), from, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if g.json() {
				if err := printJSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			} else {
				printReport(cmd.OutOrStdout(), r)
			}
			if !r.OK() {
				return codedError{exitFailed, errors.New("the log's decisions do not follow from the log by these rules")}
			}
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "", "a file of exported events (interrex log --all --output json), - for standard input; default the running log")
	return c
}

func (g *globals) replay(ctx context.Context, from string, stdin io.Reader) (scenarios.Report, error) {
	if from == "" {
		log, err := g.openLog(ctx, natslog.RoleReader, "replay")
		if err != nil {
			return scenarios.Report{}, err
		}
		defer log.Close()
		return replayLog(ctx, log)
	}
	in := stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return scenarios.Report{}, err
		}
		defer f.Close()
		in = f
	}
	return scenarios.Replay(readExport(in))
}

// printReport says how much came out the same, and the first of what did not.
func printReport(w io.Writer, r scenarios.Report) {
	verdict := "all re-derived"
	if !r.OK() {
		verdict = fmt.Sprintf("%d differ", r.Different+r.Broken)
	}
	fmt.Fprintf(w, "%d events, %d decisions, %s; state at event %d has digest %.16s…\n", r.Events, r.Decisions, verdict, r.Last, r.Digest)
	if r.OtherRules > 0 {
		fmt.Fprintf(w, "%d decisions were made by other rules than ours and are believed\n", r.OtherRules)
	}
	for _, part := range []struct {
		word  string
		notes []scenarios.Note
	}{{"differs", r.Differences}, {"void", r.Voids}, {"broken", r.Breaks}} {
		for _, n := range part.notes {
			fmt.Fprintf(w, "%s: event %d: %s\n", part.word, n.Seq, n.Text)
		}
	}
	if r.Halted != "" {
		fmt.Fprintf(w, "not deciding: %s\n", r.Halted)
	}
}

// replayLog streams the log, as far as it is now, through the replayer.
func replayLog(ctx context.Context, log events.Log) (scenarios.Report, error) {
	if _, err := lastOf(ctx, log); err != nil {
		return scenarios.Report{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch := make(chan events.Event, 4096)
	failed := make(chan error, 1)
	go func() {
		defer close(ch)
		failed <- log.Read(ctx, events.Query{}, func(e events.Event) error {
			select {
			case ch <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return scenarios.Replay(func() (events.Event, bool, error) {
		e, ok := <-ch
		if !ok {
			return events.Event{}, false, <-failed
		}
		return e, true, nil
	})
}

// readExport reads exported events, one JSON object a line.
func readExport(in io.Reader) func() (events.Event, bool, error) {
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 64<<10), 16<<20)
	line := 0
	return func() (events.Event, bool, error) {
		if !sc.Scan() {
			return events.Event{}, false, sc.Err()
		}
		line++
		var s events.Stored
		if err := json.Unmarshal(sc.Bytes(), &s); err != nil {
			return events.Event{}, false, fmt.Errorf("line %d: %w; expected one exported event a line", line, err)
		}
		e, err := s.Import()
		if err != nil {
			return events.Event{}, false, fmt.Errorf("line %d: %w", line, err)
		}
		return e, true, nil
	}
}
