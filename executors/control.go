package executors

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// controlTimeout bounds pg_controldata, which reads 8 KiB. A disk that hangs
// longer is no disk to fail over from.
const controlTimeout = 10 * time.Second

// ReadControl reads the data directory's pg_control with pg_controldata; of a
// running server it gives the state as of its last change on disk. A checksum
// that does not fit, and a data directory that is none, are errors. Versions
// below 13 are read too: refusing them is the caller's business.
func ReadControl(ctx context.Context, p Postgres) (Control, error) {
	version, err := majorVersion(ctx, p)
	if err != nil {
		return Control{}, err
	}
	out, err := p.Runner.Run(ctx, Command{
		Path: p.Bin("pg_controldata"), Args: []string{"-D", p.DataDir}, Env: []string{"LC_ALL=C"}, Timeout: controlTimeout,
	})
	if err != nil {
		return Control{}, fmt.Errorf("node %s: read pg_control: %w", p.Node, err)
	}
	// Older versions print this warning on stdout, newer ones on stderr.
	if strings.Contains(string(out.Stdout)+string(out.Stderr), "CRC checksum does not match") {
		return Control{}, fmt.Errorf("node %s: the checksum of pg_control in %s does not match: the file is damaged, recover the node from another one", p.Node, p.DataDir)
	}
	c, err := parseControl(string(out.Stdout))
	if err != nil {
		return Control{}, fmt.Errorf("node %s: %w", p.Node, err)
	}
	c.Version = version
	return c, nil
}

func majorVersion(ctx context.Context, p Postgres) (int, error) {
	b, err := p.Runner.ReadFile(ctx, filepath.Join(p.DataDir, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("node %s: %s is no PostgreSQL data directory, it has no file PG_VERSION: check the node's data directory: %w", p.Node, p.DataDir, err)
	}
	if err != nil {
		return 0, fmt.Errorf("node %s: read PG_VERSION: %w", p.Node, err)
	}
	major, _, _ := strings.Cut(strings.TrimSpace(string(b)), ".")
	v, err := strconv.Atoi(major)
	if err != nil {
		return 0, fmt.Errorf("node %s: PG_VERSION in %s holds %q, expected a number like 15", p.Node, p.DataDir, b)
	}
	return v, nil
}

// parseControl reads "name: value" lines as pg_controldata prints them under
// LC_ALL=C.
func parseControl(text string) (Control, error) {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			values[name] = strings.TrimSpace(value)
		}
	}
	var errs []error
	get := func(name string) string {
		v, ok := values[name]
		if !ok {
			errs = append(errs, fmt.Errorf("pg_controldata printed no line %q", name))
		}
		return v
	}
	lsn := func(name string) events.LSN {
		v, err := events.ParseLSN(get(name))
		errs = append(errs, err)
		return v
	}
	number := func(name string) uint32 {
		v, err := strconv.ParseUint(get(name), 10, 32)
		if err != nil {
			errs = append(errs, fmt.Errorf("pg_controldata's line %q is no number: %w", name, err))
		}
		return uint32(v)
	}
	c := Control{
		State:       get("Database cluster state"),
		SystemID:    get("Database system identifier"),
		Timeline:    number("Latest checkpoint's TimeLineID"),
		Checkpoint:  lsn("Latest checkpoint location"),
		Redo:        lsn("Latest checkpoint's REDO location"),
		MinRecover:  lsn("Minimum recovery ending location"),
		MinTimeline: number("Min recovery ending loc's timeline"),
		Checksums:   number("Data page checksum version") != 0,
		WALHints:    get("wal_log_hints setting") == "on",
		Segment:     number("Bytes per WAL segment"),
	}
	return c, errors.Join(errs...)
}

// LastTimeline is the timeline that crash recovery would end on: the
// checkpoint's, or that of the promotion which has had no checkpoint yet.
func (c Control) LastTimeline() uint32 { return max(c.Timeline, c.MinTimeline) }
