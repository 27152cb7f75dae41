package executors

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/interrex-ha/interrex/events"
)

// The ways in which a node comes back, the cheapest first.
const (
	HowRunning    = "running"    // it was running and only had to be led to the upstream
	HowStart      = "start"      // it was started as a standby
	HowRewind     = "rewind"     // pg_rewind took back what the upstream's history lacks
	HowBaseBackup = "basebackup" // its data directory was made anew
)

// span is one timeline of a history and the WAL that belongs to it.
type span struct {
	timeline   uint32
	begin, end events.LSN
}

// spans lays a history out, oldest first; the last timeline ends at end.
func spans(past []pastTimeline, timeline uint32, end events.LSN) []span {
	var out []span
	var begin events.LSN
	for _, t := range past {
		out = append(out, span{t.Timeline, begin, t.End})
		begin = t.End
	}
	return append(out, span{timeline, begin, end})
}

// verdict says how a node can come back and why.
type verdict struct {
	how string
	why string
	// The newest position that both histories seem to share, and its timeline;
	// whether they do share it is for the WAL itself to show.
	timeline uint32
	common   events.LSN
}

// judge compares a node's history with the upstream's. Equal numbers prove
// little: two nodes may have taken the same timeline number by themselves, so
// that what starts or rewinds has to be confirmed by sameWAL.
func judge(node, up []span) verdict {
	shared := -1
	for i := range min(len(node), len(up)) {
		if node[i].timeline != up[i].timeline || node[i].begin != up[i].begin {
			break
		}
		shared = i
	}
	if shared < 0 {
		return verdict{how: HowBaseBackup, why: fmt.Sprintf("its oldest timeline %d and the upstream's %d are different", node[0].timeline, up[0].timeline)}
	}
	n, u := node[shared], up[shared]
	v := verdict{timeline: n.timeline, common: min(n.end, u.end)}
	nodeLast, upLast := shared == len(node)-1, shared == len(up)-1
	switch {
	case nodeLast && n.end <= u.end:
		v.how, v.why = HowStart, fmt.Sprintf("its WAL ends at %s on timeline %d, within the upstream's history", n.end, n.timeline)
	case nodeLast && upLast:
		v.how, v.why = HowBaseBackup, fmt.Sprintf("its WAL ends at %s on timeline %d, beyond the upstream's %s on the same timeline: they have forked unseen and pg_rewind would find nothing to do", n.end, n.timeline, u.end)
	default:
		v.how, v.why = HowRewind, fmt.Sprintf("its WAL has left the upstream's history at %s on timeline %d", v.common, n.timeline)
	}
	return v
}

const (
	compareBytes = 64 << 10
	compareMin   = 64 // bytes other than 0: fewer prove nothing, a switched segment ends in zeros
)

// sameWAL reports whether the node and the upstream hold the same bytes of WAL
// up to a common position: each record carries the checksum of its content and
// the address of the one before, and the first records of a timeline the time
// of the promotion. It returns an error when one of them no longer has that WAL.
func sameWAL(ctx context.Context, s *source, dataDir string, node, up []span, common events.LSN) (bool, error) {
	at := common
	for tries := 0; tries < 3 && at > 0; tries++ {
		start := (at - 1) &^ events.LSN(s.segment-1)
		from := start
		if at-start > compareBytes && tries == 0 {
			from = (at - compareBytes) &^ (walPage - 1)
		}
		same, proof, err := compareSegment(ctx, s, dataDir, node, up, start, uint64(from-start), uint64(at-from))
		if err != nil || !same || proof {
			return same, err
		}
		at = from // nothing but zeros there: look further back
	}
	return false, fmt.Errorf("there is no WAL before %s to compare", common)
}

