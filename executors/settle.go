package executors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
)

// TermRow is one row of interrex.term: who was primary, by which decision.
type TermRow struct {
	Term     uint64
	Node     string
	Decision uint64
	At       time.Time
}

// Settle makes a new primary ready for its standbys, the urgent things first:
// the term's row, the slots, and last a checkpoint, without which pg_rewind
// before version 16 takes the old timeline for the current one. Everything
// may be done again. Slots are the names that the other nodes need; their own
// node's slot is dropped when nobody uses it. A standby is refused. Conn may be
// nil. The checkpoint takes as long as the disk needs; only ctx bounds it.
func Settle(ctx context.Context, conn *pgx.Conn, p Postgres, term, decision uint64, slots []string) error {
	return withConn(ctx, conn, p, func(conn *pgx.Conn) error {
		if err := WriteTerm(ctx, conn, p, term, decision); err != nil {
			return err
		}
		if err := EnsureSlots(ctx, conn, p, slots); err != nil {
			return err
		}
		return Checkpoint(ctx, conn, p)
	})
}

const termTable = `CREATE SCHEMA IF NOT EXISTS interrex;
CREATE TABLE IF NOT EXISTS interrex.term (term bigint PRIMARY KEY, node text NOT NULL, decision bigint NOT NULL, at timestamptz NOT NULL DEFAULT now())`

// WriteTerm records in the database itself who is primary of a term, so that
// two histories that look alike can be told apart. A row that is there already
// and says otherwise is an error: this database has followed another history.
// The commit does not wait for standbys, which may be dead.
func WriteTerm(ctx context.Context, conn *pgx.Conn, p Postgres, term, decision uint64) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local; SET LOCAL client_min_messages = warning; "+termTable); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO interrex.term (term, node, decision) VALUES ($1, $2, $3) ON CONFLICT (term) DO NOTHING", term, p.Node, decision)
		if err != nil {
			return err
		}
		var node string
		var by uint64
		if err := tx.QueryRow(ctx, "SELECT node, decision FROM interrex.term WHERE term = $1", term).Scan(&node, &by); err != nil {
			return err
		}
		if node != p.Node || by != decision {
			return fmt.Errorf("the row is there and names node %s by decision %d: this database has followed another history", node, by)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("node %s: write the row of term %d, decision %d: %w", p.Node, term, decision, err)
	}
	return nil
}

// TermRows returns the rows of interrex.term, oldest term first; none when
// the table does not exist.
func TermRows(ctx context.Context, conn *pgx.Conn) ([]TermRow, error) {
	rows, err := conn.Query(ctx, "SELECT term, node, decision, at FROM interrex.term ORDER BY term")
	var out []TermRow
	if err == nil {
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[TermRow])
	}
	if s := sqlState(err); s == "42P01" || s == "3F000" { // no such table, no such schema
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read interrex.term: %w", err)
	}
	return out, nil
}

// EnsureSlots creates the physical replication slots that are missing, with
// their WAL reserved at once, and replaces those that have lost it. The node's
// own slot, left over from the time when it was a standby, would keep WAL for
// ever: it is dropped when it is not in use.
func EnsureSlots(ctx context.Context, conn *pgx.Conn, p Postgres, slots []string) error {
	for _, name := range slots {
		if err := ensureSlot(ctx, conn, name); err != nil {
			return fmt.Errorf("node %s: slot %s: %w", p.Node, name, err)
		}
	}
	own := events.SlotName(p.Node)
	_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active", own)
	if err != nil {
		return fmt.Errorf("node %s: drop its own slot %s: %w", p.Node, own, err)
	}
	return nil
}

func ensureSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	var kind, wal string
	var active bool
	err := conn.QueryRow(ctx, "SELECT slot_type, coalesce(wal_status, ''), active FROM pg_replication_slots WHERE slot_name = $1", name).Scan(&kind, &wal, &active)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return err
	case kind != "physical":
		return fmt.Errorf("there is a %s slot of this name, expected a physical one; drop or rename it", kind)
	case wal != "lost" || active:
		return nil
	default:
		if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", name)
	if sqlState(err) == stateDuplicateObject {
		return nil // somebody was faster
	}
	return err
}

// Checkpoint has the server write a checkpoint and waits for its end.
func Checkpoint(ctx context.Context, conn *pgx.Conn, p Postgres) error {
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("node %s: checkpoint: %w", p.Node, err)
	}
	return nil
}
