package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// The scripts of files end with one of these codes where a caller tells the
// reason apart; it is found by tests, since messages differ.
var reasons = map[int]error{
	81: fs.ErrNotExist,
	82: fs.ErrPermission,
	83: syscall.ENOTDIR,
	84: syscall.EISDIR,
	85: syscall.EXDEV,
	86: errors.New("not all bytes arrived"),
}

// preface begins each of them. why ends the script for a name that cannot be
// used: because it is not there, or because the way to it is barred. durable
// fsyncs a file or directory: sync of coreutils before 8.24 and of some busybox
// syncs everything, which is enough as well.
const preface = `LC_ALL=C; export LC_ALL
way() {
	w=$1
	while [ ! -e "$w" ]; do
		case $w in
		*/*) w=${w%/*}; w=${w:-/} ;;
		*) w=. ;;
		esac
	done
	[ -d "$w" ] || exit 83
	[ -x "$w" ] || exit 82
}
here() { if [ ! -e "$1" ]; then way "$1"; exit 81; fi; }
durable() { sync "$1"; }
`

// script runs one of the scripts. Names are its arguments.
func (r *Runner) script(ctx context.Context, what, file, script string, stdin []byte, keep int, args ...string) ([]byte, error) {
	out, err := r.Run(ctx, executors.Command{
		Path: "sh", Args: append([]string{"-c", preface + script, "sh"}, args...), Stdin: stdin, Keep: keep,
	})
	if err == nil {
		return out.Stdout, nil
	}
	var exit *executors.ExitError
	if !errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: %s %s: %w", r.name, what, file, unwrapped(err))
	}
	if reason, ok := reasons[exit.Code]; ok {
		return nil, fmt.Errorf("%s: %s %s: %w", r.name, what, file, reason)
	}
	return nil, fmt.Errorf("%s: %s %s: %w", r.name, what, file, exit)
}

// unwrapped takes the runner's name off, which stands in front already.
func unwrapped(err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.Contains(err.Error(), "could not be started") {
		return inner
	}
	return err
}

const endless = math.MaxInt / 4 // bytes: a file is read whole

// ReadFile returns the whole file.
func (r *Runner) ReadFile(ctx context.Context, file string) ([]byte, error) {
	b, err := r.script(ctx, "read", file, `here "$1"
[ ! -d "$1" ] || exit 84
[ -r "$1" ] || exit 82
exec cat <"$1"`, nil, endless, operand(file))
	if b == nil && err == nil {
		b = []byte{}
	}
	return b, err
}

// Stat describes the file that a path leads to, symbolic links followed.
func (r *Runner) Stat(ctx context.Context, file string) (fs.FileInfo, error) {
	b, err := r.script(ctx, "stat", file, `here "$1"
TZ=UTC0 exec stat -L -c '%f %s %y' "$1"`, nil, 0, operand(file))
	if err != nil {
		return nil, err
	}
	info, err := parseInfo(file, string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: stat %s: %w", r.name, file, err)
	}
	return info, nil
}

// writeScript is given the temporary name, the file, its directory, mode and
// size. The temporary file is new (set -C) and nobody else's to read until it
// has its mode. A script that is killed leaves it behind; nobody reads its name.
const writeScript = `[ -d "$3" ] || { here "$3"; exit 83; }
umask 077; set -C
: >"$1" || { [ -w "$3" ] || exit 82; exit 1; }
trap 'rm -f "$1"' EXIT
set +C
cat >"$1" || exit
[ "$(wc -c <"$1")" -eq "$5" ] || exit 86
chmod "$4" "$1" && durable "$1" || exit
[ ! -d "$2" ] || [ -L "$2" ] || exit 84
mv -f -T "$1" "$2" || exit
trap - EXIT
durable "$3"`

// WriteFile writes file so that after a crash of its host it holds either what
// it held before or all of data, and after a nil return data for sure. The mode
// is exactly mode, whatever the umask. A symbolic link is replaced by a file.
func (r *Runner) WriteFile(ctx context.Context, file string, data []byte, mode fs.FileMode) error {
	name := operand(file)
	dir := path.Dir(name)
	temp := dir + "/." + path.Base(name) + ".interrex-" + rand.Text()[:8]
	_, err := r.script(ctx, "write", file, writeScript, data, 0,
		temp, name, operand(dir), strconv.FormatUint(uint64(mode.Perm()), 8), strconv.Itoa(len(data)))
	return err
}

// Remove removes one file, durably; it never removes a directory.
func (r *Runner) Remove(ctx context.Context, file string) error {
	name := operand(file)
	_, err := r.script(ctx, "remove", file, `if [ ! -e "$1" ] && [ ! -L "$1" ]; then way "$1"; exit 0; fi
[ ! -d "$1" ] || [ -L "$1" ] || exit 84
rm -f "$1" && durable "$2"`, nil, 0, name, operand(path.Dir(name)))
	return err
}

// Rename renames a file or directory within one file system; a file that stands
// at to is replaced. Between two mounts of one file system it is a copy.
func (r *Runner) Rename(ctx context.Context, from, to string) error {
	a, b := operand(from), operand(to)
	_, err := r.script(ctx, "rename", from+" to "+to, `[ -L "$1" ] || here "$1"
here "$4"
[ "$(stat -L -c %d "$3")" = "$(stat -L -c %d "$4")" ] || exit 85
mv -f -T "$1" "$2" && durable "$4" && { [ "$3" = "$4" ] || durable "$3"; }`,
		nil, 0, a, b, operand(path.Dir(a)), operand(path.Dir(b)))
	return err
}

// info is what stat prints.
type info struct {
	name string
	size int64
	mode fs.FileMode
	time time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.time }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

func parseInfo(file, said string) (fs.FileInfo, error) {
	words := strings.Fields(said)
	if len(words) < 4 {
		return nil, fmt.Errorf("stat there said %q, expected mode, size and time", said)
	}
	raw, err := strconv.ParseUint(words[0], 16, 32)
	i := info{name: path.Base(file), mode: fileMode(uint32(raw))}
	if err == nil {
		i.size, err = strconv.ParseInt(words[1], 10, 64)
	}
	if err == nil {
		i.time, err = time.Parse("2006-01-02 15:04:05", words[2]+" "+words[3])
	}
	if err != nil {
		return nil, fmt.Errorf("stat there said %q: %w", said, err)
	}
	return i, nil
}

// fileMode translates Linux's st_mode.
func fileMode(raw uint32) fs.FileMode {
	mode := fs.FileMode(raw & 0o777)
	mode |= map[uint32]fs.FileMode{
		syscall.S_IFDIR: fs.ModeDir, syscall.S_IFLNK: fs.ModeSymlink, syscall.S_IFIFO: fs.ModeNamedPipe, syscall.S_IFSOCK: fs.ModeSocket,
		syscall.S_IFBLK: fs.ModeDevice, syscall.S_IFCHR: fs.ModeDevice | fs.ModeCharDevice,
	}[raw&syscall.S_IFMT]
	for bit, m := range map[uint32]fs.FileMode{syscall.S_ISUID: fs.ModeSetuid, syscall.S_ISGID: fs.ModeSetgid, syscall.S_ISVTX: fs.ModeSticky} {
		if raw&bit != 0 {
			mode |= m
		}
	}
	return mode
}
