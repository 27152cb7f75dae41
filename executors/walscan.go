package executors

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/interrex-ha/interrex/events"
)

// The native reader of WAL: it follows xlogreader.c in what it takes for a
// valid record (length, back link, checksum, continuation over pages), and is
// tested against pg_waldump. It exists because it answers in well under a
// millisecond in the path of a failover.

const (
	walRecordHeader = 24
	walRecordMax    = 1 << 30 // PostgreSQL's own limit is a little lower

	pageContinues  = 0x0001 // XLP_FIRST_IS_CONTRECORD
	pageLong       = 0x0002 // XLP_LONG_HEADER
	pageOverwrites = 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record before was given up
)

// errWALEnds says that there is no valid record where one should begin.
var errWALEnds = errors.New("the WAL ends here")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// scanWAL returns the end of the last valid record, reading from a little before
// from. An error means that it could not even begin.
func scanWAL(ctx context.Context, dataDir string, from events.LSN, timeline uint32) (events.LSN, error) {
	w, err := openWAL(dataDir, timeline)
	if err != nil {
		return 0, err
	}
	defer w.close()
	at, prev, err := w.begin(pageBefore(from))
	if errors.Is(err, errWALEnds) {
		// Behind a segment switch a segment is empty, and so is the page before
		// a position at its end: its first page is not.
		at, prev, err = w.begin((from - 1) &^ events.LSN(w.segment-1))
	}
	if err != nil {
		return 0, fmt.Errorf("no valid WAL record begins shortly before %s: %w", from, err)
	}
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		end, this, err := w.record(at, prev)
		if errors.Is(err, errWALEnds) {
			return at, nil
		}
		if err != nil {
			return 0, err
		}
		at, prev = end, this
	}
}

// begin reads the first record that begins in a page or behind.
func (w *wal) begin(page events.LSN) (end, start events.LSN, err error) {
	at, err := w.first(page)
	if err != nil {
		return 0, 0, err
	}
	return w.record(at, 0)
}

// first finds where the first record of a page begins; a page that only
// continues an older record is passed over.
func (w *wal) first(page events.LSN) (events.LSN, error) {
	for {
		b, err := w.page(page)
		if err != nil {
			return 0, err
		}
		head := pageHeader(page, w.segment)
		if pageFlags(b)&pageContinues == 0 {
			return page + events.LSN(head), nil
		}
		rest := roundUp(uint64(pageRest(b)), 8)
		if rest < walPage-head {
			return page + events.LSN(head+rest), nil
		}
		page += walPage
	}
}

// record reads the record at a position that may be a page's start, checks it
// against the start of the one before (0: not known), and returns its end and
// its own start.
func (w *wal) record(at, prev events.LSN) (end, start events.LSN, err error) {
	page := at &^ (walPage - 1)
	b, err := w.page(page)
	if err != nil {
		return 0, 0, err
	}
	head := events.LSN(pageHeader(page, w.segment))
	if at == page {
		at += head
	}
	if at-page < head || (at-page == head && pageFlags(b)&pageContinues != 0) {
		return 0, 0, errWALEnds // the record that it continues is not the one that we read
	}
	b = b[at-page:]
	length := uint64(binary.NativeEndian.Uint32(b))
	if length < walRecordHeader || length > walRecordMax {
		return 0, 0, errWALEnds
	}
	if length <= uint64(len(b)) {
		if !validRecord(b[:length], at, prev) {
			return 0, 0, errWALEnds
		}
		return w.behind(b, at+events.LSN(roundUp(length, 8))), at, nil
	}
	return w.longRecord(append(w.joined[:0], b...), page, at, prev, length)
}

// longRecord collects a record that goes on over the following pages.
func (w *wal) longRecord(got []byte, page, at, prev events.LSN, length uint64) (end, start events.LSN, err error) {
	defer func() { w.joined = got[:0] }() // used again for the next one
	for uint64(len(got)) < length {
		page += walPage
		b, err := w.page(page)
		if err != nil {
			return 0, 0, err
		}
		if pageFlags(b)&pageOverwrites != 0 {
			return w.record(page, prev) // this record was never finished; the next begins here
		}
		left := length - uint64(len(got))
		if pageFlags(b)&pageContinues == 0 || uint64(pageRest(b)) != left {
			return 0, 0, errWALEnds
		}
		head := pageHeader(page, w.segment)
		n := min(left, walPage-head)
		got = append(got, b[head:head+n]...)
		end = page + events.LSN(head+roundUp(n, 8))
		// Before more is collected for what may be rubbish: its header.
		if len(got) >= walRecordHeader && !validHeader(got, at, prev) {
			return 0, 0, errWALEnds
		}
	}
	if !validRecord(got, at, prev) {
		return 0, 0, errWALEnds
	}
	return w.behind(got, end), at, nil
}

// behind returns the end of a record; that of a segment switch is the segment's.
func (w *wal) behind(record []byte, end events.LSN) events.LSN {
	const rmgrXLOG, infoMask, infoSwitch = 0, 0xf0, 0x40
	if record[17] == rmgrXLOG && record[16]&infoMask == infoSwitch {
		return events.LSN(roundUp(uint64(end), w.segment))
	}
	return end
}

// validHeader checks the back link: the record's neighbour when that is known,
// else anything before it.
func validHeader(record []byte, at, prev events.LSN) bool {
	link := events.LSN(binary.NativeEndian.Uint64(record[8:]))
	if prev == 0 {
		return link < at
	}
	return link == prev
}

// validRecord checks the back link and the checksum, which covers the data
// first and then the header without the checksum itself.
func validRecord(record []byte, at, prev events.LSN) bool {
	if !validHeader(record, at, prev) {
		return false
	}
	crc := crc32.Update(0, castagnoli, record[walRecordHeader:])
	crc = crc32.Update(crc, castagnoli, record[:20])
	return crc == binary.NativeEndian.Uint32(record[20:])
}

func pageFlags(page []byte) uint16 { return binary.NativeEndian.Uint16(page[2:]) }
func pageRest(page []byte) uint32  { return binary.NativeEndian.Uint32(page[16:]) }
