package executors_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// elsewhere hides that a runner is this host's, so that pg_waldump is used.
type elsewhere struct{ executors.Runner }

// records writes WAL of every shape: small ones, ones over many pages, ones
// over segments, and switches.
func (s solo) records(seed uint64) []events.LSN {
	s.t.Helper()
	c := s.connect()
	r := rand.New(rand.NewPCG(seed, 1))
	var seen []events.LSN
	for i := range 60 {
		sql := fmt.Sprintf("select pg_logical_emit_message(true, 'test', repeat('x', %d))", r.IntN(200))
		switch {
		case i%20 == 18:
			sql = "select pg_switch_wal()"
		case i%15 == 14:
			sql = fmt.Sprintf("select pg_logical_emit_message(true, 'test', repeat('x', %d))", 1200000+r.IntN(100000))
		case i%5 == 4:
			sql = fmt.Sprintf("select pg_logical_emit_message(true, 'test', repeat('x', %d))", 8000+r.IntN(40000))
		}
		if _, err := c.Exec(s.t.Context(), sql); err != nil {
			s.t.Fatal(err)
		}
		var at string
		if err := c.QueryRow(s.t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&at); err != nil {
			s.t.Fatal(err)
		}
		lsn, err := events.ParseLSN(at)
		if err != nil {
			s.t.Fatal(err)
		}
		seen = append(seen, lsn)
	}
	return seen
}

// endsAgree checks the end from many places, by both readers.
func (s solo) endsAgree(froms []events.LSN, timeline uint32) events.LSN {
	s.t.Helper()
	remote := s.Postgres
	remote.Runner = elsewhere{s.Runner}
	want, err := executors.EndOfWAL(s.t.Context(), remote, 0, timeline)
	if err != nil {
		s.t.Fatal(err)
	}
	for i, from := range froms {
		end, err := executors.EndOfWAL(s.t.Context(), s.Postgres, from, timeline)
		if err != nil || end != want {
			s.t.Errorf("from %s the end is %s, %v; pg_waldump from the redo position says %s", from, end, err, want)
		}
		native, err := executors.ScanWAL(s.t.Context(), s.DataDir, from, timeline)
		if err != nil || native != want {
			s.t.Errorf("the native reader says %s, %v from %s; pg_waldump from the redo position says %s", native, err, from, want)
		}
		if i%25 != 1 {
			continue // starting a program for each is slow
		}
		if end, err = executors.EndOfWAL(s.t.Context(), remote, from, timeline); err != nil || end != want {
			s.t.Errorf("pg_waldump from %s says %s, %v; from the redo position %s", from, end, err, want)
		}
	}
	return want
}

func TestEndOfWALIsWhatRecoveryReplays(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	seen := s.records(1)
	s.crash()
	last := seen[len(seen)-1]
	froms := append(seen, last-1, last-7, last-100) // within records too
	end := s.endsAgree(froms, 1)
	if end < last {
		t.Fatalf("the end is %s, before what was flushed, %s", end, last)
	}
	s.up(true)
	if replayed := s.lsn("pg_last_wal_replay_lsn()"); replayed != end {
		t.Fatalf("recovery replayed up to %s, expected the end %s", replayed, end)
	}
	// What the disk does not hold is not the end, wherever the caller began.
	s.crash()
	for _, from := range []events.LSN{end + 1, end + 1<<13, end + 1<<20, end + 1<<30, 1} {
		if got, err := executors.EndOfWAL(t.Context(), s.Postgres, from, 1); err != nil || got != end {
			t.Errorf("from %s, which is not in this WAL: %s, %v; expected %s", from, got, err, end)
		}
	}
}

func TestEndOfWALOnANewTimeline(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	before := s.records(2)
	s.crash()
	s.up(true)
	s.exec("select pg_promote(true)")
	after := s.records(3)
	d := s.dead(before[len(before)-1])
	if d.Timeline != 2 || d.EndLSN < after[len(after)-1] {
		t.Fatalf("timeline %d, end %s; expected timeline 2 and at least %s", d.Timeline, d.EndLSN, after[len(after)-1])
	}
	c, err := executors.ReadControl(t.Context(), s.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range append(before, after...) {
		end, err := executors.ScanWAL(t.Context(), s.DataDir, from, 2)
		if err != nil || end != d.EndLSN {
			t.Errorf("from %s: %s, %v; expected %s", from, end, err, d.EndLSN)
		}
	}
	if end, err := executors.EndOfWAL(t.Context(), s.Postgres, 0, c.LastTimeline()); err != nil || end != d.EndLSN {
		t.Errorf("from the redo position %s: %s, %v; expected %s", c.Redo, end, err, d.EndLSN)
	}
	s.up(true)
	if replayed := s.lsn("pg_last_wal_replay_lsn()"); replayed != d.EndLSN {
		t.Fatalf("recovery replayed up to %s, expected the end %s", replayed, d.EndLSN)
	}
}

// pg_waldump waits 5 s for a segment that does not exist yet; the native reader
// and recovery know that the WAL may end with a segment.
func TestWALThatEndsWithASegment(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	seen := s.records(6)
	s.exec("select pg_switch_wal()")
	s.crash()
	for _, from := range append(seen, 0) {
		end, err := executors.EndOfWAL(t.Context(), s.Postgres, from, 1)
		if err != nil || uint64(end)%(1<<20) != 0 || end <= seen[len(seen)-1] {
			t.Fatalf("from %s: %s, %v; expected the end of the last segment, behind %s", from, end, err, seen[len(seen)-1])
		}
	}
	end, _ := executors.EndOfWAL(t.Context(), s.Postgres, 0, 1)
	s.up(true)
	if replayed := s.lsn("pg_last_wal_replay_lsn()"); replayed != end {
		t.Fatalf("recovery replayed up to %s, expected the end %s", replayed, end)
	}
}

// A record whose end never reached the disk is given up by the next start, and
// the WAL goes on in the middle of it.
func TestWALGoesOnOverATornRecord(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	s.exec("checkpoint")
	from := s.lsn("pg_current_wal_flush_lsn()")
	s.exec("select pg_logical_emit_message(false, 'test', repeat('x', 30000)); select pg_switch_wal()")
	s.crash()
	torn := from + 20000 // within the record, two pages on
	name := filepath.Join(s.DataDir, "pg_wal", fmt.Sprintf("%08X%08X%08X", 1, uint64(torn)>>32, uint64(torn)>>20&0xfff))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[int(torn)&(1<<20-1)&^8191:])
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.up(false)
	seen := s.records(7)
	s.crash()
	if log, err := os.ReadFile(s.ServerLog()); err != nil || !bytes.Contains(log, []byte("there is no contrecord flag")) && !bytes.Contains(log, []byte("invalid magic number 0000")) {
		t.Errorf("the server's log does not tell of a torn record, %v:\n%s", err, log)
	}
	if end := s.endsAgree(append([]events.LSN{from + 1}, seen...), 1); end < seen[len(seen)-1] {
		t.Errorf("the end is %s, before %s", end, seen[len(seen)-1])
	}
}

