package executors

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// spareBytes must stay free beside a base backup.
const spareBytes = 64 << 20

// copyAnew makes the node from a base backup of the upstream. The old directory
// stays where it is until the new one is complete.
func (r *recovery) copyAnew(why string) error {
	if why != "" {
		r.because("%s", why)
	}
	if r.o.How == HowRewind {
		return fmt.Errorf("only a base backup can bring it back, and a rewind was asked for: %s; recover it with basebackup or auto", r.result.Why)
	}
	if err := r.reconnect(); err != nil {
		return err
	}
	need, err := r.enoughSpace()
	if err != nil {
		return err
	}
	own, err := r.ownConfiguration()
	if err != nil {
		return err
	}
	if whole(r.at.data) {
		if err := r.step("stop"); err != nil {
			return err
		}
		if err := r.halt(); err != nil {
			return err
		}
	}
	if err := r.provide(); err != nil {
		return err
	}
	if err := r.step("basebackup"); err != nil {
		return err
	}
	if err := r.runBaseBackup(); err != nil {
		free := freeBytes(filepath.Dir(r.at.at(placeNew)))
		err = fmt.Errorf("the base backup failed, with %d bytes free now and about %d needed; what was there is untouched: %w", free, need, err)
		return errors.Join(err, r.removeNew())
	}
	if err := r.step("configure"); err != nil {
		return err
	}
	dir := r.at.at(placeNew)
	if err := own.write(r.ctx, r.p.Runner, dir); err != nil {
		return err
	}
	set := followSettings(r.p, r.up)
	if len(own) == 0 && r.p.ConfigFile == "" {
		set = append(set, placeSettings(r.p)...)
	}
	if err := configureStandby(r.ctx, r.p, dir, set); err != nil {
		return err
	}
	if err := r.p.Runner.Rename(r.ctx, dir, r.at.at(placeReady)); err != nil {
		return err
	}
	if err := r.p.Runner.Remove(r.ctx, r.at.at(placeDirs)); err != nil {
		return err
	}
	return r.finish(HowBaseBackup)
}

// enoughSpace compares what the upstream has with what is free here; the WAL and
// the tablespaces of the copy are counted in, wherever they go.
func (r *recovery) enoughSpace() (uint64, error) {
	need, err := r.src.size(r.ctx)
	if err != nil {
		return 0, err
	}
	dir := filepath.Dir(r.at.at(placeNew))
	free := freeBytes(dir)
	if need += spareBytes; free < need {
		return need, fmt.Errorf("a base backup needs about %d bytes and %s has %d free, because the old directory stays until the copy is complete; make room there, for example with the order clean", need, dir, free)
	}
	return need, nil
}

func freeBytes(dir string) uint64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return st.Bavail * uint64(st.Bsize)
}

// ownConfiguration is that of the data directory, unless a killed rewind has put
// the upstream's there.
func (r *recovery) ownConfiguration() (configuration, error) {
	if whole(r.at.data) {
		return readConfiguration(r.at.data)
	}
	saved, err := loadConfiguration(r.at.at(placeConf))
	if err == nil && saved == nil && whole(r.at.at(placeRejoin)) {
		err = fmt.Errorf("the node's own configuration, %s, is missing; put it back, or set %s aside to take the upstream's", r.at.at(placeConf), r.at.at(placeRejoin))
	}
	return saved, err
}

func (r *recovery) runBaseBackup() error {
	dir := r.at.at(placeNew)
	extra, err := r.outside()
	if err != nil {
		return err
	}
	// An empty directory is allowed, and as the working directory it is how the
	// next run finds a pg_basebackup that has outlived this process.
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the copy: %w", err)
	}
	args := []string{"-D", dir, "-c", "fast", "-X", "stream", "-P", "--no-password", "-d", clientConninfo(r.up, r.up.User)}
	if r.up.Slot != "" {
		args = append(args, "-S", r.up.Slot)
	}
	_, err = r.p.Runner.Run(r.ctx, Command{
		Path: r.p.Bin("pg_basebackup"), Args: append(args, extra...), Dir: dir,
		Env: clientEnv(r.up.Passfile), Line: r.copied(HowBaseBackup),
	})
	return err
}

// outside chooses fresh directories for what lies outside the data directory
// now, WAL and tablespaces, beside the old ones, and notes them durably so that
// a later run can remove them.
func (r *recovery) outside() (args []string, err error) {
	var made []string
	old := r.at.data
	if !whole(old) {
		old = r.at.at(placeRejoin)
	}
	if wal, ok := readLink(filepath.Join(old, "pg_wal")); ok {
		dir := r.freshBeside(wal)
		made, args = append(made, dir), append(args, "--waldir="+dir)
	}
	spaces, err := r.src.tablespaces(r.ctx)
	if err != nil {
		return nil, err
	}
	for oid, there := range spaces {
		here := there
		if own, ok := readLink(filepath.Join(old, "pg_tblspc", strconv.FormatUint(uint64(oid), 10))); ok {
			here = own
		}
		dir := r.freshBeside(here)
		made = append(made, dir)
		args = append(args, "--tablespace-mapping="+strings.ReplaceAll(there, "=", `\=`)+"="+strings.ReplaceAll(dir, "=", `\=`))
	}
	if len(made) == 0 {
		return nil, nil
	}
	return args, r.p.Runner.WriteFile(r.ctx, r.at.at(placeDirs), []byte(strings.Join(made, "\n")+"\n"), 0o600)
}

var freshSuffix = regexp.MustCompile(`\.interrex-\d+(-\d+)?$`)

// freshBeside is a name beside a directory, or in it where that cannot be: a
// file system of its own is not left.
func (r *recovery) freshBeside(dir string) string {
	dir = freshSuffix.ReplaceAllString(dir, "")
	if isMountPoint(dir) || exists(dir) && unix.Access(filepath.Dir(dir), unix.W_OK) != nil {
		dir = filepath.Join(dir, "pg")
	}
	base := dir + ".interrex-" + strconv.FormatUint(r.o.Decision, 10)
	name := base
	for n := 2; exists(name); n++ {
		name = base + "-" + strconv.Itoa(n)
	}
	return name
}

// removeNew removes an incomplete base backup and what belongs to it outside.
func (r *recovery) removeNew() error {
	dir := r.at.at(placeNew)
	list, err := os.ReadFile(r.at.at(placeDirs))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an incomplete base backup: %w", err)
	}
	used := append(links(r.at.data), links(r.at.at(placeReady))...)
	for line := range strings.Lines(string(list)) {
		if name := strings.TrimSuffix(line, "\n"); freshSuffix.MatchString(name) && !contains(used, name) {
			if err := os.RemoveAll(name); err != nil {
				return fmt.Errorf("remove an incomplete base backup: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove an incomplete base backup: %w", err)
	}
	return r.p.Runner.Remove(r.ctx, r.at.at(placeDirs))
}
