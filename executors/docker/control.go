package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

const (
	// startWithin and killWithin bound what the Engine does about a container;
	// Stop has its grace on top.
	startWithin = 60 * time.Second
	killWithin  = 30 * time.Second
)

// Start starts the container and returns when the Engine says that it runs,
// within a minute; nil when it runs already. That says nothing of what is in it.
func (r *Runner) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	c, info, err := r.engine.find(ctx)
	switch {
	case err != nil:
		return err
	case info.State.Paused:
		return r.engine.is(ErrPaused, "docker unpause "+r.engine.o.Container)
	}
	if err := r.engine.explain(c, c.ContainerStart(ctx, info.ID, container.StartOptions{})); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	info, err = r.engine.inspect(ctx, c, info.ID)
	if err == nil && !info.State.Running {
		err = r.engine.is(fmt.Errorf("%w: it was started, and ended at once with exit code %d", ErrNotRunning, info.State.ExitCode), "docker logs "+r.engine.o.Container)
	}
	return err
}

// Stop sends the container its stop signal, and SIGKILL after grace (whole
// seconds, at least one), and returns when nothing of it is left, as Kill does.
func (r *Runner) Stop(ctx context.Context, grace time.Duration) error {
	return r.end(ctx, "stop", grace+killWithin, func(ctx context.Context, c *client.Client, info container.InspectResponse) error {
		if info.State.Paused { // the signal would wait for ever
			return ErrPaused
		}
		seconds := max(1, int((grace+time.Second-1)/time.Second))
		return c.ContainerStop(ctx, info.ID, container.StopOptions{Timeout: &seconds})
	})
}

// Kill kills the container, paused or not, and returns when no process of it is
// left: the Engine says that it does not run, will not restart it and has no
// process of it, and on a host whose processes can be seen from here none is in
// the container's control group any more. A nil return is that proof, and so is
// one for a container that did not run. Within 30 s, else an error: then nothing
// is proved. Somebody may start the container again afterwards.
func (r *Runner) Kill(ctx context.Context) error {
	return r.end(ctx, "kill", killWithin, func(ctx context.Context, c *client.Client, info container.InspectResponse) error {
		return c.ContainerKill(ctx, info.ID, "KILL")
	})
}

// Gone reports whether no process of the container is left, by what Kill looks at.
func (r *Runner) Gone(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	c, info, err := r.engine.find(ctx)
	if err != nil {
		return false, err // also when it is missing: nobody knows which one it was
	}
	left, err := r.engine.left(ctx, c, info.ID)
	return err == nil && left == "", err
}

func (r *Runner) end(ctx context.Context, what string, within time.Duration, how func(context.Context, *client.Client, container.InspectResponse) error) error {
	e := r.engine
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, info, err := e.find(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var failed error
	if info.State.Running || info.State.Restarting || info.State.Paused {
		failed = how(ctx, c, info)
	}
	if errors.Is(failed, ErrPaused) {
		return fmt.Errorf("%s: %w", what, e.is(ErrPaused, "docker unpause "+e.o.Container))
	}
	// It may have ended by itself in between: what counts is what is left.
	if err := e.awaitGone(ctx, c, info.ID, failed); err != nil {
		return fmt.Errorf("%s: %w", what, errors.Join(e.explain(c, failed), err))
	}
	return nil
}

// find resolves the container's name; from then on its ID is meant.
func (e *engine) find(ctx context.Context) (*client.Client, container.InspectResponse, error) {
	c, err := e.use()
	if err != nil {
		return nil, container.InspectResponse{}, err
	}
	info, err := e.inspect(ctx, c, e.o.Container)
	return c, info, err
}

// awaitGone returns when nothing of the container is left. Where the order has
// failed it looks once only.
func (e *engine) awaitGone(ctx context.Context, c *client.Client, id string, failed error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := e.left(ctx, c, id)
		if err != nil {
			return err
		}
		if left == "" {
			return e.nameIsFree(ctx, c, id)
		}
		if failed != nil {
			return fmt.Errorf("container %s: %s", e.o.Container, left)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container %s: %s: %w", e.o.Container, left, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// left says what there still is of the container, empty when nothing.
func (e *engine) left(ctx context.Context, c *client.Client, id string) (string, error) {
	info, err := e.inspect(ctx, c, id)
	switch {
	case errors.Is(err, ErrMissing): // it was one that is removed when it ends
	case err != nil:
		return "", err
	case info.State.Running || info.State.Restarting || info.State.Paused || info.State.Pid != 0:
		return fmt.Sprintf("the Engine still says that it is %s, process %d", info.State.Status, info.State.Pid), nil
	}
	if pids := processesOf(id); len(pids) > 0 {
		return fmt.Sprintf("of its processes there are still %s", strings.Join(pids, ", ")), nil
	}
	return "", nil
}

// nameIsFree makes sure that the name has not been given to another container,
// which runs: then the one that was meant is not known.
func (e *engine) nameIsFree(ctx context.Context, c *client.Client, id string) error {
	info, err := e.inspect(ctx, c, e.o.Container)
	switch {
	case errors.Is(err, ErrMissing):
		return nil
	case err != nil:
		return err
	case info.ID != id && (info.State.Running || info.State.Restarting || info.State.Paused):
		return fmt.Errorf("container %s: it has ended, but another one of that name runs by now (%s); what runs there is not known", e.o.Container, info.ID)
	}
	return nil
}

// processesOf are this host's processes in the container's control group,
// without zombies: those have ended. They are none where the Engine is another
// host's, or its processes cannot be seen from here.
func processesOf(id string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup") // the pattern is right
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(b, []byte(id)) {
			continue // ended meanwhile, or another's
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(f), "stat"))
		if _, after, ok := bytes.Cut(stat, []byte(") ")); err != nil || ok && (bytes.HasPrefix(after, []byte("Z")) || bytes.HasPrefix(after, []byte("X"))) {
			continue
		}
		pids = append(pids, filepath.Base(filepath.Dir(f)))
	}
	return pids
}
