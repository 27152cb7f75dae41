package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// Pgbench is background load.
type Pgbench struct {
	stop context.CancelFunc
	done chan struct{}
	err  error // why it could not run; read after done
}

// InitPgbench fills the database of a connection string with pgbench's tables;
// each unit of scale is about 15 MB.
func InitPgbench(ctx context.Context, binDir, dsn string, scale int) error {
	_, err := local.New().Run(ctx, executors.Command{
		Path: filepath.Join(binDir, "pgbench"),
		Args: []string{"--initialize", "--quiet", "--scale", strconv.Itoa(scale), dsn},
	})
	if err != nil {
		return fmt.Errorf("lab: fill the database with pgbench: %w", err)
	}
	return nil
}

// StartPgbench runs pgbench with a number of clients until Stop. pgbench ends
// when the primary does; it is started again until there is one.
func StartPgbench(ctx context.Context, binDir, dsn string, clients int) *Pgbench {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &Pgbench{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = poll(running, 100*time.Millisecond, func() bool {
			_, err := local.New().Run(running, executors.Command{
				Path: filepath.Join(binDir, "pgbench"),
				Args: []string{"--no-vacuum", "--client", strconv.Itoa(clients), "--time", "86400", dsn},
				Env:  []string{"PGCONNECT_TIMEOUT=2"},
			})
			var exit *executors.ExitError
			if err != nil && !errors.As(err, &exit) && running.Err() == nil {
				p.err = fmt.Errorf("lab: load by pgbench: %w", err)
			}
			return p.err != nil
		})
	}()
	return p
}

// Stop ends the load and waits until it has. The error says why there was none:
// pgbench could not be run. That a run of it failed, as it does when its server
// dies, is none.
func (p *Pgbench) Stop() error {
	p.stop()
	<-p.done
	return p.err
}
