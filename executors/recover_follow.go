package executors

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// follow carries a verdict out, and the next dearer way where one fails.
func (r *recovery) follow(v verdict) error {
	r.because("%s", v.why)
	if r.o.How == HowStart && v.how != HowStart {
		return fmt.Errorf("it cannot simply be started: %s; recover it (interrex recover %s)", v.why, r.p.Node)
	}
	if v.how == HowStart {
		err := r.startAsItIs()
		if r.ended(err) || r.o.How == HowStart {
			return err
		}
		r.because("started as it was it did not stream: %v", err)
		v.how = HowBaseBackup
		if c, cerr := ReadControl(r.ctx, r.p); cerr == nil && errors.Is(err, ErrDiverged) {
			if no, err := r.noRewind(c); err == nil && no == "" {
				v.how = HowRewind
			}
		}
	}
	if v.how == HowRewind {
		err := r.rewind()
		if r.ended(err) {
			return err
		}
		r.because("the rewind failed: %v", err)
	}
	return r.copyAnew("")
}

// ended: with success, or so that no dearer way may be tried. While another
// program has the node's port no data directory can be started.
func (r *recovery) ended(err error) bool {
	var stop *journalError
	return err == nil || r.ctx.Err() != nil || errors.As(err, &stop) || errors.Is(err, syscall.EADDRINUSE)
}

func (r *recovery) startAsItIs() error {
	if err := r.step("configure"); err != nil {
		return err
	}
	if err := r.provide(); err != nil {
		return err
	}
	if err := configureStandby(r.ctx, r.p, r.at.data, followSettings(r.p, r.up)); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	r.result.How = HowStart
	return nil
}

// reconnect replaces a connection to the upstream that was lost while something
// long was done: servers and firewalls end idle ones.
func (r *recovery) reconnect() error {
	limited, cancel := context.WithTimeout(r.ctx, connectTimeout)
	defer cancel()
	if r.src.conn.Ping(limited) == nil {
		return nil
	}
	closeConn(r.src.conn)
	was := r.src.systemID
	src, err := openSource(r.ctx, r.o.Connect)
	if err != nil {
		return err // r.src keeps the closed connection: each use of it fails
	}
	r.src = src
	if src.systemID != was {
		return fmt.Errorf("%w: the upstream at %s:%d had the system identifier %s and now has %s", ErrOtherCluster, r.up.Host, r.up.Port, was, src.systemID)
	}
	return nil
}

// provide makes what the standby needs for its upstream: its password and a
// slot.
func (r *recovery) provide() error {
	if err := r.reconnect(); err != nil {
		return err
	}
	up, err := providePassfile(r.ctx, r.p, r.up)
	if err != nil {
		return err
	}
	r.up = up
	return r.src.claimSlot(r.ctx, r.up.Slot)
}

// start starts the standby and sees it stream. When it does not, it is proved
// dead again, so that the next way finds a directory at rest.
func (r *recovery) start() error {
	if err := r.step("start"); err != nil {
		return err
	}
	mark := logLength(r.p.ServerLog())
	_, err := Start(r.ctx, r.p, StartOptions{Standby: true})
	if err == nil {
		err = r.accepting(mark)
	}
	if err == nil {
		err = r.streaming(mark)
	}
	if err == nil {
		r.dropPrimarysSlots()
	}
	if err == nil || r.ctx.Err() != nil {
		return err
	}
	if _, dead := endForGood(r.ctx, r.p); dead != nil {
		return errors.Join(err, dead)
	}
	return err
}

// dropPrimarysSlots drops the slots that the node kept for others while it was
// primary: on a standby nobody moves them on, and they would keep WAL until its
// disk is full. When it becomes primary again, Settle makes them anew. That one
// could not be dropped is no reason to stop a standby that streams.
func (r *recovery) dropPrimarysSlots() {
	err := withConn(r.ctx, nil, r.p, func(c *pgx.Conn) error {
		_, err := c.Exec(r.ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
			WHERE starts_with(slot_name, 'interrex_') AND slot_type = 'physical' AND NOT active`)
		return err
	})
	if err != nil {
		r.because("slots of its time as primary are still there: %v", err)
	}
}

// accepting waits, but not longer than there is hope: a standby that lacks WAL
// which the upstream has removed would never become consistent.
func (r *recovery) accepting(mark int64) error {
	limited, cancel := context.WithTimeout(r.ctx, r.o.AcceptWithin)
	defer cancel()
	watched, end := context.WithCancelCause(limited)
	defer end(nil)
	go func() {
		err := await(watched, 200*time.Millisecond, func() (bool, error) {
			return false, hopeless(complaints(watched, r.p, mark))
		})
		end(err)
	}()
	return WaitAccepting(watched, r.p)
}

// streaming gives the standby time while it still replays what it has.
func (r *recovery) streaming(mark int64) error {
	conn, err := Connect(r.ctx, r.p)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	for replayed := ""; ; {
		limited, cancel := context.WithTimeout(r.ctx, r.o.StreamWithin)
		err = waitStreamingFrom(limited, conn, r.p, r.up, mark)
		over := limited.Err() != nil
		cancel()
		if err == nil || !over || r.ctx.Err() != nil {
			return err
		}
		var now string
		if qerr := withConn(r.ctx, nil, r.p, func(c *pgx.Conn) error {
			return c.QueryRow(r.ctx, "SELECT coalesce(pg_last_wal_replay_lsn()::text, '')").Scan(&now)
		}); qerr != nil || now == replayed {
			return errors.Join(err, qerr)
		}
		replayed = now
	}
}

// swap gives the data directory's name to the complete standby at placeReady;
// what had the name, or was in quarantine, is kept.
func (r *recovery) swap() error {
	ready := r.at.at(placeReady)
	if !exists(filepath.Join(ready, "standby.signal")) {
		return fmt.Errorf("%s has no standby.signal and must not be started; remove it and recover again", ready)
	}
	for _, old := range []string{r.at.data, r.at.at(placeRejoin), r.at.at(placeRecovering)} {
		if !whole(old) {
			continue
		}
		if err := r.step("keep"); err != nil {
			return err
		}
		kept, err := r.keep(old)
		if err != nil {
			return err
		}
		r.result.Kept = kept
	}
	if !r.at.inside && exists(r.at.data) {
		if err := removeEmpty(r.at.data); err != nil {
			return fmt.Errorf("%s is in the way and is no whole data directory; move it aside: %w", r.at.data, err)
		}
	}
	if err := r.step("name"); err != nil {
		return err
	}
	return r.at.bring(r.ctx, ready)
}

// keep renames what is replaced; even there it can only be started read-only.
func (r *recovery) keep(old string) (string, error) {
	if err := r.p.Runner.WriteFile(r.ctx, filepath.Join(old, "standby.signal"), nil, 0o600); err != nil {
		return "", err
	}
	to := r.at.before(r.o.Decision)
	if old == r.at.data {
		return to, r.at.setAside(r.ctx, to)
	}
	return to, r.p.Runner.Rename(r.ctx, old, to)
}

// forget removes the saved configuration, which is needed no more.
func (r *recovery) forget() error {
	if err := os.RemoveAll(r.at.at(placeConf)); err != nil {
		return fmt.Errorf("remove the saved configuration: %w", err)
	}
	return nil
}
