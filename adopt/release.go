package adopt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// releaseWait bounds the wait for standbys to stream without their slot: a
// receiver that could not connect tries again after 5 s by default.
const releaseWait = 30 * time.Second

// Released says what Release did, and what it left.
type Released struct {
	Done []string `json:"done"`
	Left []string `json:"left"` // with the way to remove it, where that is safe
}

// Release takes back what taking over changed in the servers, which go on
// working and streaming: on every node that answers, primary_slot_name where it
// is one of Interrex's; then, when the standbys stream without them, the slots
// interrex_NODE, and the schema interrex. primary_conninfo stays: without it the
// standbys would stop. A node that does not answer is left as it is, and named.
//
// Nothing of Interrex may run for the cluster meanwhile; the caller sees to it.
// It may be called again after an error. An error that no single primary
// answers comes before anything is changed.
func Release(ctx context.Context, t Taken) (Released, error) {
	r := release{taken: t}
	defer r.close(ctx)
	if err := r.connect(ctx); err != nil {
		return Released{}, err
	}
	for _, n := range r.nodes {
		if err := r.resetSlotName(ctx, n); err != nil {
			return r.out, fmt.Errorf("release: node %s: %w", n.name, err)
		}
	}
	for _, n := range r.nodes {
		if err := r.streamsWithout(ctx, n); err != nil {
			return r.out, fmt.Errorf("release: node %s: %w; the slots were left, nothing is lost", n.name, err)
		}
	}
	for _, n := range r.nodes {
		if err := r.dropSlots(ctx, n); err != nil {
			return r.out, fmt.Errorf("release: node %s: %w", n.name, err)
		}
	}
	if err := r.dropSchema(ctx); err != nil {
		return r.out, fmt.Errorf("release: node %s: %w", r.primary.name, err)
	}
	r.leftovers()
	return r.out, nil
}

type release struct {
	taken   Taken
	nodes   []*releasing // those that answer
	primary *releasing
	out     Released
}

type releasing struct {
	name     string
	conn     *pgx.Conn
	recovery bool
	waits    bool // its receiver was streaming and has to come back
}

func (r *release) done(format string, args ...any) {
	r.out.Done = append(r.out.Done, fmt.Sprintf(format, args...))
}

func (r *release) left(format string, args ...any) {
	r.out.Left = append(r.out.Left, fmt.Sprintf(format, args...))
}

func (r *release) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, n := range r.nodes {
		_ = n.conn.Close(ctx) // everything is committed
	}
}

func (r *release) connect(ctx context.Context) error {
	var silent error
	for _, n := range r.taken.Nodes {
		conn, err := executors.Connect(ctx, r.taken.Postgres(n.Name))
		if err != nil {
			silent = errors.Join(silent, err)
			r.left("%s does not answer and was left as it is; once it runs: ALTER SYSTEM RESET primary_slot_name; SELECT pg_reload_conf();", n.Name)
			continue
		}
		one := &releasing{name: n.Name, conn: conn}
		r.nodes = append(r.nodes, one)
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&one.recovery); err != nil {
			return fmt.Errorf("release: node %s: %w; nothing was changed", n.Name, err)
		}
		if one.recovery {
			continue
		}
		if r.primary != nil {
			return fmt.Errorf("release: both %s and %s take writes; nothing was changed: stop the one that is not the primary", r.primary.name, n.Name)
		}
		r.primary = one
	}
	if r.primary == nil {
		return errors.Join(errors.New("release: no primary answers, and the slots and the schema are there; nothing was changed: start it, or promote a standby by interrex up"), silent)
	}
	return ctx.Err()
}

// ourSlots are the names of the slots that Interrex made for this cluster.
func (r *release) ourSlots() []string {
	var out []string
	for _, n := range r.taken.Nodes {
		out = append(out, events.SlotName(n.Name))
	}
	return out
}

