// Package operator is how a person's request reaches the log and how its answer
// is found there: what must be true of it before it is appended, the append that
// is stored once, and the event that answers. The command line and the HTTP API
// ask through it; what is asked is decided by a controller, never here.
package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// MaxPause bounds a pause: one that nobody remembers is an outage.
const MaxPause = 24 * time.Hour

// Invalid says that a request must not be appended. Field is the name of what is
// wrong: --reason of a command, "reason" of a JSON body.
type Invalid struct {
	Field string
	Text  string
}

func (e Invalid) Error() string { return e.Field + " " + e.Text }

// Check says as an Invalid what is wrong with a request, whatever the cluster is
// like; whether it can be done is for the rules.
func Check(d events.Data) error {
	switch d := d.(type) {
	case events.FailoverRequested:
		if d.Reason == "" {
			return Invalid{"reason", "is required: it stands in the log for ever"}
		}
	case events.RecoverRequested:
		if d.How != "auto" && d.How != "rewind" && d.How != "basebackup" {
			return Invalid{"how", fmt.Sprintf("is %q; it must be auto, rewind or basebackup", d.How)}
		}
	case events.PauseRequested:
		if d.Reason == "" {
			return Invalid{"reason", "is required: whoever finds the cluster paused wants to know"}
		}
		if d.For <= 0 || d.For.D() > MaxPause {
			return Invalid{"for", fmt.Sprintf("is %s; it must be more than 0 and at most 24h: a pause that nobody remembers is an outage", d.For)}
		}
	}
	return nil
}

// Node turns what a person calls a node, its name or its id, into its name. An
// empty argument stays empty; one that no node has is an error that names all.
func Node(s fsm.State, arg string) (string, error) {
	if arg == "" {
		return "", nil
	}
	var names []string
	for _, n := range s.Nodes {
		if n.Name == arg || fmt.Sprint(n.ID) == arg {
			return n.Name, nil
		}
		names = append(names, n.Name)
	}
	return "", fmt.Errorf("there is no node %q; the cluster has %s", arg, strings.Join(names, ", "))
}

// Token makes a subject token of a name.
func Token(s string) string {
	out := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(s)), "-")
	if out == "" {
		return "somebody"
	}
	return out[:min(len(out), events.MaxNameLength)]
}

// Times of an append.
const (
	tryFor   = time.Second
	retryFor = 10 * time.Second
	retryGap = 50 * time.Millisecond
)

// Append appends a draft; while its outcome is unknown it tries again with the
// same ID, for at most 10 s or until ctx ends, so that it is stored once. An
// error that wraps events.ErrUnavailable leaves open whether it was.
func Append(ctx context.Context, log events.Log, d events.Draft) (events.Event, error) {
	for end := time.Now().Add(retryFor); ; {
		try, cancel := context.WithTimeout(ctx, tryFor)
		e, err := log.Append(try, d)
		cancel()
		if err == nil || !errors.Is(err, events.ErrUnavailable) || time.Now().After(end) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, err
		case <-time.After(retryGap):
		}
	}
}

// Refused is a request's answer when a rule was against it, in the rule's words.
type Refused struct{ Text string }

func (e Refused) Error() string { return "refused: " + e.Text }

// Answer returns the decision that answers request req when event e is that
// decision, a Refused when e refuses it, and 0 when e is no answer to it.
func Answer(e events.Event, req uint64) (uint64, error) {
	switch d := e.Data.(type) {
	case events.Decided:
		if d.Request == req {
			return e.Seq, nil
		}
	case events.Declined:
		if d.Request == req {
			return 0, Refused{d.Missing}
		}
	}
	return 0, nil
}
