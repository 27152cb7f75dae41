package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/agent"
	"github.com/interrex-ha/interrex/executors"
)

// agentStale is how long an agent's loop may stand still before it is replaced:
// long for a loop that turns at least three times a second, short against the
// lease.
const agentStale = 800 * time.Millisecond

// supervisor keeps one agent process for each node: it starts them, replaces
// those that end or freeze, and takes over those that an earlier interrex up
// left behind.
type supervisor struct {
	g      *globals
	t      topology
	stderr io.Writer
	wg     sync.WaitGroup
	quit   chan struct{}
}

func newSupervisor(g *globals, t topology, stderr io.Writer) *supervisor {
	return &supervisor{g: g, t: t, stderr: stderr, quit: make(chan struct{})}
}

func (s *supervisor) start(ctx context.Context) {
	for _, m := range s.t.Members() {
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.keep(ctx, m.Name)
		}()
	}
}

// stop ends every agent in order and waits for them.
func (s *supervisor) stop() {
	close(s.quit)
	s.wg.Wait()
}

// keep keeps an agent for one node until the supervisor stops.
func (s *supervisor) keep(ctx context.Context, node string) {
	dir := nodeDir(s.g.dir, node)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		fmt.Fprintf(s.stderr, "interrex: %v\n", err)
		return
	}
	boot, err := executors.BootID()
	if err != nil {
		fmt.Fprintf(s.stderr, "interrex: %v\n", err)
		return
	}
	lease, err := agent.OpenLease(agent.LeasePath(dir), boot)
	if err != nil {
		fmt.Fprintf(s.stderr, "interrex: agent of %s: %v\n", node, err)
		return
	}
	defer lease.Close()
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		if pid := s.left(dir, lease); pid != 0 {
			s.watch(pid, dir, nil, lease)
		} else {
			s.child(node, dir, lease)
		}
		select {
		case <-s.quit:
			return
		case <-time.After(wait):
		}
		if time.Since(began) > time.Second {
			wait = 50 * time.Millisecond
		} else {
			wait = min(2*wait, 2*time.Second) // one that ends at once is not started in a loop
		}
	}
}

// left returns the agent of an earlier interrex up that still stands for the
// node, 0 when there is none: the lock tells, not the pid alone.
func (s *supervisor) left(dir string, lease *agent.LeaseFile) int {
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return 0
	}
	return lease.AgentPID()
}

// child runs an agent as a child process until it ends.
func (s *supervisor) child(node, dir string, lease *agent.LeaseFile) {
	cmd := exec.Command(selfPath(), "agent", node, "--dir", s.g.dir)
	cmd.Args[0] = "interrex"
	if s.g.verbose {
		cmd.Args = append(cmd.Args, "--debug")
	}
	cmd.Stderr = s.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is for us
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(s.stderr, "interrex: agent of %s: %v\n", node, err)
		return
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	s.watch(cmd.Process.Pid, dir, ended, lease)
}

// nextLook is when to look at an agent again: one of our own, whose end is told,
// at the moment at which it would have stood still for too long.
func nextLook(own bool, lease *agent.LeaseFile) time.Duration {
	if !own {
		return 200 * time.Millisecond
	}
	return min(max(agentStale-lease.AgentIdle(), 100*time.Millisecond), agentStale)
}

// watch returns when the agent has ended; one that freezes is killed, one that
// is left when we stop is told to stop.
func (s *supervisor) watch(pid int, dir string, ended <-chan struct{}, lease *agent.LeaseFile) {
	quit := s.quit
	var told time.Time // to stop
	for {
		select {
		case <-ended:
			return
		case <-quit:
			quit, told = nil, time.Now()
			_ = unix.Kill(pid, unix.SIGTERM)
			_ = unix.Kill(pid, unix.SIGCONT)
		case <-time.After(nextLook(ended != nil && quit != nil, lease)):
			if ended == nil && s.left(dir, lease) != pid {
				return // its lock is free; the process may stay a zombie until somebody waits for it
			}
			late := lease.AgentPID() == pid && lease.AgentIdle() > agentStale
			if late && quit != nil || quit == nil && time.Since(told) > shutdownWait {
				fmt.Fprintf(s.stderr, "interrex: agent %d does not turn any more: replacing it\n", pid)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}
