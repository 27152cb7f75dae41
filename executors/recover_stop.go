package executors

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// stopAndJudge proves the node's server dead, which also writes standby.signal,
// and compares the WAL that it has with the upstream's.
func (r *recovery) stopAndJudge() (verdict, error) {
	if err := r.step("stop"); err != nil {
		return verdict{}, err
	}
	if err := r.halt(); err != nil {
		return verdict{}, err
	}
	c, err := ReadControl(r.ctx, r.p)
	var timeline uint32
	if err == nil {
		timeline, err = newestTimeline(r.p.DataDir, c)
	}
	var end events.LSN
	if err == nil {
		end, err = EndOfWAL(r.ctx, r.p, c.Checkpoint+1, timeline)
	}
	if err != nil {
		return verdict{how: HowBaseBackup, why: "where its WAL ends cannot be read: " + err.Error()}, r.ctx.Err()
	}
	v, err := r.compare(timeline, end)
	if err != nil {
		return verdict{how: HowBaseBackup, why: "its WAL cannot be compared with the upstream's: " + err.Error()}, r.ctx.Err()
	}
	if v.how == HowRewind {
		no, err := r.noRewind(c)
		if err != nil {
			return verdict{}, err
		}
		if no != "" {
			v.how = HowBaseBackup
			v.why += "; pg_rewind is impossible, because " + no
		}
	}
	return v, nil
}

// noRewind says why pg_rewind cannot work, or must not be tried. A tablespace
// that the node lacks is such a reason: pg_rewind makes a link to the upstream's
// path, and where both live on one host that is the upstream's own directory.
func (r *recovery) noRewind(c Control) (string, error) {
	if !c.Checksums && !c.WALHints {
		return "the cluster has neither data checksums nor wal_log_hints", nil
	}
	spaces, err := r.src.tablespaces(r.ctx)
	if err != nil {
		return "", err
	}
	for oid, there := range spaces {
		if !exists(filepath.Join(r.at.data, "pg_tblspc", strconv.FormatUint(uint64(oid), 10))) {
			return fmt.Sprintf("the node has no directory for the upstream's tablespace %d, which is %s there", oid, there), nil
		}
	}
	return "", nil
}

// halt ends the server whichever state it is in; in order when possible, so that
// less WAL has to be replayed. Its lock files go with it: once the directory has
// been replaced or emptied, nothing would tell that the one beside its socket is
// stale, and where its postmaster is still a zombie no server would start again.
func (r *recovery) halt() error {
	limited, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	stopped := Stop(limited, r.p, "fast")
	cancel()
	if _, err := endForGood(r.ctx, r.p); err != nil {
		return errors.Join(err, stopped)
	}
	return clearLock(r.ctx, r.p)
}

// compare judges the histories and then has the WAL itself confirm them.
func (r *recovery) compare(timeline uint32, end events.LSN) (verdict, error) {
	past, err := localHistory(r.p.DataDir, timeline)
	if err != nil {
		return verdict{}, err
	}
	// Read after the node's end, not before: a standby of a busy upstream would
	// seem to be ahead of it.
	if err := r.src.readFlush(r.ctx); err != nil {
		return verdict{}, err
	}
	node, up := spans(past, timeline, end), spans(r.src.history, r.src.timeline, r.src.flush)
	v := judge(node, up)
	if v.how == HowBaseBackup {
		return v, nil
	}
	same, err := sameWAL(r.ctx, &r.src, r.p.DataDir, node, up, v.common)
	if err != nil {
		return v, err
	}
	if !same {
		v.how = HowBaseBackup
		v.why = fmt.Sprintf("its WAL before %s on timeline %d differs from the upstream's, though the timelines have the same numbers: they have forked unseen", v.common, v.timeline)
	}
	return v, nil
}
