package docker_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/docker"
	"github.com/interrex-ha/interrex/internal/cuttest"
)

func hello(ctx context.Context, r *docker.Runner) error {
	_, err := r.Run(ctx, executors.Command{Path: "echo", Args: []string{"hello"}, Timeout: 30 * time.Second})
	return err
}

// is wants one of the kinds of errors, and none of the others, with the words.
func is(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	for _, k := range []error{docker.ErrMissing, docker.ErrPaused, docker.ErrNotRunning, docker.ErrEngine} {
		if errors.Is(err, k) != errors.Is(kind, k) {
			t.Errorf("%v: is it %q? %t", err, k, errors.Is(err, k))
		}
	}
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("the error says nothing of %q: %v", w, err)
		}
	}
	t.Log(err)
}

// TestStates tells what is wrong with a container from what is wrong with the
// Engine.
func TestStates(t *testing.T) {
	c := engine(t)
	id := begin(t, c)
	r := docker.New(docker.Options{Container: id})
	if err := c.ContainerPause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	is(t, hello(t.Context(), r), docker.ErrPaused, id, "docker unpause")
	is(t, r.Start(t.Context()), docker.ErrPaused, id)
	is(t, r.Stop(t.Context(), time.Second), docker.ErrPaused, id)
	if err := c.ContainerUnpause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := hello(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	is(t, hello(t.Context(), r), docker.ErrNotRunning, id, "exited", "docker start")
	if _, err := r.Stat(t.Context(), "/"); !errors.Is(err, docker.ErrNotRunning) {
		t.Errorf("a file of a stopped container: %v", err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := hello(t.Context(), r); err != nil {
		t.Fatal(err)
	}

	missing := docker.New(docker.Options{Container: "no-such-container"})
	is(t, hello(t.Context(), missing), docker.ErrMissing, "no-such-container", "docker.sock")
	is(t, missing.Kill(t.Context()), docker.ErrMissing, "no-such-container")
	is(t, missing.Start(t.Context()), docker.ErrMissing, "no-such-container")

	dir := t.TempDir()
	absent := "unix://" + filepath.Join(dir, "absent.sock")
	is(t, hello(t.Context(), docker.New(docker.Options{Container: id, Host: absent})), docker.ErrEngine, id, absent)
	is(t, docker.New(docker.Options{Container: id, Host: absent}).Kill(t.Context()), docker.ErrEngine, id, absent)
	dead, err := net.Listen("unix", filepath.Join(dir, "dead.sock"))
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	is(t, hello(t.Context(), docker.New(docker.Options{Container: id, Host: "unix://" + dead.Addr().String()})), docker.ErrEngine, id, "dead.sock")
	is(t, hello(t.Context(), docker.New(docker.Options{Container: id, Host: "nonsense"})), docker.ErrEngine, id, "nonsense")
	silent, err := net.Listen("unix", filepath.Join(dir, "silent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := hello(ctx, docker.New(docker.Options{Container: id, Host: "unix://" + silent.Addr().String()})); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an Engine that says nothing: %v", err)
	}
}

// TestKillLeavesNothing kills containers that run, are paused, and start again by
// themselves; their processes are looked for here, whatever the Engine says.
func TestKillLeavesNothing(t *testing.T) {
	c := engine(t)
	for _, paused := range []bool{false, true} {
		// Deaf to SIGTERM, with children, and a command of ours in it.
		id := begin(t, c, "sh", "-c", "trap '' TERM; sleep 3601 & sleep 3602 & while :; do sleep 1; done")
		r := docker.New(docker.Options{Container: id})
		if _, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "setsid sleep 3603 >/dev/null 2>&1 &"}, Timeout: time.Minute}); err != nil {
			t.Fatal(err)
		}
		before := inGroup(t, id)
		if len(before) < 5 {
			t.Fatalf("in the container's control group are only %q: the test looks in the wrong place", before)
		}
		if paused {
			if err := c.ContainerPause(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Kill(t.Context()); err != nil {
			t.Fatalf("paused %t: %v", paused, err)
		}
		if left := inGroup(t, id); len(left) != 0 {
			t.Errorf("paused %t: there are still %q", paused, left)
		}
		info, err := c.ContainerInspect(t.Context(), id)
		if err != nil || info.State.Running || info.State.Pid != 0 {
			t.Errorf("paused %t: %+v, %v", paused, info.State, err)
		}
		if err := r.Kill(t.Context()); err != nil {
			t.Errorf("a container that does not run is dead: %v", err)
		}
	}
	again := restarting(t, c)
	if err := docker.New(docker.Options{Container: again}).Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := inGroup(t, again); len(left) != 0 {
		t.Errorf("there are still %q", left)
	}
}

// restarting is a container that the Engine starts again whenever it ends.
func restarting(t *testing.T, c *client.Client) string {
	t.Helper()
	id := begin(t, c, "sh", "-c", "sleep 3604")
	if _, err := c.ContainerUpdate(t.Context(), id, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}); err != nil {
		t.Fatal(err)
	}
	return id
}

// inGroup are the processes of this host in the container's control group. It is
// another look than the runner's own.
func inGroup(t *testing.T, id string) (commands []string) {
	t.Helper()
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		b, err := os.ReadFile(g)
		if err != nil || !strings.Contains(string(b), id) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(g), "cmdline"))
		if err == nil && len(line) > 0 { // a zombie has none
			commands = append(commands, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return commands
}

// TestContainerEndsUnderACommand: what ran in it was killed, and is said to be.
func TestContainerEndsUnderACommand(t *testing.T) {
	c := engine(t)
	id := begin(t, c)
	r := docker.New(docker.Options{Container: id})
	lines := make(chan string, 10)
	running := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "echo begun; exec sleep 3600"}, Line: func(l string) { lines <- l }})
		running <- err
	}()
	select {
	case <-lines:
	case err := <-running:
		t.Fatal(err)
	}
	if err := r.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-running:
		if err == nil {
			t.Error("the command has ended well in a container that was killed")
		}
		t.Log(err)
	case <-time.After(30 * time.Second):
		t.Error("the command does not end")
	}
}

