// Package docker runs commands in a container, through Docker's Engine API, and
// starts, stops and kills the container.
package docker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/remote"
)

// Options say where a Runner's commands run.
type Options struct {
	Container string // name or ID
	Host      string // the Engine: unix:///path, tcp://host:port; empty: DOCKER_HOST and its like, else the default socket
	User      string // empty: the image's
}

// What is wrong with a container or its Engine, told apart by errors.Is.
var (
	ErrMissing    = errors.New("there is no such container")
	ErrPaused     = errors.New("the container is paused")
	ErrNotRunning = errors.New("the container is not running")
	ErrEngine     = errors.New("the Docker Engine cannot be reached")
)

// Runner is a container. It may be used by any number of goroutines; nothing is
// connected before the first use. The container needs a POSIX shell.
//
// A program that ends with an exit code of 129 to 192 is reported as one that a
// signal ended: Docker tells no difference.
type Runner struct {
	*remote.Runner
	engine *engine
}

var _ executors.Runner = (*Runner)(nil)

// New makes a Runner; it looks at nothing yet.
func New(o Options) *Runner {
	e := &engine{o: o}
	e.client = sync.OnceValues(func() (*client.Client, error) {
		opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
		if o.Host != "" {
			opts = append(opts, client.WithHost(o.Host))
		}
		return client.NewClientWithOpts(opts...)
	})
	return &Runner{Runner: remote.New("docker", &shell{e}), engine: e}
}

// Close closes idle connections to the Engine. It ends nothing in the container.
func (r *Runner) Close() error { return r.engine.close() }

// engine is the Engine, as seen from one container.
type engine struct {
	o      Options
	client func() (*client.Client, error)

	mu   sync.Mutex
	used bool
}

func (e *engine) use() (*client.Client, error) {
	c, err := e.client()
	if err != nil {
		return nil, fmt.Errorf("container %s: %w: %w", e.o.Container, ErrEngine, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = true
	return c, nil
}

func (e *engine) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.used {
		return nil
	}
	c, err := e.client()
	if err != nil {
		return nil
	}
	return c.Close()
}

// inspectWithin bounds each question to the Engine that costs it no work.
const inspectWithin = 5 * time.Second

// inspect says how the container is.
func (e *engine) inspect(ctx context.Context, c *client.Client, id string) (container.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	info, err := c.ContainerInspect(ctx, id)
	if err == nil && (info.ContainerJSONBase == nil || info.State == nil) {
		err = errors.New("the Engine tells no state")
	}
	return info, e.explain(c, err)
}

// usable is nil for a container that commands can be run in.
func (e *engine) usable(ctx context.Context, c *client.Client) error {
	info, err := e.inspect(ctx, c, e.o.Container)
	switch {
	case err != nil:
		return err
	case info.State.Paused:
		return e.is(ErrPaused, "docker unpause "+e.o.Container)
	case !info.State.Running || info.State.Restarting:
		return e.is(fmt.Errorf("%w: it is %s", ErrNotRunning, info.State.Status), "docker start "+e.o.Container)
	}
	return nil
}

func (e *engine) is(err error, then string) error {
	return fmt.Errorf("container %s: %w; what helps: %s", e.o.Container, err, then)
}

// explain names the container and the Engine in an error of the client.
func (e *engine) explain(c *client.Client, err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return e.is(fmt.Errorf("%w at %s", ErrMissing, c.DaemonHost()), "docker ps --all shows their names")
	case client.IsErrConnectionFailed(err), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("container %s: %w at %s: %w", e.o.Container, ErrEngine, c.DaemonHost(), err)
	}
	return fmt.Errorf("container %s: %w", e.o.Container, err)
}
