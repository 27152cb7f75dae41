package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
	"github.com/interrex-ha/interrex/view"
)

type demoOptions struct {
	nodes int
	port  int
	keep  bool
}

func newDemoCommand(g *globals) *cobra.Command {
	var o demoOptions
	given := ""
	c := &cobra.Command{
		Use:   "demo",
		Short: "A real cluster on this machine: kill the primary, watch, bring it back",
		Args:  cobra.NoArgs,
		PreRun: func(cmd *cobra.Command, _ []string) {
			if cmd.Flags().Changed("dir") {
				given = g.dir
			}
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.nodes < 2 || o.nodes > lab.MaxNodes {
				return usage("--nodes is %d; a failover takes at least 2 and at most %d", o.nodes, lab.MaxNodes)
			}
			if err := dropRoot(given, ""); err != nil {
				return err
			}
			return runDemo(cmd, g, o, given)
		},
	}
	f := c.Flags()
	f.IntVar(&o.nodes, "nodes", 2, "servers")
	f.IntVar(&o.port, "port", 0, "port of db1, the next ones follow (default: free ones from 54320); binding when given")
	f.BoolVar(&o.keep, "keep", false, "leave the cluster running at the end and say how to reach it")
	return c
}

// demo is one performance.
type demo struct {
	g       *globals
	o       demoOptions
	out     io.Writer
	run     *running
	client  *lab.Client
	readers []*lab.Reader // one on each node, whatever its role: every status becomes 2
	steps   []demoStep
}

// demoStep is one step as --output json shows it.
type demoStep struct {
	Step   string         `json:"step"`
	OK     bool           `json:"ok"`
	Error  string         `json:"error,omitempty"`
	Result map[string]any `json:"result,omitempty"`
}

func runDemo(cmd *cobra.Command, g *globals, o demoOptions, given string) (err error) {
	d := &demo{g: g, o: o, out: cmd.OutOrStdout()}
	if g.json() {
		d.out = cmd.ErrOrStderr()
	}
	if given == "" {
		if g.dir, err = os.MkdirTemp("", "interrex-demo-"); err != nil {
			return err
		}
		if !o.keep {
			defer os.RemoveAll(g.dir)
		}
	}
	ctx := cmd.Context()
	if err := d.open(ctx, cmd.ErrOrStderr()); err != nil {
		return err
	}
	failed := d.perform(ctx)
	err = d.close(failed)
	if g.json() {
		err = errors.Join(err, printJSON(cmd.OutOrStdout(), map[string]any{"steps": d.steps, "ok": failed == nil}))
	}
	return errors.Join(failed, err)
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) open(ctx context.Context, stderr io.Writer) error {
	d.say("Interrex demo: a real PostgreSQL cluster of %d servers in %s", d.o.nodes, d.g.dir)
	args := []string{"--nodes", strconv.Itoa(d.o.nodes), "--auth", "trust"}
	if d.o.port != 0 {
		args = append(args, "--port", strconv.Itoa(d.o.port))
	}
	var err error
	if d.run, err = startUp(ctx, d.g, stderr, args...); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if d.client, err = lab.StartClient(wait, lab.ClientOptions{DSN: d.run.layout.DSN()}); err != nil {
		return errors.Join(err, d.run.stop())
	}
	for _, n := range d.run.layout.Nodes {
		d.readers = append(d.readers, lab.StartReader(ctx, d.run.layout.NodeDSN(n.Name)))
	}
	return nil
}

func (d *demo) close(failed error) error {
	d.client.Stop()
	for _, r := range d.readers {
		r.Stop()
	}
	if d.o.keep {
		d.say("\nThe cluster goes on (interrex up is process %d):\n  interrex status --dir %s\n  psql %q\n  stop it: kill -INT %d",
			d.run.up.Process.Pid, d.g.dir, d.run.layout.DSN(), d.run.up.Process.Pid)
		return nil
	}
	err := d.run.stop()
	if failed == nil && err == nil {
		d.say("\nEverything above was true. Exit status 0.")
	}
	return err
}

