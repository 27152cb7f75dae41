package integration

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/interrex-ha/interrex/lab"
)

// process is a part of interrex in a process of its own.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// spawn starts interrex with arguments in the cluster's directory.
func (c *cluster) spawn(args ...string) *process {
	c.t.Helper()
	p := &process{name: "interrex " + args[0], ended: make(chan struct{})}
	p.cmd = exec.Command(binary, append(args, "--dir", c.dir)...)
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = time.Second // agents that outlive it hold its stderr open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// startUp starts interrex up and waits until its log can be read.
func (c *cluster) startUp(args ...string) {
	c.t.Helper()
	c.up = c.spawn(append([]string{"up"}, args...)...)
	server := c.up
	if c.control != nil {
		server = c.control
	}
	c.awaitLog(server)
}

// awaitLog waits until a process serves the log, and begins to follow it.
func (c *cluster) awaitLog(server *process) {
	c.t.Helper()
	c.until(server.name+" to serve the log", func() bool {
		select {
		case <-server.ended:
			c.t.Fatalf("%s ended at once; it said:\n%s", server.name, server.said())
		default:
		}
		a, err := readAddress(c.dir)
		return err == nil && a.PID == server.cmd.Process.Pid
	})
	if c.story != nil {
		return
	}
	var err error
	if c.layout, err = lab.Load(c.dir); err != nil {
		c.t.Fatal(err)
	}
	if c.story, err = follow(c.dir); err != nil {
		c.t.Fatal(err)
	}
}

// stopUp ends interrex up as Ctrl-C does and waits for it.
func (c *cluster) stopUp() {
	c.t.Helper()
	_ = c.up.cmd.Process.Signal(syscall.SIGINT)
	c.awaitEnd(c.up)
	if code := c.up.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Fatalf("interrex up ended with exit status %d; it said:\n%s", code, c.up.said())
	}
}

// killUp ends interrex up with SIGKILL and waits for it.
func (c *cluster) killUp() {
	c.t.Helper()
	_ = c.up.cmd.Process.Kill()
	c.awaitEnd(c.up)
}

func (c *cluster) awaitEnd(p *process) {
	c.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(2 * patience):
		c.t.Fatalf("%s does not end; it said:\n%s", p.name, p.said())
	}
}

// result is what a command of interrex gave.
type result struct {
	code           int
	stdout, stderr string
}

// interrex runs a command for the cluster, as a person would type it.
func (c *cluster) interrex(args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--dir", c.dir)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), c.env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("interrex %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must is interrex for a command that has to succeed.
func (c *cluster) must(args ...string) result {
	c.t.Helper()
	r := c.interrex(args...)
	if r.code != 0 {
		c.t.Fatalf("interrex %s: exit status %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}