// A byte that has changed, or a page that never reached the disk, ends the WAL
// for both readers at the same record.
func TestDamageEndsTheWAL(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	seen := s.records(4)
	s.crash()
	whole := s.endsAgree(nil, 1)
	r := rand.New(rand.NewPCG(5, 5))
	for i := range 12 {
		target := seen[20+r.IntN(30)] - events.LSN(r.IntN(300)) - 8
		for target&(1<<20-1) < 8192 { // pg_waldump needs every first page: it asks any of them for the segment size
			target += 8192
		}
		name := filepath.Join(s.DataDir, "pg_wal", fmt.Sprintf("%08X%08X%08X", 1, uint64(target)>>32, uint64(target)>>20&0xfff))
		old, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		damaged := bytes.Clone(old)
		at := int(target) & (1<<20 - 1)
		what := "a changed byte"
		if i%3 == 0 {
			what = "a page of zeroes"
			clear(damaged[at&^8191 : at&^8191+8192])
		} else {
			damaged[at] ^= 0x40
		}
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if end := s.endsAgree([]events.LSN{seen[0], seen[1]}, 1); end > target && end != whole {
			t.Errorf("%s at %s: the end is %s, expected it before the damage", what, target, end)
		}
		if err := os.WriteFile(name, old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEndOfWALNamesWhatIsMissing(t *testing.T) {
	s := newSolo(t)
	if _, err := executors.EndOfWAL(t.Context(), s.Postgres, 0, 7); err == nil || !strings.Contains(err.Error(), "timeline 7") {
		t.Errorf("a timeline that does not exist gave %v, expected an error that names it", err)
	}
	s.DataDir = t.TempDir()
	if _, err := executors.EndOfWAL(t.Context(), s.Postgres, 0, 1); err == nil || !strings.Contains(err.Error(), "PG_VERSION") {
		t.Errorf("an empty directory gave %v, expected an error that names PG_VERSION", err)
	}
}

func TestParseWaldump(t *testing.T) {
	const line = "rmgr: Transaction len (rec/tot):     46/    46, tx:        757, lsn: 0/01A00F68, prev 0/01A00F30, desc: COMMIT 2026-11-22 16:00:00.000000 UTC\n"
	for _, c := range []struct {
		name, stdout, stderr string
		want                 events.LSN
	}{
		{"stop named", line, "pg_waldump: error: error in WAL record at 0/1A00F68: invalid record length at 0/1A00F98: wanted 24, got 0", 0x1A00F98},
		{"stop named, 16 and later", line, "pg_waldump: error: error in WAL record at 0/1A00F68: invalid record length at 0/1A00F98: expected at least 24, got 0", 0x1A00F98},
		{"stop not named", line, "pg_waldump: error: could not find file", 0x1A00F98},
		{"over a page", strings.Replace(line, "0/01A00F68", "0/01A01FF0", 1), "invalid magic number 0000", 0x1A02000 + 24 + 32},
		{"up to a page's end", strings.Replace(line, "0/01A00F68", "0/01A01FD0", 1), "invalid record length at 0/1A02018: wanted 24, got 0", 0x1A02000},
		{"over a segment", strings.Replace(line, "0/01A00F68", "0/01AFFFF0", 1), "", 0x1B00000 + 40 + 32},
		{"switch", "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/01A00F68, prev 0/01A00F30, desc: SWITCH \n", "", 0x1B00000},
	} {
		got, ok := executors.ParseWaldump(c.stdout, c.stderr, 1<<20)
		if !ok || got != c.want {
			t.Errorf("%s: %s, %t; expected %s", c.name, got, ok, c.want)
		}
	}
	if got, ok := executors.ParseWaldump("", "pg_waldump: error: could not find a valid record after 0/1A00F68", 1<<20); ok {
		t.Errorf("without any record the end is %s, expected none", got)
	}
}
