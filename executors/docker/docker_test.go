package docker_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/docker"
	"github.com/interrex-ha/interrex/executors/executortest"
)

const image = "debian:bookworm-slim"

// engine is the machine's Docker Engine with the image; without it the test is
// left out with a word, and fails in CI.
func engine(t *testing.T) *client.Client {
	t.Helper()
	without := t.Skipf
	if os.Getenv("CI") != "" {
		without = t.Fatalf
	}
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Ping(t.Context()); err != nil {
		without("NOT TESTED on a real Docker Engine: %v; run scripts/setup.sh docker", err)
	}
	if _, err := c.ImageInspect(t.Context(), image); err != nil {
		without("NOT TESTED on a real Docker Engine: %v; run scripts/images.sh", err)
	}
	return c
}

// begin starts a container that is removed with the test, and returns its name.
func begin(t *testing.T, c *client.Client, command ...string) string {
	t.Helper()
	return beginOn(t, c, nil, command...)
}

// beginOn binds directories of the host.
func beginOn(t *testing.T, c *client.Client, binds []string, command ...string) string {
	t.Helper()
	if len(command) == 0 {
		command = []string{"sleep", "3600"}
	}
	init := true // reaps what a killed command leaves
	made, err := c.ContainerCreate(t.Context(), &container.Config{Image: image, Cmd: command}, &container.HostConfig{Init: &init, NetworkMode: "none", Binds: binds}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true}); err != nil && !strings.Contains(err.Error(), "No such container") {
			t.Errorf("remove the container: %v", err)
		}
	})
	if err := c.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	return made.ID
}

func TestSuite(t *testing.T) {
	r := docker.New(docker.Options{Container: begin(t, engine(t))})
	t.Cleanup(func() { _ = r.Close() })
	executortest.Suite(t, func(*testing.T) executors.Runner { return r })
}

// TestOutputIsWholeForASlowReader: what a program has printed arrives however
// long after its end.
func TestOutputIsWholeForASlowReader(t *testing.T) {
	r := docker.New(docker.Options{Container: begin(t, engine(t))})
	lines := 0
	out, err := r.Run(t.Context(), executors.Command{
		Path: "sh", Args: []string{"-c", `i=0; while [ $i -lt 1500 ]; do printf '%0200d\n' $i; i=$((i+1)); done`}, Keep: 1 << 20, Timeout: time.Minute,
		Line: func(string) { lines++; time.Sleep(time.Millisecond) },
	})
	if err != nil || lines != 1500 || len(out.Stdout) != 1500*201 {
		t.Errorf("%d lines and %d bytes, %v; expected 1500 and %d", lines, len(out.Stdout), err, 1500*201)
	}
}