// perform goes through the steps and stops at the first that was not true.
func (d *demo) perform(ctx context.Context) error {
	for _, s := range []struct {
		name string
		do   func(context.Context) (map[string]any, error)
	}{
		{"1. The cluster, as pgpool's SHOW POOL_NODES shows it", d.table},
		{"2. kill -9 of db1's postmaster", d.crash},
		{"3. interrex recover db1", func(ctx context.Context) (map[string]any, error) { return d.recover(ctx, "db1") }},
		{"4. The tutorial's own fault: a clean stop of the new primary's service", d.cleanStop},
		{"5. interrex switchover", d.switchover},
		{"6. interrex explain", d.explain},
		{"7. interrex replay", d.replay},
	} {
		d.say("\n%s", s.name)
		result, err := s.do(ctx)
		step := demoStep{Step: s.name, OK: err == nil, Result: result}
		if err != nil {
			step.Error = err.Error()
			d.say("   not true: %v", err)
		}
		d.steps = append(d.steps, step)
		if err != nil {
			return codedError{exitFailed, fmt.Errorf("demo step %q: %w", s.name, err)}
		}
	}
	return nil
}

// await waits for a state and prints the table.
func (d *demo) await(ctx context.Context, what string, ok func(fsm.State) bool) (fsm.State, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	s, err := awaitState(ctx, d.run.log, what, ok)
	if err == nil {
		printStatus(d.out, s, "pgpool34")
	}
	return s, err
}

func status(s fsm.State, node string) int {
	n, _ := s.Node(node)
	return n.Status
}

func (d *demo) table(ctx context.Context) (map[string]any, error) {
	d.say("   A client writes every 10 ms over %s; others read from each node.", d.run.layout.DSN())
	s, err := d.await(ctx, "every node to have status 2", func(s fsm.State) bool {
		for _, n := range s.Nodes {
			if n.Status != fsm.StatusUp {
				return false
			}
		}
		return s.Phase == events.Healthy && s.Primary == "db1"
	})
	return map[string]any{"status": view.NewStatus(s)}, err
}

// lostRows reads back what was acknowledged.
func (d *demo) lostRows(ctx context.Context) (lab.Verification, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return d.client.Verify(ctx)
}

func (d *demo) crash(ctx context.Context) (map[string]any, error) {
	pid, at, err := d.run.layout.KillPostmaster("db1")
	if err != nil {
		return nil, err
	}
	d.say("   killed postmaster %d; Interrex notices its end, kills what is left, proves it dead, and promotes the best standby", pid)
	return d.failover(ctx, "db1", at)
}

// failover waits for the end of an outage and tells it.
func (d *demo) failover(ctx context.Context, old string, at time.Time) (map[string]any, error) {
	wait, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	outage, err := d.client.AwaitOutage(wait, at)
	if err != nil {
		return nil, err
	}
	s, err := d.await(ctx, "another primary", func(s fsm.State) bool {
		return s.Phase == events.Healthy && s.Primary != old && status(s, s.Primary) == fsm.StatusUp && status(s, old) == fsm.StatusDown
	})
	if err != nil {
		return nil, err
	}
	x, err := splitSince(ctx, d.run.log, at)
	if err != nil {
		return nil, err
	}
	x.Write = outage
	v, err := d.lostRows(ctx)
	if err != nil {
		return nil, err
	}
	d.say("   outage that the client felt: %s (%s)", ms(outage), x)
	d.say("   rows acknowledged %d, present on %s %d, lost %d; loss by the log: %d bytes of WAL", v.Acknowledged, s.Primary, v.Acknowledged-len(v.Lost), len(v.Lost), x.Lost)
	return map[string]any{"outage_ms": float64(outage.Microseconds()) / 1000, "split": x, "acknowledged": v.Acknowledged, "lost": len(v.Lost), "primary": s.Primary}, nil
}

// verb runs a command of this program as a person would type it.
func (d *demo) verb(ctx context.Context, args ...string) error {
	d.say("   $ interrex %s", quoted(args))
	var errs bytes.Buffer
	code := run(ctx, append(args, "--dir", d.g.dir), indent{d.out}, io.MultiWriter(indent{d.out}, &errs))
	if code != exitDone {
		return fmt.Errorf("exit status %d: %s", code, bytes.TrimSpace(errs.Bytes()))
	}
	return nil
}

