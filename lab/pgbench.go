package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// Pgbench is background load.
type Pgbench struct {
	stop context.CancelFunc
	done chan struct{}
	err  error // why it could not run; read after done
}

// InitPgbench fills the cluster's database with pgbench's tables; each unit of
// scale is about 15 MB. When it returns the standbys have all of it, and every
// server a checkpoint after it: no later measurement pays for the filling.
func (l *Layout) InitPgbench(ctx context.Context, scale int) error {
	_, err := local.New().Run(ctx, executors.Command{
		Path: filepath.Join(l.BinDir, "pgbench"),
		Args: []string{"--initialize", "--quiet", "--scale", strconv.Itoa(scale), l.DSN()},
	})
	if err == nil {
		err = l.settle(ctx)
	}
	if err != nil {
		return fmt.Errorf("lab: fill the database with pgbench: %w", err)
	}
	return nil
}

// settle has the primary write a checkpoint, and each standby one when it has
// replayed that.
func (l *Layout) settle(ctx context.Context) error {
	primary, err := l.Primary(ctx)
	if err != nil {
		return err
	}
	var end string
	err = l.ask(ctx, primary, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "checkpoint"); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&end)
	})
	for _, n := range l.Nodes {
		if err == nil && n.Name != primary {
			err = l.ask(ctx, n.Name, func(conn *pgx.Conn) error { return checkpointAt(ctx, conn, end) })
		}
	}
	return err
}

// ask does something with a superuser's session on a node.
func (l *Layout) ask(ctx context.Context, name string, do func(*pgx.Conn) error) error {
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	conn, err := l.connect(ctx, n, Superuser, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := do(conn); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	return nil
}

// checkpointAt waits until a standby has replayed a position, and has it write
// a restartpoint there.
func checkpointAt(ctx context.Context, conn *pgx.Conn, lsn string) error {
	var failed error
	err := poll(ctx, pollEvery, func() bool {
		there := false
		failed = conn.QueryRow(ctx, "select pg_last_wal_replay_lsn() >= $1::pg_lsn", pgx.QueryExecModeSimpleProtocol, lsn).Scan(&there)
		return there || failed != nil
	})
	if err == nil && failed == nil {
		_, failed = conn.Exec(ctx, "checkpoint")
	}
	return errors.Join(err, failed)
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
