package executors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The directories of a recovery stand beside the data directory, on the same
// file system, so that a rename puts each in place. Their names are their state:
// what a killed run has left is known by them.
const (
	placeRecovering = "interrex-recovering" // the old directory, whole, while its own crash recovery runs
	placeRejoin     = "interrex-rejoin"     // the old directory since pg_rewind began: damaged
	placeNew        = "interrex-new"        // a base backup that is being made
	placeReady      = "interrex-ready"      // a complete standby that waits for its name
	placeConf       = "interrex-conf"       // the node's own configuration
	placeAdmin      = "interrex-admin.pass" // file: the superuser's password while pg_rewind runs
	placeDirs       = "interrex-new.dirs"   // file: directories outside that belong to placeNew
	placeBefore     = "before-"             // with the decision: what a base backup replaced
)

// places knows where those directories are. Where the data directory cannot be
// renamed (it is a mount point, or its parent is not ours) they are hidden
// folders in it, and its entries are moved one by one: "global" leaves first and
// comes last, PG_VERSION comes first and leaves last, so that what is incomplete
// cannot be started and the next run can see which way things were going.
type places struct {
	r      Runner
	data   string // the real directory: links are followed
	inside bool
}

func findPlaces(p Postgres) (places, error) {
	data, err := followLinks(p.DataDir)
	if err != nil {
		return places{}, err
	}
	l := places{r: p.Runner, data: data}
	l.inside = isMountPoint(data) || exists(data) && unix.Access(filepath.Dir(data), unix.W_OK) != nil
	return l, nil
}

// followLinks resolves a path whose last element may be a link to a directory
// that is not there at the moment.
func followLinks(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the data directory %q is not an absolute path; give it as one", path)
	}
	for range 16 {
		to, err := os.Readlink(path)
		if err != nil {
			parent, err := filepath.EvalSymlinks(filepath.Dir(path))
			return filepath.Join(parent, filepath.Base(path)), err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = filepath.Clean(to)
	}
	return "", fmt.Errorf("the data directory %s is a circle of links", path)
}

// isMountPoint asks the kernel's table, and where there is none compares the
// devices.
func isMountPoint(dir string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil {
		escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(dir)
		for line := range bytes.Lines(table) {
			if f := strings.Fields(string(line)); len(f) > 4 && f[4] == escaped {
				return true
			}
		}
		return false
	}
	var here, parent unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && here.Dev != parent.Dev
}

func (l places) at(name string) string {
	if l.inside {
		return filepath.Join(l.data, "."+name)
	}
	return l.data + "." + name
}

// before is a free name for what is replaced.
func (l places) before(decision uint64) string {
	base := placeBefore + strconv.FormatUint(decision, 10)
	name := l.at(base)
	for n := 2; exists(name); n++ {
		name = l.at(base + "-" + strconv.Itoa(n))
	}
	return name
}

// ours reports whether an entry of the data directory belongs to a recovery, or
// to the file system, and not to PostgreSQL.
func ours(name string) bool {
	return strings.HasPrefix(name, ".interrex-") || strings.HasPrefix(name, "."+placeBefore) || name == "lost+found"
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// whole reports whether a directory holds a data directory from which nothing
// was taken.
func whole(dir string) bool {
	return exists(filepath.Join(dir, "PG_VERSION")) && exists(filepath.Join(dir, "global"))
}

// setAside takes the data directory's name away from its content.
func (l places) setAside(ctx context.Context, to string) error {
	if !l.inside {
		err := l.r.Rename(ctx, l.data, to)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EXDEV) {
			return fmt.Errorf("%s cannot be renamed (a mount point that is not in /proc/self/mountinfo?): %w", l.data, err)
		}
		return err
	}
	return l.moveEntries(ctx, l.data, to, func(a, b string) int { return outRank(a) - outRank(b) })
}

// bring gives the name to what stands at from.
func (l places) bring(ctx context.Context, from string) error {
	if !l.inside {
		return l.r.Rename(ctx, from, l.data)
	}
	if err := l.moveEntries(ctx, from, l.data, func(a, b string) int { return outRank(b) - outRank(a) }); err != nil {
		return err
	}
	return removeEmpty(from)
}

func outRank(name string) int {
	switch name {
	case "global":
		return -1
	case "PG_VERSION":
		return 1
	}
	return 0
}

func (l places) moveEntries(ctx context.Context, from, to string, order func(a, b string) int) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", to, err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("list %s: %w", from, err)
	}
	var names []string
	for _, e := range entries {
		if !ours(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.SortStableFunc(names, order)
	for _, name := range names {
		if err := l.r.Rename(ctx, filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the empty directory: %w", err)
	}
	return nil
}

// finishMoves completes a move of entries that a killed run left half done. The
// folder that has "global" but not PG_VERSION is the one; what remains in the
// data directory belongs to it, whichever way it was going.
func (l places) finishMoves(ctx context.Context) error {
	if !l.inside {
		return nil
	}
	entries, err := os.ReadDir(l.data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", l.data, err)
	}
	for _, e := range entries {
		dir := filepath.Join(l.data, e.Name())
		if !e.IsDir() || !ours(e.Name()) || e.Name() == "lost+found" {
			continue
		}
		if exists(filepath.Join(dir, "global")) && !exists(filepath.Join(dir, "PG_VERSION")) && e.Name() != "."+placeNew {
			return l.setAside(ctx, dir)
		}
		_ = os.Remove(dir) // succeeds only on an empty one: a move that had not begun or was complete
	}
	return nil
}
