package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"
)

// putWithin bounds the Engine's copying of a small file.
const putWithin = 30 * time.Second

// PutIntoStopped writes a file into a container that does not run, volumes
// included, owned by root and readable for everybody, and returns when it is
// written and the container has not been started meanwhile. It is there for
// standby.signal: a container that was killed has nobody to write it. The file
// is on disk when the Engine is on this host, which is told to write everything
// out; an Engine elsewhere promises nothing about a power cut.
//
// Beside must exist in the same directory there: what was mounted from inside is
// gone with the container's processes, and a file would land below it.
func (r *Runner) PutIntoStopped(ctx context.Context, file, beside string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, putWithin)
	defer cancel()
	e := r.engine
	c, before, err := e.find(ctx)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if s := before.State; s.Running || s.Paused || s.Restarting {
		return fmt.Errorf("write %s: container %s is %s, expected one that has ended", file, e.o.Container, s.Status)
	}
	there := path.Join(path.Dir(file), beside)
	if _, err := c.ContainerStatPath(ctx, before.ID, there); err != nil {
		return fmt.Errorf("write %s: %s, which was expected beside it: %w", file, there, e.explain(c, err))
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: path.Base(file), Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := e.explain(c, c.CopyToContainer(ctx, before.ID, path.Dir(file), &archive, container.CopyToContainerOptions{})); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	unix.Sync()
	after, err := e.inspect(ctx, c, before.ID)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if after.State.Running || after.State.StartedAt != before.State.StartedAt {
		return fmt.Errorf("write %s: container %s was started meanwhile: keep it stopped", file, e.o.Container)
	}
	return nil
}

// SharedWith names the other running containers that have the storage of a path
// of this one as well: whatever runs there, its processes are not this
// container's. A path in the container's own layer has no other.
func (r *Runner) SharedWith(ctx context.Context, file string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, putWithin)
	defer cancel()
	e := r.engine
	c, own, err := e.find(ctx)
	if err != nil {
		return nil, err
	}
	source := mountedFrom(own.Mounts, file)
	if source == "" {
		return nil, nil
	}
	all, err := c.ContainerList(ctx, container.ListOptions{}) // those that run, or are paused
	if err != nil {
		return nil, fmt.Errorf("container %s: who shares %s: %w", e.o.Container, source, e.explain(c, err))
	}
	var others []string
	for _, other := range all {
		if other.ID != own.ID && slices.ContainsFunc(other.Mounts, func(m container.MountPoint) bool { return overlap(m.Source, source) }) {
			others = append(others, strings.TrimPrefix(strings.Join(other.Names, ","), "/"))
		}
	}
	return others, nil
}

// mountedFrom is where the Engine's host keeps a path of the container, empty
// when it is in the container's own layer.
func mountedFrom(mounts []container.MountPoint, file string) (source string) {
	longest := 0
	for _, m := range mounts {
		if inside(file, m.Destination) && len(m.Destination) > longest {
			source, longest = m.Source, len(m.Destination)
		}
	}
	return source
}

func inside(file, dir string) bool {
	return file == dir || strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/")
}

func overlap(a, b string) bool { return a != "" && (inside(a, b) || inside(b, a)) }
