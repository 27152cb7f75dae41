package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

// FloorOptions says how the floor is measured.
type FloorOptions struct {
	Dir    string // for a throwaway primary and standby; absent or empty, removed afterwards
	BinDir string // of PostgreSQL; FindBinDir chooses when empty
	Runs   int    // of each kind
	// Load, when not nil, is called once with the pair before the first run,
	// for example to fill it; what it returns is called after the last.
	Load     func(context.Context, *Layout) (stop func() error, err error)
	Progress func(string) // may be nil
}

// FloorResult are the write outages that a client feels when nothing stands
// between a fault and the promotion: no detection, no proof, no decision.
// Nothing that promotes a PostgreSQL standby can be faster on this host.
type FloorResult struct {
	Crash  []time.Duration // kill -9 of the postmaster, the standby promoted at once
	Switch []time.Duration // fast stop of the primary, then promotion
	Lost   int             // acknowledged writes that the crashes cost, asynchronous as they are
}

// promoteAgain is how often the promotion is asked for: the first request may
// be slept over by the startup process.
const promoteAgain = 100 * time.Millisecond

// Floor measures it on a throwaway pair, with the measuring client. Between two
// runs the old primary is made a standby of the new one and they change places.
func Floor(ctx context.Context, o FloorOptions) (result FloorResult, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	l, err := Create(ctx, CreateOptions{Dir: o.Dir, BinDir: o.BinDir, Cluster: "floor", Nodes: 2, Progress: o.Progress})
	if err != nil {
		return result, err
	}
	defer func() {
		err = errors.Join(err, l.Destroy(context.WithoutCancel(ctx)))
	}()
	if o.Load != nil {
		stop, err := o.Load(ctx, l)
		if err != nil {
			return result, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	primary, standby := l.Nodes[0], l.Nodes[1]
	for i := range 2 * o.Runs {
		crash := i%2 == 0
		outage, lost, err := l.floorRun(ctx, primary, standby, crash)
		if err != nil {
			return result, err
		}
		result.Lost += lost
		if crash {
			o.Progress(fmt.Sprintf("crash %d of %d: no write for %s", i/2+1, o.Runs, outage.Round(time.Millisecond)))
			result.Crash = append(result.Crash, outage)
		} else {
			o.Progress(fmt.Sprintf("switch %d of %d: no write for %s", i/2+1, o.Runs, outage.Round(time.Millisecond)))
			result.Switch = append(result.Switch, outage)
		}
		if err := l.rejoin(ctx, standby, primary, !crash); err != nil {
			return result, err
		}
		primary, standby = standby, primary
	}
	return result, nil
}

// floorRun breaks or stops the primary and promotes the standby.
func (l *Layout) floorRun(ctx context.Context, primary, standby Node, crash bool) (outage time.Duration, lost int, err error) {
	conn, err := l.connect(ctx, standby, Superuser, "postgres")
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(ctx)
	c, err := StartClient(ctx, ClientOptions{DSN: l.DSN()})
	if err != nil {
		return 0, 0, err
	}
	defer c.Stop()
	// Some writes first, so that the client and the servers are warm.
	if err := c.await(ctx, func(acks []Ack) bool { return len(acks) >= 50 }); err != nil {
		return 0, 0, fmt.Errorf("lab: the client does not get to write: %w; errors so far: %v", err, c.Errors())
	}
	at := time.Now()
	if crash {
		_, at, err = l.KillPostmaster(primary.Name)
	} else {
		err = l.stop(ctx, primary, Fast)
	}
	if err == nil {
		err = promote(ctx, conn)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("lab: floor: %s after %s: %w", standby.Name, primary.Name, err)
	}
	if _, err := c.AwaitPort(ctx, at, standby.Port); err != nil {
		return 0, 0, err
	}
	if outage, _ = c.Outage(at); !crash {
		outage, _, _ = c.Pause(at)
	}
	c.Stop()
	v, err := c.Verify(ctx)
	return outage, len(v.Lost), err
}

// promote asks a standby for its promotion until it has left recovery.
func promote(ctx context.Context, conn *pgx.Conn) error {
	var asked time.Time
	var failed error
	err := poll(ctx, 2*time.Millisecond, func() bool {
		if time.Since(asked) >= promoteAgain {
			asked = time.Now()
			// The last request may come after the end of recovery, which it
			// then complains of; what counts is the question below.
			_, _ = conn.Exec(ctx, "select pg_promote(false)")
		}
		recovering := true
		failed = conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovering)
		return !recovering || failed != nil
	})
	return errors.Join(err, failed)
}

// rejoin makes a node a standby of another: by a start when it was stopped in
// order before the other was promoted, else by a base backup over what it had.
func (l *Layout) rejoin(ctx context.Context, primary, n Node, clean bool) error {
	err := l.ask(ctx, primary.Name, func(conn *pgx.Conn) error {
		const slot = `select pg_create_physical_replication_slot($1, true) where not exists (select from pg_replication_slots where slot_name = $1::name)`
		_, err := conn.Exec(ctx, slot, pgx.QueryExecModeExec, events.SlotName(n.Name))
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("lab: make the slot of node %s: %w", n.Name, err)
	case clean:
		err = l.startStandby(ctx, primary, n)
	default:
		if err = l.KillAll(ctx, n.Name); err != nil {
			return err
		}
		if err = os.RemoveAll(n.DataDir); err != nil {
			return fmt.Errorf("lab: remove the old copy of node %s: %w", n.Name, err)
		}
		err = l.makeStandby(ctx, primary, n, false)
	}
	if err != nil {
		return err
	}
	return l.waitStreaming(ctx, primary, []Node{n})
}

// Destroy kills the cluster's servers and removes its directory with everything
// in it. It is for throwaway clusters.
func (l *Layout) Destroy(ctx context.Context) error {
	var errs []error
	for _, n := range l.Nodes {
		errs = append(errs, l.KillAll(ctx, n.Name))
	}
	if err := errors.Join(errs...); err != nil {
		return err // a directory under a running server is not removed
	}
	if err := errors.Join(os.RemoveAll(l.dir), os.RemoveAll(l.SocketDir)); err != nil {
		return fmt.Errorf("lab: remove the cluster: %w", err)
	}
	return nil
}