// TestEngineFallsSilent: what runs through an Engine that does not answer any
// more ends with an error that says so.
func TestEngineFallsSilent(t *testing.T) {
	c := engine(t)
	id := begin(t, c)
	path := filepath.Join(t.TempDir(), "cut.sock")
	p := cuttest.New(t, "unix", path, strings.TrimPrefix(c.DaemonHost(), "unix://"))
	r := docker.New(docker.Options{Container: id, Host: "unix://" + path})
	lines := make(chan string, 10)
	running := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "echo begun; exec sleep 3600"}, Line: func(l string) { lines <- l }})
		running <- err
	}()
	select {
	case <-lines:
	case err := <-running:
		t.Fatal(err)
	}
	p.Cut(true)
	select {
	case err := <-running:
		is(t, err, docker.ErrEngine, id, "not known")
	case <-time.After(30 * time.Second):
		t.Fatal("the command does not end")
	}
	p.Cut(false)
	if err := hello(t.Context(), r); err != nil {
		t.Errorf("after the Engine answers again: %v", err)
	}
}

// TestNoShell: an image without a shell is told of.
func TestNoShell(t *testing.T) {
	c := engine(t)
	id := begin(t, c)
	r := docker.New(docker.Options{Container: id})
	if _, err := r.Run(t.Context(), executors.Command{Path: "rm", Args: []string{"/bin/sh"}, Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	err := hello(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "shell") || !strings.Contains(err.Error(), "sh") {
		t.Errorf("got %v, expected an error that names the shell", err)
	}
	t.Log(err)
}

func TestUser(t *testing.T) {
	id := begin(t, engine(t))
	out, err := docker.New(docker.Options{Container: id, User: "nobody"}).Run(t.Context(), executors.Command{Path: "id", Args: []string{"-un"}, Timeout: time.Minute})
	if err != nil || string(out.Stdout) != "nobody\n" {
		t.Errorf("got %q, %v; expected nobody", out.Stdout, err)
	}
}

// TestSecretsOnNoCommandLine looks at every process of the container's host.
func TestSecretsOnNoCommandLine(t *testing.T) {
	r := docker.New(docker.Options{Container: begin(t, engine(t))})
	const secret = "very-secret-indeed"
	done := make(chan error, 1)
	var seen atomic.Int64
	go func() {
		var err error
		for i := 0; i < 8 || i < 100 && seen.Load() == 0; i++ {
			_, e := r.Run(t.Context(), executors.Command{
				Path: "sh", Args: []string{"-c", `read -r x; [ "$x" = "$Y" ] && [ "${#x}" -gt 9 ] && exec sleep 0.05`},
				Stdin: []byte(secret + "\n"), Env: []string{"Y=" + secret}, Timeout: time.Minute,
			})
			err = errors.Join(err, e)
		}
		done <- err
	}()
	for {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range lines {
			b, _ := os.ReadFile(name)
			if strings.Contains(string(b), "IFS= read -r ix_n") {
				seen.Add(1)
			}
			if strings.Contains(string(b), secret) {
				t.Fatalf("a secret stands on a command line: %q", b)
			}
		}
		select {
		case err := <-done:
			if err != nil || seen.Load() == 0 {
				t.Errorf("%v; %d shells of the runner were seen", err, seen.Load())
			}
			return
		default:
		}
	}
}