// compareSegment looks for the same bytes in any copy of the segment: the copy
// for a newer timeline begins with what the older one held. What the file of an
// older timeline holds beyond its end is no history.
func compareSegment(ctx context.Context, s *source, dataDir string, node, up []span, start events.LSN, offset, length uint64) (same, proof bool, err error) {
	var mine, theirs [][]byte
	end := start + events.LSN(offset+length)
	for i := len(node) - 1; i >= 0 && node[i].end >= end; i-- {
		b, err := readPart(filepath.Join(dataDir, "pg_wal", segmentName(node[i].timeline, start, s.segment)), offset, length)
		if err != nil {
			return false, false, err
		}
		if uint64(len(b)) == length {
			mine = append(mine, b)
		}
	}
	for i := len(up) - 1; i >= 0 && up[i].end >= end; i-- {
		b, err := s.segmentBytes(ctx, segmentName(up[i].timeline, start, s.segment), offset, length)
		if err != nil {
			return false, false, err
		}
		if uint64(len(b)) == length {
			theirs = append(theirs, b)
		}
	}
	if len(mine) == 0 || len(theirs) == 0 {
		return false, false, fmt.Errorf("the segment that holds %s is there on %d of the node's and %d of the upstream's timelines, expected at least one of each", start+events.LSN(offset), len(mine), len(theirs))
	}
	for _, b := range append(slices.Clone(mine), theirs...) {
		blankEmptyPages(b, start+events.LSN(offset))
	}
	for _, a := range mine {
		for _, b := range theirs {
			if bytes.Equal(a, b) {
				return true, len(a)-bytes.Count(a, []byte{0}) >= compareMin, nil
			}
		}
	}
	return false, false, nil
}

// blankEmptyPages makes pages that hold no record all zeros, so that they are
// neither a difference nor a proof. The rest of a switched segment is made of
// such pages, and need not have come to a standby: one that has the record of
// the switch goes on behind it (xlogreader.c). Where nothing has come, the first
// segment of a timeline holds copies of the page on which the timeline began,
// with that page's address (xlog.c, XLogFileCopy).
func blankEmptyPages(b []byte, at events.LSN) {
	const addressAt, header = 8, 40 // xlp_pageaddr; SizeOfXLogLongPHD, the longer one
	for page := range slices.Chunk(b, walPage) {
		stale := len(page) >= header && events.LSN(binary.NativeEndian.Uint64(page[addressAt:])) != at
		size := min(header, len(page))
		if stale || bytes.Count(page[size:], []byte{0}) == len(page)-size {
			clear(page)
		}
		at += walPage
	}
}

func segmentName(timeline uint32, at events.LSN, size uint64) string {
	number, per := uint64(at)/size, (uint64(1)<<32)/size
	return fmt.Sprintf("%08X%08X%08X", timeline, number/per, number%per)
}

// readPart returns nil when there is no such file.
func readPart(path string, offset, length uint64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read WAL: %w", err)
	}
	defer f.Close()
	b := make([]byte, length)
	n, err := f.ReadAt(b, int64(offset))
	if n < len(b) {
		return nil, nil // a segment that is being made
	}
	_ = err // io.EOF at the file's very end
	return b, nil
}

// localHistory reads the history file of a timeline; timeline 1 has none.
func localHistory(dataDir string, timeline uint32) ([]pastTimeline, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "pg_wal", fmt.Sprintf("%08X.history", timeline)))
	if errors.Is(err, fs.ErrNotExist) && timeline == 1 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("timeline history: %w", err)
	}
	return parseHistory(string(b)), nil
}

// newestTimeline is the timeline that the WAL in a stopped data directory ends
// on. Pg_control knows it only as of the last restartpoint; a standby has since
// fetched the histories of newer timelines, with WAL of them.
func newestTimeline(dataDir string, c Control) (uint32, error) {
	newest := c.LastTimeline()
	entries, err := os.ReadDir(filepath.Join(dataDir, "pg_wal"))
	if err != nil {
		return 0, fmt.Errorf("look for WAL: %w", err)
	}
	redo := segmentName(0, c.Redo, uint64(c.Segment))[8:]
	for _, e := range entries {
		var timeline uint32
		if !isSegment(e.Name()) || e.Name()[8:] < redo {
			continue
		}
		if _, err := fmt.Sscanf(e.Name()[:8], "%X", &timeline); err != nil || timeline <= newest {
			continue
		}
		past, err := localHistory(dataDir, timeline)
		if err != nil {
			continue // without its history it cannot be followed either
		}
		for _, t := range past {
			if t.Timeline == c.LastTimeline() {
				newest = timeline
			}
		}
	}
	return newest, nil
}
