package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/agent"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// benchCluster is a running cluster that the bench breaks.
type benchCluster struct {
	*running
	stderr  io.Writer
	control *exec.Cmd // interrex controller --serve-log, when it runs apart
	nodes   int
}

// benchPort is the first of so many free ports below those that the kernel gives
// to outgoing connections: the clients that reconnect without end while a node
// is down would sooner or later be given its port.
func benchPort(nodes int) (int, error) {
	const first, last, block = 26000, 32000, 10
	for p := first; p < last; p += block {
		free := 0
		for ; free < nodes; free++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p+free))
			if err != nil {
				break
			}
			_ = l.Close()
		}
		if free == nodes {
			return p, nil
		}
	}
	return 0, fmt.Errorf("bench: no %d free ports between %d and %d", nodes, first, last)
}

func openBenchCluster(ctx context.Context, g *globals, stderr io.Writer, nodes int, apart bool) (*benchCluster, error) {
	c := &benchCluster{stderr: stderr, nodes: nodes}
	port, err := benchPort(nodes)
	if err != nil {
		return nil, err
	}
	args := []string{"--nodes", fmt.Sprint(nodes), "--port", fmt.Sprint(port)}
	if apart { // the cluster is made by a first, ordinary run
		first, err := startUp(ctx, g, stderr, args...)
		if err != nil {
			return nil, err
		}
		if err := first.stop(); err != nil {
			return nil, err
		}
		c.control = exec.Command(selfPath(), "controller", "--serve-log", "--dir", g.dir)
		c.control.Args[0] = "interrex"
		c.control.Stderr = stderr
		c.control.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.control.Start(); err != nil {
			return nil, err
		}
		go func() { _ = c.control.Wait() }()
		args = []string{"--join"}
	}
	if c.running, err = startUp(ctx, g, stderr, args...); err != nil {
		c.endControl()
		return nil, err
	}
	return c, nil
}

func (c *benchCluster) endControl() {
	if c.control != nil {
		_ = c.control.Process.Signal(os.Interrupt)
	}
}

func (c *benchCluster) close() {
	if err := c.stop(); err != nil {
		fmt.Fprintf(c.stderr, "bench: %v\n", err)
	}
	c.endControl()
}

// again starts interrex up anew after it was killed.
func (c *benchCluster) again(ctx context.Context) error {
	c.log.Close()
	next, err := startUpUntil(ctx, c.g, c.stderr, func(fsm.State) bool { return true }, "--join")
	if err != nil {
		return err
	}
	c.running = next
	return nil
}

// healthy waits until the cluster serves, whatever its standbys do.
func (c *benchCluster) healthy(ctx context.Context) (fsm.State, error) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	return awaitState(ctx, c.log, "a healthy cluster", func(s fsm.State) bool { return s.Phase == events.Healthy })
}

// whole waits until every node serves again.
func (c *benchCluster) whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	_, err := awaitState(ctx, c.log, "every node up", allUp)
	return err
}

// recoverNode makes the node a standby again and returns how long the verb took.
func (c *benchCluster) recoverNode(ctx context.Context, node, how string) (time.Duration, error) {
	began := time.Now()
	if code := run(ctx, []string{"recover", node, "--how", how, "--yes", "--dir", c.g.dir}, io.Discard, c.stderr); code != exitDone {
		return 0, fmt.Errorf("interrex recover %s: exit status %d", node, code)
	}
	took := time.Since(began)
	run(ctx, []string{"recover", node, "--clean", "--yes", "--dir", c.g.dir}, io.Discard, io.Discard)
	return took, c.whole(ctx)
}

// recovered is how a node's last recovery brought it back.
func (c *benchCluster) recovered(ctx context.Context, node string) (how string, err error) {
	_, err = foldAll(ctx, c.log, func(e events.Event, _ fsm.State) {
		if d, ok := e.Data.(events.OrderDone); ok && d.Node == node && d.Action == events.ActRecover {
			how = d.How
		}
	})
	return how, err
}

// lease maps the node's lease file: it names agent and guardian.
func (c *benchCluster) lease(node string) (*agent.LeaseFile, error) {
	boot, err := executors.BootID()
	if err != nil {
		return nil, err
	}
	return agent.OpenLease(agent.LeasePath(nodeDir(c.g.dir, node)), boot)
}

// killAgent ends a node's agent as if it had crashed.
func (c *benchCluster) killAgent(node string) error {
	l, err := c.lease(node)
	if err != nil {
		return err
	}
	defer l.Close()
	return unix.Kill(l.AgentPID(), unix.SIGKILL)
}

// freezeNode stops every process of a node: PostgreSQL, agent and guardian, and
// interrex up when it runs apart from the log: to the others it is a host that
// stands still.
func (c *benchCluster) freezeNode(ctx context.Context, node string, withUp bool) (*lab.Frozen, error) {
	l, err := c.lease(node)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	pids := []int{}
	if withUp {
		pids = append(pids, c.up.Process.Pid)
	}
	pids = append(pids, l.AgentPID(), l.GuardianPID())
	own, err := lab.Freeze(ctx, pids...)
	if err != nil {
		return own, err
	}
	pg, err := c.layout.FreezePostgres(ctx, node, true)
	if err != nil {
		return own, errors.Join(err, own.Thaw())
	}
	return &lab.Frozen{PIDs: append(own.PIDs, pg.PIDs...), At: own.At}, nil
}