func (d *demo) recover(ctx context.Context, node string) (map[string]any, error) {
	began := time.Now()
	if err := d.verb(ctx, "recover", node, "--yes"); err != nil {
		return nil, err
	}
	took := time.Since(began)
	_, err := d.await(ctx, node+" to be a standby", func(s fsm.State) bool {
		return s.Phase == events.Healthy && status(s, node) == fsm.StatusUp && s.Role(node) == "standby"
	})
	return map[string]any{"took_ms": took.Milliseconds()}, err
}

func (d *demo) cleanStop(ctx context.Context) (map[string]any, error) {
	s, err := awaitState(ctx, d.run.log, "a healthy cluster", func(s fsm.State) bool { return s.Phase == events.Healthy })
	if err != nil {
		return nil, err
	}
	old := s.Primary
	before, err := d.lostRows(ctx)
	if err != nil {
		return nil, err
	}
	d.say("   pg_ctl stop -m fast on %s: Interrex gives it the stop grace (%s) to come back, then fails over", old, s.Policy.StopGrace)
	at := time.Now()
	if err := d.run.layout.StopNode(ctx, old, lab.Fast); err != nil {
		return nil, err
	}
	result, err := d.failover(ctx, old, at)
	if err != nil {
		return result, err
	}
	if lost := result["lost"].(int) - len(before.Lost); lost != 0 {
		return result, fmt.Errorf("%d rows were lost by a clean stop; it must lose none", lost)
	}
	back, err := d.recover(ctx, old)
	result["recover"] = back
	return result, err
}

func (d *demo) switchover(ctx context.Context) (map[string]any, error) {
	before, err := d.lostRows(ctx)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	if err := d.verb(ctx, "switchover", "--reason", "demo", "--yes"); err != nil {
		return nil, err
	}
	if _, err := d.await(ctx, "both nodes to serve", func(s fsm.State) bool {
		for _, n := range s.Nodes {
			if n.Status != fsm.StatusUp {
				return false
			}
		}
		return s.Phase == events.Healthy
	}); err != nil {
		return nil, err
	}
	pause, _, _ := d.client.Pause(at)
	v, err := d.lostRows(ctx)
	if err != nil {
		return nil, err
	}
	lost := len(v.Lost) - len(before.Lost)
	d.say("   outage that the client felt: %s; rows acknowledged %d, lost by the switchover %d", ms(pause), v.Acknowledged, lost)
	if lost != 0 {
		return nil, fmt.Errorf("%d rows were lost by a switchover; it must lose none", lost)
	}
	return map[string]any{"outage_ms": float64(pause.Microseconds()) / 1000, "lost": lost}, nil
}

func (d *demo) explain(ctx context.Context) (map[string]any, error) {
	var named []uint64
	_, err := foldAll(ctx, d.run.log, func(e events.Event, _ fsm.State) {
		if x, ok := e.Data.(events.Decided); ok && view.Story(x) {
			named = append(named, e.Seq)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, seq := range named {
		if err := d.verb(ctx, "explain", strconv.FormatUint(seq, 10)); err != nil {
			return nil, err
		}
	}
	return map[string]any{"decisions": named}, nil
}

func (d *demo) replay(ctx context.Context) (map[string]any, error) {
	r, err := replayLog(ctx, d.run.log)
	if err != nil {
		return nil, err
	}
	printReport(indent{d.out}, r)
	if !r.OK() {
		return nil, errors.New("the log's decisions do not follow from the log")
	}
	return map[string]any{"decisions": r.Decisions, "events": r.Events}, nil
}

// indent puts three spaces before each write that begins a line.
type indent struct{ w io.Writer }

func (i indent) Write(b []byte) (int, error) {
	text := bytes.TrimSuffix(b, []byte("\n"))
	text = append([]byte("   "), bytes.ReplaceAll(text, []byte("\n"), []byte("\n   "))...)
	if _, err := i.w.Write(append(text, '\n')); err != nil {
		return 0, err
	}
	return len(b), nil
}

func quoted(args []string) string {
	s := ""
	for i, a := range args {
		if i > 0 {
			s += " "
		}
		s += a
	}
	return s
}
