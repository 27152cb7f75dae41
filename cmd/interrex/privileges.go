package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/interrex-ha/interrex/internal/unroot"
)

// self is this program, even when its path cannot be reached any more, or
// belongs to a directory that another user may not enter.
const self = "/proc/self/exe"

func selfPath() string {
	if _, err := os.Stat(self); err == nil {
		return self
	}
	p, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return p
}

// dropRoot goes on as an unprivileged user when this is root: PostgreSQL
// refuses to run as root, and no agent should. The cluster's directory is given
// to that user. It does not return when it succeeds: the program is executed
// again.
func dropRoot(dir string, owner string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	a, err := accountFor(owner)
	if err != nil {
		return err
	}
	if err := giveDir(dir, a.uid, a.gid); err != nil {
		return err
	}
	return a.goOn(dir)
}

// becomeOwner is dropRoot that gives nothing away: the program goes on as the
// owner of a file or directory.
func becomeOwner(dir string, owner string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	a, err := accountFor(owner)
	if err != nil {
		return err
	}
	return a.goOn(dir)
}

// unprivileged is an account to go on as.
type unprivileged struct {
	uid, gid int
	groups   []int
	home     string
}

func accountFor(owner string) (unprivileged, error) {
	uid, gid, home, err := unroot.Account()
	if owner != "" {
		uid, gid, home, err = ownerOf(owner)
	}
	if err != nil {
		return unprivileged{}, fmt.Errorf("this is root, and PostgreSQL refuses to run as root: %w", err)
	}
	return unprivileged{int(uid), int(gid), groupsOf(uid, gid), home}, nil
}

// groupsOf are all groups of an account: a PostgreSQL that is started here has
// to read what it always could, as Debian's key of the group ssl-cert.
func groupsOf(uid, gid uint32) []int {
	groups := []int{int(gid)}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return groups
	}
	ids, err := u.GroupIds()
	if err != nil {
		return groups
	}
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil && n != int(gid) {
			groups = append(groups, n)
		}
	}
	return groups
}

// goOn executes the program again; it returns only with an error. The directory
// is named on the command line: another user has another default, and a
// relative path would lead elsewhere.
func (a unprivileged) goOn(dir string) error {
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("setgid %d: %w", a.gid, err)
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("setuid %d: %w", a.uid, err)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "XDG_") }) // root's: the first of two counts
	env = append(env, "HOME="+a.home)
	if err := os.Chdir("/"); err != nil {
		return err
	}
	args := slices.Clone(os.Args)
	if dir != "" {
		args = append(args, "--dir="+dir) // the last one counts
	}
	return fmt.Errorf("cannot go on as uid %d: %w", a.uid, syscall.Exec(self, args, env))
}

// giveDir makes the cluster's directory and gives it to the user; none is given
// when a temporary one will be made.
func giveDir(dir string, uid, gid int) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := onlyOurs(dir); err != nil {
		return err
	}
	return chownTree(dir, uid, gid)
}

// onlyOurs refuses a directory that holds somebody else's files: --dir /etc by
// mistake must not give /etc away.
func onlyOurs(dir string) error {
	for _, mark := range []string{"cluster.json", "half-made", "adopted.json", "log.json", "keys/*.nk"} {
		if found, err := filepath.Glob(filepath.Join(dir, mark)); err == nil && len(found) > 0 {
			return nil
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "up.lock" && e.Name() != "lost+found" {
			return fmt.Errorf("%s is not empty, and no cluster of Interrex: it holds %s; choose a directory that is absent or empty", dir, e.Name())
		}
	}
	return nil
}

// ownerOf is the user that a data directory, or a file of ours, belongs to.
func ownerOf(dataDir string) (uid, gid uint32, home string, err error) {
	st, err := os.Stat(dataDir)
	if err != nil {
		return 0, 0, "", err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Uid == 0 {
		return 0, 0, "", fmt.Errorf("%s has no unprivileged owner", dataDir)
	}
	uid, gid, home = sys.Uid, sys.Gid, "/"
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		home = u.HomeDir
		if n, err := strconv.ParseUint(u.Gid, 10, 32); err == nil {
			gid = uint32(n)
		}
	}
	return uid, gid, home, nil
}

// chownTree gives what root may have made in an earlier run to the user; it
// follows no link out of the directory. Servers may be at work there: what is
// gone by the time it is looked at is no error.
func chownTree(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st os.FileInfo
		if err == nil {
			st, err = os.Lstat(path)
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil
		}
		if err != nil {
			return err
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid == uint32(uid) {
			return nil
		}
		if err := os.Lchown(path, uid, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give %s to uid %s: %w", path, strconv.Itoa(uid), err)
		}
		return nil
	})
}
