package executors

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
)

const (
	walPage         = 8192 // XLOG_BLCKSZ: what every packaged PostgreSQL has
	walShortHeader  = 24   // of a page
	walLongHeader   = 40   // of a segment's first page
	waldumpTimeout  = time.Minute
	waldumpTailKept = 1 << 20 // one line of a commit with many invalidations is long
)

// EndOfWAL returns the end of the valid WAL in the data directory of a stopped
// server: the position behind the last record that crash recovery on the
// timeline given would replay, however it was stopped. From is a position that
// was once seen flushed (0 when none is known); it need not be a record's
// boundary, and only saves time: where reading cannot start there, it starts at
// the redo position of pg_control. A result below from means that from was of
// another history, or that the disk has lost WAL. Of a running server the
// result is a position that was the end at some moment of the call.
//
// On this host the records are read by Interrex itself, and by pg_waldump where
// that does not understand them; elsewhere by pg_waldump.
func EndOfWAL(ctx context.Context, p Postgres, from events.LSN, timeline uint32) (events.LSN, error) {
	read := func(from events.LSN) (events.LSN, error) { return waldumpEnd(ctx, p, pageBefore(from), timeline) }
	here := onThisHost(p.Runner)
	if here {
		read = func(from events.LSN) (events.LSN, error) { return scanWAL(ctx, p.DataDir, from, timeline) }
	}
	if from != 0 {
		end, err := read(from)
		if err == nil || ctx.Err() != nil {
			return end, err
		}
	}
	c, err := ReadControl(ctx, p)
	if err != nil {
		return 0, fmt.Errorf("find the end of WAL: %w", err)
	}
	redo := c.Redo + 1 // the record that begins there has to be found
	end, err := read(redo)
	if err != nil && here && ctx.Err() == nil {
		// Last, because pg_waldump can wait 5 s for a segment that does not exist.
		dumped, dumpErr := waldumpEnd(ctx, p, pageBefore(redo), timeline)
		if dumpErr == nil {
			return dumped, nil
		}
		err = errors.Join(err, dumpErr)
	}
	if err != nil {
		return 0, fmt.Errorf("node %s: find the end of WAL from the redo position %s on timeline %d: %w", p.Node, c.Redo, timeline, err)
	}
	return end, nil
}

// pageBefore is the page that holds the byte before a position.
func pageBefore(from events.LSN) events.LSN { return (from - 1) &^ (walPage - 1) }

// onThisHost: a runner that starts lasting processes does so here.
func onThisHost(r Runner) bool {
	_, ok := r.(Spawner)
	return ok
}

// waldumpEnd reads the WAL with pg_waldump. It always fails in the end, since
// the WAL ends in something that is no record; what it says then is the end, or
// the last record that it printed is.
func waldumpEnd(ctx context.Context, p Postgres, start events.LSN, timeline uint32) (events.LSN, error) {
	segment, err := segmentSize(ctx, p)
	if err != nil {
		return 0, err
	}
	out, err := p.Runner.Run(ctx, Command{
		Path: p.Bin("pg_waldump"),
		Args: []string{"-p", p.DataDir + "/pg_wal", "-t", strconv.FormatUint(uint64(timeline), 10), "-s", start.String()},
		Env:  []string{"LC_ALL=C"}, Timeout: waldumpTimeout, Keep: waldumpTailKept,
	})
	var exit *ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("read the WAL from %s: %w", start, err)
	}
	end, ok := parseWaldump(string(out.Stdout), string(out.Stderr), segment)
	if !ok {
		return 0, fmt.Errorf("pg_waldump found no record from %s on timeline %d: %s", start, timeline, strings.TrimSpace(string(out.Stderr)))
	}
	return end, nil
}

func segmentSize(ctx context.Context, p Postgres) (uint64, error) {
	c, err := ReadControl(ctx, p)
	return uint64(c.Segment), err
}

var (
	// What xlogreader.c says of the place where the next record should begin.
	waldumpStop = regexp.MustCompile(`(?:invalid record length|invalid resource manager ID [0-9]+|record with incorrect prev-link [0-9A-F/]+) at ([0-9A-F]+/[0-9A-F]+)`)
	waldumpLine = regexp.MustCompile(`^rmgr: (\S+)\s+len \(rec/tot\):\s*[0-9]+/\s*([0-9]+),.*?\blsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F/]+, desc: (\S*)`)
)

// parseWaldump returns the end of the last record. At least one record must
// have been printed, otherwise nothing is known of where the WAL begins; the
// last one's line may have lost its beginning, when it was longer than what is
// kept, and then only the reason of the stop can tell.
func parseWaldump(stdout, stderr string, segment uint64) (events.LSN, bool) {
	stdout = strings.TrimRight(stdout, "\n")
	if stdout == "" {
		return 0, false
	}
	end, known := lineEnd(stdout[strings.LastIndexByte(stdout, '\n')+1:], segment)
	m := waldumpStop.FindStringSubmatch(stderr)
	if m == nil {
		return end, known
	}
	stop, err := events.ParseLSN(m[1])
	if err != nil || beforeHeader(stop, segment) < end {
		return end, known
	}
	return beforeHeader(stop, segment), true
}

// lineEnd returns the end of the record that a line describes.
func lineEnd(line string, segment uint64) (events.LSN, bool) {
	m := waldumpLine.FindStringSubmatch(line)
	if m == nil {
		return 0, false
	}
	at, err := events.ParseLSN(m[3])
	length, err2 := strconv.ParseUint(m[2], 10, 32)
	return recordEnd(at, length, segment, m[1] == "XLOG" && m[4] == "SWITCH"), err == nil && err2 == nil
}

// recordEnd walks a record of length bytes over the page headers in its way.
func recordEnd(at events.LSN, length, segment uint64, isSwitch bool) events.LSN {
	left := roundUp(length, 8)
	for {
		room := walPage - uint64(at)%walPage
		if left <= room {
			at += events.LSN(left)
			if isSwitch { // the rest of the segment belongs to it
				return events.LSN(roundUp(uint64(at), segment))
			}
			return at
		}
		left -= room
		at += events.LSN(room)
		at += events.LSN(pageHeader(at, segment))
	}
}

// beforeHeader turns the place of a page's first record into the page's start,
// which is where PostgreSQL says that the record before it ended.
func beforeHeader(at events.LSN, segment uint64) events.LSN {
	page := at &^ (walPage - 1)
	if uint64(at-page) == pageHeader(page, segment) {
		return page
	}
	return at
}

func pageHeader(page events.LSN, segment uint64) uint64 {
	if uint64(page)%segment == 0 {
		return walLongHeader
	}
	return walShortHeader
}

// roundUp returns the next multiple of a power of two.
func roundUp(n, power uint64) uint64 { return (n + power - 1) &^ (power - 1) }