// resetSlotName works on a former standby too, whose setting would speak again
// when it becomes one.
func (r *release) resetSlotName(ctx context.Context, n *releasing) error {
	var slot string
	err := n.conn.QueryRow(ctx, "SELECT current_setting('primary_slot_name'), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')").Scan(&slot, &n.waits)
	if err != nil {
		return err
	}
	if !slices.Contains(r.ourSlots(), slot) {
		return nil
	}
	for _, sql := range []string{"ALTER SYSTEM RESET primary_slot_name", "SELECT pg_reload_conf()"} {
		if _, err := n.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	r.done("%s: primary_slot_name reset, it was %s", n.name, slot)
	return nil
}

// streamsWithout waits until the standby streams through none of our slots.
func (r *release) streamsWithout(ctx context.Context, n *releasing) error {
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	var setting, slot, status string
	what := func() bool {
		err := n.conn.QueryRow(ctx, `SELECT current_setting('primary_slot_name'), coalesce(max(slot_name), ''), coalesce(max(status), 'no receiver')
			FROM pg_stat_wal_receiver`).Scan(&setting, &slot, &status)
		ours := slices.Contains(r.ourSlots(), setting) || slices.Contains(r.ourSlots(), slot)
		return err == nil && !ours && (!n.waits || status == "streaming")
	}
	if !poll(ctx, what) {
		return fmt.Errorf("it does not stream without its slot after %s (receiver: %s, slot %q, primary_slot_name %q); if the setting still stands in a file, remove it there, then release again", releaseWait, status, slot, setting)
	}
	return nil
}

// dropSlots drops what nobody uses any more; also on standbys that were primary
// once.
func (r *release) dropSlots(ctx context.Context, n *releasing) error {
	for _, slot := range r.ourSlots() {
		wait, cancel := context.WithTimeout(ctx, releaseWait)
		var dropped int
		var last error
		gone := poll(wait, func() bool {
			last = n.conn.QueryRow(wait, `SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots
				WHERE slot_name = $1 AND slot_type = 'physical'`, slot).Scan(&dropped)
			return last == nil
		})
		cancel()
		if !gone {
			return fmt.Errorf("the slot %s could not be dropped: %w; see who uses it in pg_replication_slots, then release again", slot, last)
		}
		if dropped > 0 {
			r.done("%s: slot %s dropped", n.name, slot)
		}
	}
	return nil
}

// dropSchema takes no more than what Interrex put there: what somebody else put
// into the schema makes it an error.
func (r *release) dropSchema(ctx context.Context) error {
	c := r.primary.conn
	var there bool
	if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'interrex')").Scan(&there); err != nil {
		return err
	}
	if !there {
		return nil
	}
	_, err := c.Exec(ctx, "BEGIN; SET LOCAL lock_timeout = '10s'; DROP TABLE IF EXISTS interrex.term; DROP SCHEMA interrex; COMMIT")
	if err != nil {
		_, _ = c.Exec(ctx, "ROLLBACK")
		return fmt.Errorf("drop the schema interrex: %w; the slots are gone already, release again once that is cleared", err)
	}
	r.done("%s: schema interrex dropped", r.primary.name)
	return nil
}

// leftovers names what stays on disk.
func (r *release) leftovers() {
	for _, n := range r.taken.Nodes {
		r.left("%s: primary_conninfo in %s (the standbys stream by it)", n.Name, filepath.Join(n.DataDirectory, "postgresql.auto.conf"))
		for _, pattern := range []string{".before-*", ".interrex-*"} {
			found, _ := filepath.Glob(escapeGlob(n.DataDirectory) + pattern) // the pattern is a good one
			for _, f := range found {
				r.left("%s: %s, kept by a recovery: remove it when nothing of it is needed", n.Name, f)
			}
		}
		if version, name, ok := debian(n.ConfigFile); ok {
			r.left("%s: nothing starts it when the host boots; to have it started: echo auto > /etc/postgresql/%s/%s/start.conf", n.Name, version, name)
		} else if n.Service != "" {
			r.left("%s: nothing starts it when the host boots; to have it started: systemctl enable %s", n.Name, n.Service)
		}
	}
	r.left("the log with its keys and the agents' files in %s: remove the directory when nobody wants to know any more", r.taken.Dir)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// poll asks until it holds or ctx ends.
func poll(ctx context.Context, holds func() bool) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
