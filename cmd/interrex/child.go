package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// running is an `interrex up` in a process of its own, as users run it, with a
// connection to its log: demo and bench stand on it.
type running struct {
	g      *globals
	up     *exec.Cmd
	ended  chan struct{}
	log    *natslog.Log
	layout *lab.Layout
}

// startUp starts `interrex up` for a directory and waits until the cluster is
// healthy with every node up.
func startUp(ctx context.Context, g *globals, stderr io.Writer, args ...string) (*running, error) {
	return startUpUntil(ctx, g, stderr, allUp, args...)
}

func startUpUntil(ctx context.Context, g *globals, stderr io.Writer, ready func(fsm.State) bool, args ...string) (*running, error) {
	r := &running{g: g, ended: make(chan struct{})}
	r.up = exec.Command(selfPath(), append([]string{"up", "--dir", g.dir}, args...)...)
	r.up.Args[0] = "interrex"
	r.up.Stderr = stderr
	r.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.up.Start(); err != nil {
		return nil, fmt.Errorf("interrex up: %w", err)
	}
	go func() {
		_ = r.up.Wait()
		close(r.ended)
	}()
	if err := r.connect(ctx, ready); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

func (r *running) connect(ctx context.Context, ready func(fsm.State) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		if r.serves() {
			break
		}
		select {
		case <-r.ended:
			return errors.New("interrex up ended at once; what it said stands above")
		case <-ctx.Done():
			return fmt.Errorf("interrex up did not serve its log within 90 s: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	log, err := r.g.openLog(ctx, natslog.RoleReader, "demo")
	if err != nil {
		return err
	}
	r.log = log
	if r.layout, err = lab.Load(r.g.dir); err != nil {
		return err
	}
	_, err = awaitState(ctx, log, "a healthy cluster", ready)
	return err
}

// serves reports whether the log of this run can be reached: its own, or, with
// --join, the one that another process serves.
func (r *running) serves() bool {
	a, err := readAddress(r.g.dir)
	if err != nil {
		return false
	}
	if !slices.Contains(r.up.Args, "--join") {
		return a.PID == r.up.Process.Pid
	}
	return unix.Kill(a.PID, 0) == nil
}

// allUp: healthy, and every node serves.
func allUp(s fsm.State) bool {
	for _, n := range s.Nodes {
		if n.Status != fsm.StatusWaiting && n.Status != fsm.StatusUp {
			return false
		}
	}
	return s.Phase == "healthy" && len(s.Nodes) > 0
}

// stop ends interrex up as Ctrl-C does and waits for it.
func (r *running) stop() error {
	if r.log != nil {
		r.log.Close()
	}
	_ = r.up.Process.Signal(os.Interrupt)
	select {
	case <-r.ended:
		return nil
	case <-time.After(shutdownWait + 10*time.Second):
		return fmt.Errorf("interrex up (pid %s) does not end", strconv.Itoa(r.up.Process.Pid))
	}
}
