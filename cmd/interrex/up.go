package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/adopt"
	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/controller"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
	"github.com/interrex-ha/interrex/view"
)

type upOptions struct {
	nodes   int
	port    int
	auth    string
	join    bool
	plan    bool
	release bool
	keep    bool
	api     string
}

func newUpCommand(g *globals) *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster on this host: make, take over or restart it, and keep it writable until Ctrl-C",
		Long: `Without INTERREX_NODE_ variables, up makes a cluster of --nodes servers in --dir,
or starts the one that is there again. With INTERREX_NODE_<id>_HOST, _PORT and
_DATA_DIRECTORY it takes an existing primary and its standbys of this host over
in place; --plan says before what it would do, and what is missing.

Ctrl-C (SIGINT, SIGTERM, or the end of the terminal) stops everything in order. A PostgreSQL that was taken over is not
stopped: it goes on, without automatic failover, until up runs again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.up(cmd, o) },
	}
	f := c.Flags()
	f.IntVar(&o.nodes, "nodes", 2, "servers of a new cluster")
	f.IntVar(&o.port, "port", 0, "port of db1, the next ones follow (default: free ones from 54320); binding when given")
	f.StringVar(&o.auth, "auth", "scram", "of TCP connections of a new cluster: scram, or trust (loopback only)")
	f.BoolVar(&o.join, "join", false, "run agents only: another process (interrex controller --serve-log) serves the log and decides")
	f.BoolVar(&o.plan, "plan", false, "taking over: print what is found and what would be changed, and change nothing")
	f.BoolVar(&o.release, "release", false, "take back what taking over changed; PostgreSQL goes on")
	f.BoolVar(&o.keep, "keep-running", false, "at the end leave PostgreSQL running, as for a cluster that was taken over")
	f.StringVar(&o.api, "api", "", "HOST:PORT of the HTTP API, as interrex api serves it (default $INTERREX_API_LISTEN, else none)")
	return c
}

// up is the whole life of interrex up.
func (g *globals) up(cmd *cobra.Command, o upOptions) error {
	outliveReaders()
	oneProcessor()
	cfg, err := environment()
	if err != nil {
		return err
	}
	if o.plan || o.release {
		return g.planOrRelease(cmd, cfg, o)
	}
	if o.join {
		if _, err := loadTopology(g.dir); err != nil {
			return err // there is nothing to join, and nothing is made
		}
	}
	owner, err := g.ownerLike(cfg)
	if err != nil {
		return err
	}
	if err := dropRoot(g.dir, owner); err != nil {
		return err
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return err
	}
	lock, err := lockUp(g.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	door, err := doorOf(cfg.API, o.api) // before anything is made or started
	if err != nil {
		return err
	}
	if door != nil {
		defer door.Close()
	}
	t, err := g.topology(cmd, cfg, o)
	if err != nil {
		return err
	}
	return g.runUp(cmd, cfg, o, t, door)
}

// lockUp makes sure that one interrex up runs for a directory.
func lockUp(dir string) (*os.File, error) {
	path := filepath.Join(dir, "up.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("directory of the cluster: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another interrex up runs for %s; stop it first, or use another --dir", dir)
	}
	return f, nil
}

// topology finds the cluster of the directory, or makes one.
func (g *globals) topology(cmd *cobra.Command, cfg config.Config, o upOptions) (topology, error) {
	t, err := loadTopology(g.dir)
	switch {
	case err == nil && t.Created() && g.otherName(t) != "":
		return nil, fmt.Errorf("%s holds the cluster %q, but INTERREX_CLUSTER says %q: use another --dir, or leave the variable out", g.dir, t.Name(), g.otherName(t))
	case err == nil && len(cfg.Nodes) == 0 && cmd.Flags().Changed("port") && o.port != t.Members()[0].Port:
		return nil, fmt.Errorf("%s holds a cluster whose ports begin at %d, and --port %d was asked for: leave --port out, or use another --dir", g.dir, t.Members()[0].Port, o.port)
	case err == nil && len(cfg.Nodes) > 0 && t.Created():
		return nil, fmt.Errorf("%s holds a cluster that Interrex made, and INTERREX_NODE_ variables describe another one: use another --dir, or unset them", g.dir)
	case err == nil && len(cfg.Nodes) == 0 && cmd.Flags().Changed("nodes") && o.nodes != len(t.Members()):
		return nil, fmt.Errorf("%s holds a cluster of %d nodes, and --nodes %d was asked for: leave --nodes out, or use another --dir", g.dir, len(t.Members()), o.nodes)
	case err == nil:
		if taken, ok := t.(adopt.Taken); ok {
			return g.takeUpAgain(cmd, cfg, taken)
		}
		return t, nil
	case len(cfg.Nodes) > 0:
		return g.takeOver(cmd, cfg)
	case !errors.Is(err, lab.ErrNoCluster):
		return nil, err
	}
	l, err := lab.Create(cmd.Context(), lab.CreateOptions{
		Dir: g.dir, Cluster: cfg.Cluster, Nodes: o.nodes, Port: o.port, Auth: o.auth, Ignore: []string{"up.lock"},
		Progress: func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) },
	})
	if err != nil {
		return nil, err
	}
	return made{l}, nil
}

// otherName is the name that the environment gives the cluster, when it is set
// and not the one of the directory.
func (g *globals) otherName(t topology) string {
	if want := os.Getenv(config.Prefix + "CLUSTER"); want != t.Name() {
		return want
	}
	return ""
}

// runUp starts log, controller and agents, waits for the end, and stops them in
// the other order.
func (g *globals) runUp(cmd *cobra.Command, cfg config.Config, o upOptions, t topology, door *door) error {
	ctx := cmd.Context()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var srv *natslog.Server
	if !o.join {
		var err error
		if srv, err = g.serveLog(t.Name(), cmd); err != nil {
			return err
		}
		defer srv.Shutdown()
	}
	var log *natslog.Log
	var err error
	if o.join {
		log, err = g.awaitLog(ctx, natslog.RoleOperator, "up", g.logger(cmd.ErrOrStderr(), "up"))
	} else {
		log, err = g.openLogOf(work, srv, natslog.RoleOperator, "up")
	}
	if err != nil {
		return err
	}
	defer log.Close()
	s, err := foldAll(work, log, nil)
	if err != nil {
		return err
	}
	if !o.join { // else a controller is at work, and has seen more than we just read
		if err := g.wentBackwards(s); err != nil {
			return err
		}
	}
	add := func(d events.Data) error {
		_, err := appendAs(work, log, "operator/"+d.Key(), d)
		return err
	}
	if err := genesis(g, s, cfg, t, add); err != nil {
		return err
	}
	if err := g.keepTaken(t); err != nil {
		return err
	}
	endAPI, err := g.apiInside(work, cmd, door, srv)
	if err != nil {
		return err
	}
	defer endAPI()
	failed := make(chan error, 1)
	if !o.join {
		control, err := g.openLogOf(work, srv, natslog.RoleController, "controller")
		if err != nil {
			return err
		}
		defer control.Close()
		go func() { failed <- g.control(work, control, cmd, nil) }()
	}
	sup := newSupervisor(g, t, cmd.ErrOrStderr())
	sup.start(work)
	if s.Phase == events.Forming {
		if err := add(startupNote()); err != nil {
			return err
		}
	}
	go g.announce(work, cmd, log, s.Seq)
	return g.upUntilEnd(ctx, work, cmd, log, sup, failed, o.keep || !t.Created())
}

func (g *globals) upUntilEnd(ctx, work context.Context, cmd *cobra.Command, log events.Log, sup *supervisor, failed <-chan error, keep bool) error {
	var end error
	select {
	case <-ctx.Done():
	case end = <-failed:
		if errors.Is(end, controller.ErrRegressed) {
			fmt.Fprintf(cmd.ErrOrStderr(), "interrex: %v\n", end)
		}
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "stopping in order…")
	if end == nil {
		end = g.shutdown(work, log, keep)
	}
	sup.stop()
	return end
}

// announce prints the table once the cluster serves, by events after seq: what
// the log held before is the past, however recent.
func (g *globals) announce(ctx context.Context, cmd *cobra.Command, log events.Log, seq uint64) {
	_ = followState(ctx, log, func(e events.Event, s fsm.State) (bool, error) {
		if e.Seq <= seq || s.Phase != events.Healthy || status(s, s.Primary) == fsm.StatusUnused {
			return false, nil
		}
		if g.json() {
			return true, printJSON(cmd.OutOrStdout(), view.NewStatus(s))
		}
		printStatus(cmd.OutOrStdout(), s, "pgpool34")
		fmt.Fprintf(cmd.OutOrStdout(), "%s\nCtrl-C stops it. In another terminal: interrex status --dir %s\n", view.Promise(s), g.dir)
		return true, nil
	})
}

// shutdown asks for an orderly stop and waits until every order of it is over. A
// cluster in the middle of something refuses; it is asked again.
func (g *globals) shutdown(ctx context.Context, log events.Log, keep bool) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownWait)
	defer cancel()
	for {
		err := g.shutdownOnce(ctx, log, keep)
		if c := (codedError{}); err == nil || !errors.As(err, &c) || c.code != exitRefused {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster was not stopped in order within %s: %w", shutdownWait, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (g *globals) shutdownOnce(ctx context.Context, log events.Log, keep bool) error {
	req, err := appendAs(ctx, log, "operator/up", events.ShutdownRequested{Request: request("interrex up was told to stop"), Keep: keep})
	if err != nil {
		return fmt.Errorf("the cluster could not be stopped in order: %w", err)
	}
	var decision uint64
	err = followState(ctx, log, func(e events.Event, s fsm.State) (bool, error) {
		if decision == 0 {
			if why := s.MayDecide(); why != "" && e.Seq >= req.Seq {
				return false, fmt.Errorf("nobody decides here (%s): %s", why, goesOn(s))
			}
			seq, err := answerTo(e, req.Seq)
			decision = seq
			if err != nil || seq == 0 {
				return false, err
			}
		}
		for _, o := range s.Orders {
			if o.Decision == decision && (o.Status == "" || o.Status == "started") {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the cluster was not stopped in order within %s: %w", shutdownWait, err)
	}
	return err
}

// goesOn says what becomes of PostgreSQL when Interrex ends without a decision.
func goesOn(s fsm.State) string {
	primary := "the primary is stopped by its guardian when its lease ends"
	if s.Grant.Stay {
		primary = "the primary goes on, its grant lets it stay"
	}
	return primary + "; the standbys go on. Stop what is left yourself: pg_ctl stop -m fast -D …"
}

// wentBackwards compares the log with the head that an earlier run remembered.
func (g *globals) wentBackwards(s fsm.State) error {
	head, err := controller.FileMemory(headFile(g.dir, "controller")).Load()
	if err != nil {
		return err
	}
	if head.Seq > s.Seq {
		return fmt.Errorf("the log in %s went backwards: it ends at event %d, and event %d was seen before; put the right log back, or remove %s to go on with this one",
			storeDir(g.dir), s.Seq, head.Seq, headFile(g.dir, "controller"))
	}
	return nil
}

// lastPort is the port that the log had in an earlier run, 0 when there was none.
func lastPort(dir string) int {
	a, err := readAddress(dir)
	if err != nil {
		return 0
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		return 0
	}
	p, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0
	}
	return p
}
