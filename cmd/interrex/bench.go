package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/lab"
)

type benchOptions struct {
	faults []string
	nodes  []int
	loads  []string
	runs   int
	scale  int
	skip   []string
}

func newBenchCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure on this machine, on real clusters of its own", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var o benchOptions
	f := &cobra.Command{
		Use:   "failover",
		Short: "Outages under faults A to F beside the floor that no tool can be faster than, and the costs of the log",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if err := dropRoot("", ""); err != nil {
				return err
			}
			return runBench(cmd, g, o)
		},
	}
	fl := f.Flags()
	fl.StringSliceVar(&o.faults, "faults", []string{"A", "B", "C", "D", "E", "F"}, "which faults")
	fl.IntSliceVar(&o.nodes, "nodes", []int{2, 3}, "cluster sizes for A and D; the others use the first")
	fl.StringSliceVar(&o.loads, "load", []string{"idle", "pgbench"}, "idle, pgbench, or both, for A and D; the others use the first")
	fl.IntVar(&o.runs, "runs", 20, "runs of each")
	fl.IntVar(&o.scale, "scale", 13, "pgbench scale of the database; 13 is about 200 MB")
	fl.StringSliceVar(&o.skip, "skip", nil, "parts to leave out: floor, log, idle")
	c.AddCommand(f)
	return c
}

// check refuses what would measure nothing and not say so.
func (o benchOptions) check() error {
	for _, x := range []struct {
		flag  string
		given []string
		known []string
	}{
		{"--faults", o.faults, []string{"A", "B", "C", "D", "E", "F"}},
		{"--load", o.loads, []string{"idle", "pgbench"}},
		{"--skip", o.skip, []string{"floor", "log", "idle"}},
	} {
		for _, g := range x.given {
			if !slices.Contains(x.known, g) {
				return usage("%s has %q; it takes %s", x.flag, g, strings.Join(x.known, ", "))
			}
		}
	}
	for _, n := range o.nodes {
		if n < 2 || n > lab.MaxNodes {
			return usage("--nodes has %d; a failover takes at least 2 and at most %d", n, lab.MaxNodes)
		}
	}
	if len(o.nodes) == 0 || len(o.loads) == 0 || o.runs < 1 || o.scale < 1 {
		return usage("--nodes and --load want a value, --runs (%d) and --scale (%d) at least 1", o.runs, o.scale)
	}
	return nil
}

// row is one line of the result.
type row struct {
	Fault  string          `json:"fault"`
	Nodes  int             `json:"nodes"`
	Load   string          `json:"load"`
	Values []time.Duration `json:"values_ns"`
	Floor  time.Duration   `json:"floor_median_ns,omitempty"`
	Lost   int             `json:"lost"`
	Bar    string          `json:"bar"`
	Note   string          `json:"note,omitempty"`
	Failed string          `json:"failed,omitempty"` // the run after the last value, which ended the row
}

// quantile interpolates between the two values nearest to it. 0 of none.
func quantile(v []time.Duration, q float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	at := q * float64(len(s)-1)
	i := int(at)
	next := s[min(i+1, len(s)-1)]
	return s[i] + time.Duration((at-float64(i))*float64(next-s[i]))
}

// bench is one run of the command.
type bench struct {
	g     *globals
	o     benchOptions
	ctx   context.Context //nolint:containedctx // of this one command
	log   io.Writer
	rows  []row
	floor [2]time.Duration // medians of the last one: crash and switch
	notes []string
}

func runBench(cmd *cobra.Command, g *globals, o benchOptions) error {
	b := &bench{g: g, o: o, ctx: cmd.Context(), log: cmd.ErrOrStderr()}
	began := time.Now()
	// What was measured before and after an error is printed with it.
	failed := b.measureFaults()
	if b.ctx.Err() == nil && !slices.Contains(o.skip, "idle") {
		failed = errors.Join(failed, b.measureIdle())
	}
	if b.ctx.Err() == nil && !slices.Contains(o.skip, "log") {
		failed = errors.Join(failed, b.measureLog())
	}
	if g.json() {
		return errors.Join(failed, printJSON(cmd.OutOrStdout(), map[string]any{"rows": b.rows, "notes": b.notes}))
	}
	b.print(cmd.OutOrStdout(), began)
	return failed
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// wants reports whether a fault was asked for.
func (b *bench) wants(fault string) bool { return slices.Contains(b.o.faults, fault) }

// loadOn fills a cluster's database and, for pgbench, keeps it busy.
func (b *bench) loadOn(l *lab.Layout, load string) (stop func() error, err error) {
	if err := l.InitPgbench(b.ctx, b.o.scale); err != nil {
		return nil, err
	}
	if load != "pgbench" {
		return func() error { return nil }, nil
	}
	p := lab.StartPgbench(b.ctx, l.BinDir, l.DSN(), 4)
	return p.Stop, nil
}

// measureFloor is called before each series that is compared with it: the speed
// of a virtual machine differs by half between one ten minutes and the next.
func (b *bench) measureFloor(load string) error {
	b.say("floor, %s: %d crashes and %d stops without any tool", load, b.o.runs, b.o.runs)
	dir, err := os.MkdirTemp("", "interrex-floor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := lab.Floor(b.ctx, lab.FloorOptions{
		Dir: dir + "/pair", Runs: b.o.runs,
		Load: func(_ context.Context, l *lab.Layout) (func() error, error) { return b.loadOn(l, load) },
	})
	if err != nil {
		return err
	}
	b.floor = [2]time.Duration{quantile(r.Crash, 0.5), quantile(r.Switch, 0.5)}
	b.rows = append(b.rows,
		row{Fault: "floor: kill -9, pg_promote", Nodes: 2, Load: load, Values: r.Crash, Lost: r.Lost},
		row{Fault: "floor: stop, pg_promote", Nodes: 2, Load: load, Values: r.Switch})
	return nil
}

