package executors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

// Demote takes a primary out of service for a switchover and proves it dead: a
// checkpoint and standby.signal first, while it still serves, so that the
// shutdown is short and the proof after it; then a fast shutdown, which ends
// every session and sends everything to the standbys that are connected; then
// what ProveDead does. The EndLSN of the result is the end of the shutdown
// checkpoint's record: a standby that stands there has received everything. A
// shutdown that does not end in time is not given up but forced, and the result then says that it was not clean. A server that is
// down already is only proved dead. Conn may be nil.
func Demote(ctx context.Context, conn *pgx.Conn, p Postgres) (Dead, error) {
	if e, ok := elsewhere(p); ok {
		done, err := act(ctx, e, Act{Do: "demote", Postgres: p})
		return done.Dead, err
	}
	_, running, err := FindPostmaster(p.DataDir)
	if err != nil {
		return Dead{}, fmt.Errorf("node %s: demote: %w", p.Node, err)
	}
	if !running {
		dead, err := ProveDead(ctx, p, 0)
		if err != nil {
			err = fmt.Errorf("node %s: demote: %w", p.Node, err)
		}
		return dead, err
	}
	from, err := checkpointBeforeStop(ctx, conn, p)
	if err == nil {
		err = forbidWrites(ctx, p)
	}
	if err != nil {
		return Dead{}, fmt.Errorf("node %s: demote: nothing was stopped: %w", p.Node, err)
	}
	_, stopErr := stop(ctx, p, "fast") // what it left is read with the proof
	dead, err := proveDead(ctx, p, from, time.Now())
	if err != nil {
		return dead, fmt.Errorf("node %s: demote: %w", p.Node, errors.Join(stopErr, err))
	}
	return dead, nil
}

// checkpointBeforeStop returns the flushed position as well, from which the end
// of WAL is found quickly.
func checkpointBeforeStop(ctx context.Context, conn *pgx.Conn, p Postgres) (events.LSN, error) {
	var flushed string
	err := withConn(ctx, conn, p, func(conn *pgx.Conn) error {
		var recovering bool
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering); err != nil {
			return err
		}
		if recovering {
			return errors.New("it is a standby: stop it instead")
		}
		if err := Checkpoint(ctx, conn, p); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&flushed)
	})
	if err != nil {
		return 0, err
	}
	return events.ParseLSN(flushed)
}
