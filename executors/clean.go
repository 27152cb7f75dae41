package executors

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Clean removes what base backups have replaced: the directories
// <PGDATA>.before-*, with the WAL directories outside them that the data
// directory does not use, and the tablespaces' that an earlier recovery made.
// Other tablespace directories stay: nodes of one host may share one, and it may
// be the primary's. It returns what it removed and how many bytes of files that
// were. It refuses when the data directory itself is not whole, because what was
// kept may then be the only copy. Directories that are not named so are never
// touched.
func Clean(ctx context.Context, p Postgres) (removed []string, bytes uint64, err error) {
	if e, ok := elsewhere(p); ok {
		done, err := act(ctx, e, Act{Do: "clean", Postgres: p})
		return done.Removed, done.Bytes, err
	}
	at, err := findPlaces(p)
	if err != nil {
		return nil, 0, fmt.Errorf("node %s: clean: %w", p.Node, err)
	}
	if !whole(at.data) {
		return nil, 0, fmt.Errorf("node %s: clean: %s is no whole data directory, so what was kept may be the only copy; recover the node first", p.Node, at.data)
	}
	kept, err := at.kept()
	if err != nil {
		return nil, 0, fmt.Errorf("node %s: clean: %w", p.Node, err)
	}
	for _, dir := range kept {
		if err := ctx.Err(); err != nil {
			return removed, bytes, fmt.Errorf("node %s: clean: %w", p.Node, context.Cause(ctx))
		}
		size := treeBytes(dir)
		for _, l := range removable(dir, at.data) {
			size += treeBytes(l)
		}
		if err := removeBackup(dir, at.data); err != nil {
			return removed, bytes, fmt.Errorf("node %s: clean: %w", p.Node, err)
		}
		removed, bytes = append(removed, dir), bytes+size
	}
	return removed, bytes, nil
}

// kept lists the directories that were replaced.
func (l places) kept() ([]string, error) {
	dir, prefix := filepath.Split(l.at(placeBefore))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for what was kept: %w", err)
	}
	var out []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if ok && e.IsDir() && rest != "" && strings.Trim(rest, "0123456789-") == "" {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}

// removeBackup removes a data directory that is not in use, and the directories
// outside that are removable.
func removeBackup(dir, inUse string) error {
	if !exists(dir) {
		return nil
	}
	for _, to := range removable(dir, inUse) {
		if err := os.RemoveAll(to); err != nil {
			return fmt.Errorf("remove %s: %w", to, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// removable lists the directories that the links of a data directory lead to and
// that go with it: none that the one in use has links to, and no tablespace that
// was not made by a recovery.
func removable(dir, inUse string) []string {
	used := links(inUse)
	wal, _ := readLink(filepath.Join(dir, "pg_wal"))
	return slices.DeleteFunc(links(dir), func(to string) bool {
		return contains(used, to) || to != wal && !freshSuffix.MatchString(to)
	})
}

// links returns where the links of a data directory lead: pg_wal and the
// tablespaces.
func links(dir string) []string {
	names := []string{filepath.Join(dir, "pg_wal")}
	entries, _ := os.ReadDir(filepath.Join(dir, "pg_tblspc")) // none: no links
	for _, e := range entries {
		names = append(names, filepath.Join(dir, "pg_tblspc", e.Name()))
	}
	var out []string
	for _, name := range names {
		if to, ok := readLink(name); ok {
			out = append(out, to)
		}
	}
	return out
}

// readLink returns where a link leads, as an absolute path; false where there is
// none.
func readLink(name string) (string, bool) {
	to, err := os.Readlink(name)
	if err != nil {
		return "", false
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(name), to)
	}
	return filepath.Clean(to), true
}

// contains: also when one lies in the other.
func contains(used []string, dir string) bool {
	return slices.ContainsFunc(used, func(u string) bool {
		return u == dir || strings.HasPrefix(u, dir+"/") || strings.HasPrefix(dir, u+"/")
	})
}

// treeBytes adds up the files of a tree, links not followed; what vanishes
// meanwhile does not count.
func treeBytes(dir string) uint64 {
	var n uint64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			n += uint64(max(info.Size(), 0))
		}
		return nil
	})
	return n
}
