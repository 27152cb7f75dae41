package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/agent"
	"github.com/interrex-ha/interrex/controller"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/fsm"
)

func newAgentCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "agent NODE",
		Short: "Stand for one node: probe it, hold its lease, carry out its orders (interrex up starts one for each)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			outliveReaders()
			t, err := g.partTopology()
			if err != nil {
				return err
			}
			node, err := memberArg(t, args[0])
			if err != nil {
				return err
			}
			owner := takenFile(g.dir) // written as the account that all of this cluster runs as
			if t.Place(node) == "" {
				owner = t.Postgres(node).DataDir
			}
			if _, ok := t.(described); ok && !exists(owner) {
				owner = "" // to be made
			}
			if err := dropRoot(g.dir, owner); err != nil {
				return err
			}
			if d, ok := t.(described); ok {
				if t, err = d.local(node); err != nil {
					return err
				}
			}
			return g.runAgent(cmd.Context(), t, node, cmd)
		},
	}
}

// outliveReaders lets a part that guards a database go on when whoever read its
// messages is gone: Go ends a program that writes to a closed pipe on its
// standard error.
func outliveReaders() { signal.Ignore(syscall.SIGPIPE) }

// oneProcessor keeps a process that mostly waits from waking several threads for
// each thing that happens: a third less processor time on an idle cluster.
func oneProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

func memberArg(t topology, arg string) (string, error) {
	for _, m := range t.Members() {
		if m.Name == arg || strconv.Itoa(m.ID) == arg {
			return m.Name, nil
		}
	}
	return "", usage("cluster %s has no node %q", t.Name(), arg)
}

func (g *globals) runAgent(ctx context.Context, t topology, node string, cmd *cobra.Command) error {
	oneProcessor()
	logger := g.logger(cmd.ErrOrStderr(), "agent/"+node)
	log, err := g.awaitLog(ctx, natslog.RoleAgent, "agent-"+node, logger)
	if err != nil && ctx.Err() != nil {
		return nil // told to stop before there was anything to do
	}
	if err != nil {
		return err
	}
	defer log.Close()
	fresh, err := g.describedHere(ctx, t, node, log)
	if err != nil {
		return err
	}
	var peers []agent.Peer
	for _, m := range t.Members() {
		if m.Name != node {
			peers = append(peers, agent.Peer{Node: m.Name, DSN: t.PeerDSN(m.Name)})
		}
	}
	dir := nodeDir(g.dir, node)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p := t.Postgres(node)
	scripts, err := agentScripts(t)
	if err != nil {
		return err
	}
	var guardian []string
	if t.Place(node) == "" { // elsewhere none could stop it when the agent cannot: no lease of this node ever proves anything
		guardian = []string{selfPath(), "guardian", "--node-dir", dir, "--data-directory", p.DataDir}
	}
	err = agent.New(agent.Config{
		Node: node, Dir: dir, Log: log, Postgres: p, Peers: peers, Created: t.Created(), Version: version, Logger: logger,
		Guardian: guardian, Place: t.Place(node), Scripts: scripts, NewCluster: fresh,
		Upstream: func(primary string) (executors.Upstream, error) {
			if _, err := memberArg(t, primary); err != nil {
				return executors.Upstream{}, err
			}
			return t.Upstream(primary, node), nil
		},
	}).Run(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// agentScripts are the scripts that the environment names.
func agentScripts(t topology) (agent.Scripts, error) {
	cfg, err := environment()
	if err != nil {
		return agent.Scripts{}, err
	}
	s := cfg.Scripts
	return agent.Scripts{
		Failover: s.Failover, FailoverWithin: s.FailoverWithin, FirstStage: s.FirstStage, RecoveryWithin: s.RecoveryWithin,
		Place: local.New(), Postgres: t.Postgres,
	}, nil
}

// awaitLog waits for a log that is not there yet, says so, and can be told to
// stop: nothing was begun.
func (g *globals) awaitLog(ctx context.Context, role natslog.Role, name string, logger *slog.Logger) (*natslog.Log, error) {
	say := time.AfterFunc(answerWait/2, func() {
		logger.Warn("the log does not answer; waiting for it: is interrex up, or interrex controller --serve-log, running?", "address", g.whence())
	})
	defer say.Stop()
	return g.openLogOf(ctx, nil, role, name)
}

func newGuardianCommand() *cobra.Command {
	var dir, data string
	c := &cobra.Command{
		Use: "guardian", Short: "Kill one PostgreSQL when its lease ends (an agent starts it)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			outliveReaders()
			oneProcessor()
			g := globals{}
			return agent.RunGuardian(cmd.Context(), dir, data, g.logger(cmd.ErrOrStderr(), "guardian/"+filepath.Base(dir)))
		},
	}
	c.Flags().StringVar(&dir, "node-dir", "", "directory of the node's lease")
	c.Flags().StringVar(&data, "data-directory", "", "PostgreSQL's data directory")
	return c
}

func newControllerCommand(g *globals) *cobra.Command {
	var serve bool
	c := &cobra.Command{
		Use:   "controller",
		Short: "Decide for the cluster; any number may run, the log lets one win each decision",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			outliveReaders()
			t, err := g.partTopology() // before dropRoot, which makes the directory
			if err != nil {
				return err
			}
			if err := dropRoot(g.dir, g.dir); err != nil {
				return err
			}
			ctx := cmd.Context()
			if serve {
				srv, err := g.serveLog(t.Name(), cmd)
				if err != nil {
					return err
				}
				defer srv.Shutdown()
				if d, ok := t.(described); ok {
					if err := g.begin(ctx, srv, d); err != nil {
						return err
					}
				}
			}
			log, err := g.openLog(ctx, natslog.RoleController, "controller")
			if err != nil {
				return err
			}
			defer log.Close()
			return g.control(ctx, log, cmd, nil)
		},
	}
	c.Flags().BoolVar(&serve, "serve-log", false, "serve the cluster's embedded log as well (then run: interrex up --join)")
	return c
}

