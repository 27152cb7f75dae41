package executors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// walMagics are the page magics of the versions whose format this reader knows.
var walMagics = map[string]uint16{"13": 0xd106, "14": 0xd10d, "15": 0xd110, "16": 0xd113, "17": 0xd116, "18": 0xd118}

// wal reads pages of a pg_wal directory along one timeline and its ancestors.
type wal struct {
	dir     string
	magic   uint16
	segment uint64 // bytes
	line    []ancestor
	file    *os.File
	number  uint64 // of the segment that is open
	chunk   []byte // what was read last
	chunkAt events.LSN
	joined  []byte // space for records of several pages
}

// ancestor is one timeline of the history: it begins where it left its parent.
type ancestor struct {
	timeline uint32
	begin    events.LSN
}

// The first read is small, because the end mostly lies near the last position
// that was sampled; further ones are large.
const (
	firstChunk = 8 * walPage
	nextChunk  = 128 * walPage
)

func openWAL(dataDir string, timeline uint32) (*wal, error) {
	version, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return nil, fmt.Errorf("read PG_VERSION: %w", err)
	}
	magic, ok := walMagics[strings.TrimSpace(string(version))]
	if !ok {
		return nil, fmt.Errorf("the WAL format of PostgreSQL %q is not known, expected 13 to 18", strings.TrimSpace(string(version)))
	}
	w := &wal{dir: filepath.Join(dataDir, "pg_wal"), magic: magic}
	if w.segment, err = w.segmentOnDisk(); err != nil {
		return nil, err
	}
	w.line, err = w.history(timeline)
	return w, err
}

func (w *wal) close() {
	if w.file != nil {
		_ = w.file.Close() // only read
	}
}

// segmentOnDisk takes the segment size from a segment's length: PostgreSQL gives
// a segment its name only when it has its full size. The long header of each
// segment that is read has to say the same.
func (w *wal) segmentOnDisk() (uint64, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return 0, fmt.Errorf("look for WAL segments: %w", err)
	}
	for _, e := range entries {
		if !isSegment(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return 0, fmt.Errorf("look for WAL segments: %w", err)
		}
		size := uint64(info.Size())
		if size < 1<<20 || size > 1<<30 || size&(size-1) != 0 {
			return 0, fmt.Errorf("the WAL segment %s/%s has %d bytes, expected a power of two from 1 MiB to 1 GiB", w.dir, e.Name(), size)
		}
		return size, nil
	}
	return 0, fmt.Errorf("%s holds no WAL segment", w.dir)
}

// isSegment: 24 upper-case hexadecimal digits.
func isSegment(name string) bool {
	return len(name) == 24 && strings.Trim(name, "0123456789ABCDEF") == ""
}

// history returns the timeline and its ancestors, newest first.
func (w *wal) history(timeline uint32) ([]ancestor, error) {
	line := []ancestor{{timeline: timeline}}
	name := filepath.Join(w.dir, fmt.Sprintf("%08X.history", timeline))
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return line, nil // timeline 1 has none; others then have no known ancestors
	}
	if err != nil {
		return nil, fmt.Errorf("read timeline history: %w", err)
	}
	var parents []ancestor // oldest first; begin holds the end for the moment
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		id, err := strconv.ParseUint(f[0], 10, 32)
		end, err2 := events.ParseLSN(f[1])
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("timeline history %s: line %q: %w", name, l, err)
		}
		parents = append(parents, ancestor{uint32(id), end})
	}
	for i := len(parents) - 1; i >= 0; i-- {
		line[len(line)-1].begin = parents[i].begin
		line = append(line, ancestor{timeline: parents[i].timeline})
	}
	return line, nil
}

// page returns the page at an address, its header checked, until the next call.
// A page that is missing or was not written for this place is errWALEnds.
func (w *wal) page(at events.LSN) ([]byte, error) {
	if at < w.chunkAt || at >= w.chunkAt+events.LSN(len(w.chunk)) {
		if err := w.read(at); err != nil {
			return nil, err
		}
	}
	b := w.chunk[at-w.chunkAt:][:walPage]
	long := uint64(at)%w.segment == 0
	switch {
	case binary.NativeEndian.Uint16(b) != w.magic,
		events.LSN(binary.NativeEndian.Uint64(b[8:])) != at, // a recycled segment has its old address
		binary.NativeEndian.Uint32(b[4:]) > w.line[0].timeline,
		long != (pageFlags(b)&pageLong != 0):
		return nil, errWALEnds
	case long && (uint64(binary.NativeEndian.Uint32(b[32:])) != w.segment || binary.NativeEndian.Uint32(b[36:]) != walPage):
		return nil, fmt.Errorf("the WAL segment at %s is made of other sizes than %d-byte segments with %d-byte pages", at, w.segment, walPage)
	}
	return b, nil
}

// read fills the chunk with whole pages from an address on.
func (w *wal) read(at events.LSN) error {
	number := uint64(at) / w.segment
	if w.file == nil || number != w.number {
		if err := w.open(number); err != nil {
			return err
		}
	}
	size := uint64(nextChunk)
	if w.chunk == nil {
		size = firstChunk
		w.chunk = make([]byte, 0, nextChunk)
	}
	offset := uint64(at) % w.segment
	size = min(size, w.segment-offset)
	n, err := w.file.ReadAt(w.chunk[:size], int64(offset))
	if err != nil && !errors.Is(err, io.EOF) {
		w.chunk = w.chunk[:0]
		return fmt.Errorf("read WAL: %w", err)
	}
	w.chunk, w.chunkAt = w.chunk[:n&^(walPage-1)], at
	if len(w.chunk) == 0 {
		return errWALEnds
	}
	return nil
}

// open opens a segment by the newest timeline that had begun by its end, as
// recovery does: that file holds the ancestor's records as well.
func (w *wal) open(number uint64) error {
	w.close()
	w.file = nil
	for _, a := range w.line {
		if uint64(a.begin)/w.segment > number {
			continue
		}
		perHigh := uint64(1<<32) / w.segment
		name := fmt.Sprintf("%08X%08X%08X", a.timeline, number/perHigh, number%perHigh)
		f, err := os.Open(filepath.Join(w.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return errWALEnds
		}
		if err != nil {
			return fmt.Errorf("open WAL segment: %w", err)
		}
		w.file, w.number = f, number
		return nil
	}
	return errWALEnds
}
