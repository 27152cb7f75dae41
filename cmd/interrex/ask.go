package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/operator"
)

// request is the common part of what this person asks.
func request(reason string) events.Request {
	name := os.Getenv("SUDO_USER")
	if name == "" {
		name = "uid" + fmt.Sprint(os.Getuid())
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return events.Request{Who: name + "@" + host, Actor: operator.Token(name), Reason: reason}
}

// appendAs appends an operator's event; an unknown outcome is retried with the
// same ID, so that it is stored once.
func appendAs(ctx context.Context, log events.Log, source string, d events.Data) (events.Event, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return events.Event{}, err
	}
	return operator.Append(ctx, log, events.Draft{ID: id.String(), Time: time.Now(), Source: source, Data: d})
}

// valid checks what a person asks for before anything else is done about it.
func valid(d events.Data) error {
	err := operator.Check(d)
	if i := (operator.Invalid{}); errors.As(err, &i) {
		return usage("--%s %s", i.Field, i.Text)
	}
	return err
}

// asked is an operator's verb: what to append, and when it is over.
type asked struct {
	data events.Data
	wait time.Duration
	// over is asked after each event once the request was answered by decision
	// d; it returns a sentence when the thing is done, or an error.
	over func(e events.Event, s fsm.State, decision uint64) (string, error)
	each func(e events.Event) // progress; may be nil
}

// ask appends a request and waits for its answer and its end.
func (g *globals) ask(cmd *cobra.Command, a asked) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), a.wait)
	defer cancel()
	log, err := g.openLog(ctx, natslog.RoleOperator, "operator")
	if err != nil {
		return err
	}
	defer log.Close()
	if _, err := lastOf(ctx, log); err != nil {
		return err
	}
	req, err := appendAs(ctx, log, "operator/"+a.data.Key(), a.data)
	if err != nil {
		return err
	}
	var decision uint64
	var done string
	err = followState(ctx, log, func(e events.Event, s fsm.State) (bool, error) {
		if decision == 0 {
			seq, err := answerTo(e, req.Seq)
			decision = seq
			if seq == 0 || err != nil {
				return false, err
			}
		}
		if a.each != nil {
			a.each(e)
		}
		done, err = a.over(e, s, decision)
		return done != "", err
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && decision == 0:
		return late("nobody decided on it within %s (request is event %d): is a controller running? interrex status", a.wait, req.Seq)
	case errors.Is(err, context.DeadlineExceeded):
		return late("decision %d was made, and it is not over after %s; watch it with: interrex log -f", decision, a.wait)
	case err != nil:
		return err
	}
	return g.report(cmd.OutOrStdout(), done, decision)
}

func (g *globals) report(w io.Writer, done string, decision uint64) error {
	if g.json() {
		return printJSON(w, map[string]any{"result": done, "decision": decision})
	}
	_, err := fmt.Fprintln(w, done)
	return err
}

// answerTo returns the decision that answers a request, or the refusal.
func answerTo(e events.Event, req uint64) (uint64, error) {
	seq, err := operator.Answer(e, req)
	if r := (operator.Refused{}); errors.As(err, &r) {
		return 0, codedError{exitRefused, r}
	}
	return seq, err
}

// decidedIsDone ends a verb as soon as it was decided.
func decidedIsDone(text string) func(events.Event, fsm.State, uint64) (string, error) {
	return func(events.Event, fsm.State, uint64) (string, error) { return text, nil }
}

// confirm asks at a terminal; elsewhere it wants --yes.
func confirm(in io.Reader, out io.Writer, yes bool, question string) error {
	if yes {
		return nil
	}
	f, ok := in.(*os.File)
	if !ok || !isTerminal(f) {
		return usage("%s Say --yes to do it without a terminal", question)
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, _ := bufio.NewReader(f).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return refused("not confirmed; nothing was done")
	}
	return nil
}

// isTerminal takes every character device for a terminal but /dev/null, which
// is what a program without a terminal is given.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(st, null)
}

// nodeArg turns a NODE argument, a name or an id, into the name.
func (g *globals) nodeArg(ctx context.Context, arg string) (string, error) {
	if arg == "" {
		return "", nil
	}
	s, err := g.state(ctx)
	if err != nil {
		return "", err
	}
	node, err := operator.Node(s, arg)
	if err != nil {
		return "", codedError{exitUsage, err}
	}
	return node, nil
}
