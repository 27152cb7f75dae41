package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"path"
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
func (r *Runner) PutIntoStopped(ctx context.Context, file string, data []byte) error {
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