// measureFaults goes through the sizes and loads, one cluster for each.
func (b *bench) measureFaults() error {
	var failed error
	for i, nodes := range b.o.nodes {
		for j, load := range b.o.loads {
			var faults []string
			for _, f := range []string{"A", "D"} {
				if b.wants(f) {
					faults = append(faults, f)
				}
			}
			if len(faults) > 0 && !slices.Contains(b.o.skip, "floor") {
				if err := b.measureFloor(load); err != nil {
					return errors.Join(failed, err)
				}
			}
			if i == 0 && j == 0 {
				for _, f := range []string{"B", "E", "F"} {
					if b.wants(f) {
						faults = append(faults, f)
					}
				}
			}
			failed = errors.Join(failed, b.series(nodes, load, faults, false))
		}
	}
	if b.wants("B") || b.wants("C") {
		var faults []string
		for _, f := range []string{"B2", "C"} {
			if b.wants(f[:1]) {
				faults = append(faults, f)
			}
		}
		failed = errors.Join(failed, b.series(b.o.nodes[0], b.o.loads[0], faults, true))
	}
	return failed
}

// series performs faults on a cluster; after one that failed it goes on with the
// next on a new cluster.
func (b *bench) series(nodes int, load string, faults []string, apart bool) error {
	var failed error
	for len(faults) > 0 && b.ctx.Err() == nil {
		rows := len(b.rows)
		done, err := b.cluster(nodes, load, faults, apart)
		if err != nil {
			fault := faults[min(done, len(faults)-1)]
			err = fmt.Errorf("bench: fault %s, %d nodes, %s: %w", fault, nodes, load, err)
			b.say("%v", err)
			failed = errors.Join(failed, err)
			if len(b.rows) == rows {
				b.rows = append(b.rows, row{Fault: fault, Nodes: nodes, Load: load, Failed: "the cluster could not be made"})
			}
			done++
		}
		faults = faults[min(done, len(faults)):]
	}
	return failed
}

// cluster makes a cluster and performs faults on it, and returns how many. With
// apart the log and the controller live in a process of their own, so that
// interrex up may die too.
func (b *bench) cluster(nodes int, load string, faults []string, apart bool) (done int, err error) {
	dir, err := os.MkdirTemp("", "interrex-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	g := *b.g
	g.dir = dir
	r, err := openBenchCluster(b.ctx, &g, b.log, nodes, apart)
	if err != nil {
		return 0, err
	}
	defer r.close()
	stop, err := b.loadOn(r.layout, load)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for done, f := range faults {
		b.say("fault %s, %d nodes, %s", f, nodes, load)
		rows, err := b.perform(r, f)
		for i := range rows {
			rows[i].Nodes, rows[i].Load = nodes, load
			rows[i].Floor = b.floorOf(f)
		}
		b.rows = append(b.rows, rows...)
		if err != nil {
			return done, err
		}
	}
	return len(faults), nil
}

func (b *bench) floorOf(fault string) time.Duration {
	switch fault {
	case "A":
		return b.floor[0]
	case "D":
		return b.floor[1]
	}
	return 0
}

// at prints a quantile; of nothing there is none.
func at(v []time.Duration, q float64) string {
	if len(v) == 0 {
		return "–"
	}
	return ms(quantile(v, q))
}

// note says of a row that ended early that it did: its figures are of the runs
// before.
func (r row) note() string {
	parts := []string{r.Note}
	switch {
	case r.Failed != "":
		parts = append(parts, "**FAILED**: "+strings.NewReplacer("|", "/", "\n", "; ").Replace(r.Failed))
	case len(r.Values) == 0:
		parts = append(parts, "**not measured**")
	}
	return strings.Trim(strings.Join(parts, "; "), "; ")
}

func (b *bench) print(w io.Writer, began time.Time) {
	host, _ := os.ReadFile("/proc/version")
	fmt.Fprintf(w, "Measured %s by `interrex bench failover`, %s, in %s; interrex %s, %s, %d CPUs; durability asynchronous, embedded log.\n%s\n",
		began.Format("2006-01-02 15:04"), "one run", time.Since(began).Round(time.Second), version, runtime.Version(), runtime.NumCPU(),
		strings.TrimSpace(strings.SplitN(string(host), "(", 2)[0]))
	fmt.Fprintln(w, "\n| fault (asynchronous) | nodes | load | n | min | median | p95 | max | × floor | acknowledged rows lost | bar | note |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range b.rows {
		ratio := ""
		if r.Floor > 0 && len(r.Values) > 0 {
			ratio = fmt.Sprintf("%.2f", float64(quantile(r.Values, 0.5))/float64(r.Floor))
		}
		fmt.Fprintf(w, "| %s | %d | %s | %d | %s | %s | %s | %s | %s | %d | %s | %s |\n", r.Fault, r.Nodes, r.Load, len(r.Values),
			at(r.Values, 0), at(r.Values, 0.5), at(r.Values, 0.95), at(r.Values, 1), ratio, r.Lost, r.Bar, r.note())
	}
	for _, n := range b.notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
}