// control runs a controller until ctx ends.
func (g *globals) control(ctx context.Context, log events.Log, cmd *cobra.Command, ready func(*controller.Controller)) error {
	id := "c" + strconv.Itoa(os.Getpid())
	c := &controller.Controller{
		Log: log, ID: id, Logger: g.logger(cmd.ErrOrStderr(), "controller"), Wall: time.Now,
		// Not time.Since: a wait proves the end of a lease, and chrony may slew
		// CLOCK_MONOTONIC by 8 % (SAFETY.md §3.4).
		Now:    func() time.Duration { return agent.Now().Raw },
		Memory: controller.FileMemory(headFile(g.dir, "controller")),
	}
	if ready != nil {
		ready(c)
	}
	err := c.Run(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// serveLog starts the embedded log and writes its address. The port of an
// earlier run is used again when it is free: clients that are still there find
// the log sooner.
func (g *globals) serveLog(cluster string, cmd *cobra.Command) (*natslog.Server, error) {
	if err := natslog.EnsureKeys(g.keys()); err != nil {
		return nil, err
	}
	o := natslog.ServerOptions{
		Cluster: cluster, StoreDir: storeDir(g.dir), KeysDir: g.keys(), Port: lastPort(g.dir),
		Logger: g.logger(cmd.ErrOrStderr(), "log"), TLSCert: g.log.TLSCert, TLSKey: g.log.TLSKey,
	}
	if g.log.Listen != "" {
		o.Host, o.Port = listenAt(g.log.Listen)
	}
	srv, err := natslog.StartServer(o)
	if err != nil && o.Port != 0 && g.log.Listen == "" {
		o.Port = 0
		srv, err = natslog.StartServer(o)
	}
	if err != nil {
		return nil, err
	}
	if err := writeAddress(g.dir, address{URL: srv.URL(), Cluster: cluster, PID: os.Getpid()}); err != nil {
		srv.Shutdown()
		return nil, fmt.Errorf("serve the log: %w", err)
	}
	return srv, nil
}

// listenAt takes HOST:PORT apart, which config has checked; no host is every
// address.
func listenAt(s string) (string, int) {
	host, port, _ := net.SplitHostPort(s)
	n, _ := strconv.Atoi(port)
	if host == "" {
		host = "0.0.0.0"
	}
	return host, n
}

// begin writes the first events of a log that serves several hosts, or checks
// that the one there is of this cluster.
func (g *globals) begin(ctx context.Context, srv *natslog.Server, d described) error {
	log, err := g.openLogOf(ctx, srv, natslog.RoleOperator, "controller")
	if err != nil {
		return err
	}
	defer log.Close()
	s, err := foldAll(ctx, log, nil)
	if err != nil {
		return err
	}
	if err := g.wentBackwards(s); err != nil {
		return err
	}
	add := func(data events.Data) error {
		_, err := appendAs(ctx, log, "operator/"+data.Key(), data)
		return err
	}
	if err := genesis(g, s, d.Config, d, add); err != nil {
		return err
	}
	if s.Phase == events.Forming {
		return add(startupNote())
	}
	return nil
}

// describedHere waits until the log names the cluster, so that an agent whose
// host is described differently says so before it does anything. The function
// makes the first server of a new cluster; nil where servers were made before.
func (g *globals) describedHere(ctx context.Context, t topology, node string, log events.Log) (func() executors.NewCluster, error) {
	d, ok := t.(described)
	if !ok {
		return nil, nil
	}
	var s fsm.State
	err := followState(ctx, log, func(_ events.Event, now fsm.State) (bool, error) {
		s = now
		return len(now.Nodes) > 0, nil
	})
	if err != nil {
		return nil, err
	}
	if s.Cluster != d.Cluster {
		return nil, fmt.Errorf("the log at %s is of cluster %q, and INTERREX_CLUSTER says %q: correct it on this host", g.whence(), s.Cluster, d.Cluster)
	}
	if err := sameMembers(g.whence(), s, d); err != nil {
		return nil, fmt.Errorf("%w, or correct the INTERREX_NODE_ variables: they are the same on every host", err)
	}
	fresh, err := d.newCluster(node)
	return func() executors.NewCluster { return fresh }, err
}
