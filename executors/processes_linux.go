package executors

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// BootID identifies the host's boot: no process outlives it.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// inspectPostmaster decides what the process of a lock file is.
func inspectPostmaster(dataDir string, lock lockFile) (Incarnation, bool, error) {
	var dir unix.Stat_t
	if err := unix.Stat(dataDir, &dir); err != nil {
		return Incarnation{}, false, fmt.Errorf("inspect the data directory %s: %w", dataDir, err)
	}
	is, err := worksIn(lock.pid, &dir)
	if err != nil || !is {
		return Incarnation{}, false, err
	}
	st, ok, err := readStat(lock.pid)
	if err != nil || !ok {
		return Incarnation{}, false, err
	}
	inc := Incarnation{PID: lock.pid, StartTicks: st.start}
	if inc.PIDNS, inc.IPCNS, err = namespaces(strconv.Itoa(lock.pid)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Incarnation{}, false, nil // it has ended meanwhile
		}
		return Incarnation{}, false, err
	}
	pidNS, ipcNS, err := namespaces("self")
	if err != nil {
		return Incarnation{}, false, err
	}
	if pidNS != inc.PIDNS || ipcNS != inc.IPCNS {
		return Incarnation{}, false, fmt.Errorf("process %d of %s lives in the namespaces %s %s, this one in %s %s: run Interrex where PostgreSQL runs", lock.pid, dataDir, inc.PIDNS, inc.IPCNS, pidNS, ipcNS)
	}
	inc.BootID, err = BootID()
	return inc, err == nil, err
}

func namespaces(pid string) (pidNS, ipcNS string, err error) {
	pidNS, err = os.Readlink("/proc/" + pid + "/ns/pid")
	if err == nil {
		ipcNS, err = os.Readlink("/proc/" + pid + "/ns/ipc")
	}
	if err != nil {
		return "", "", fmt.Errorf("read the namespaces of process %s: %w", pid, err)
	}
	return pidNS, ipcNS, nil
}

// worksIn reports whether a process has the directory as its working directory,
// compared by device and inode. Zombies have none.
func worksIn(pid int, dir *unix.Stat_t) (bool, error) {
	var cwd unix.Stat_t
	err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/cwd", &cwd)
	switch {
	case err == nil:
		return cwd.Dev == dir.Dev && cwd.Ino == dir.Ino, nil
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		return false, foreign(pid, dir)
	default: // ended, a zombie, or a kernel thread
		return false, nil
	}
}

// foreign decides what it means that a process may not be inspected: nothing
// where it is another user's, since PostgreSQL runs as its directory's owner, or
// another program (a session's helper may hide itself). As root without
// CAP_SYS_PTRACE, in a container, it does mean something.
func foreign(pid int, dir *unix.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Lstat("/proc/"+strconv.Itoa(pid), &st); err != nil || st.Uid != dir.Uid {
		return nil //nolint:nilerr // a process that has ended needs no inspection
	}
	if p, ok, err := readStat(pid); err == nil && (!ok || p.name != "postgres" && p.name != "postmaster") {
		return nil
	}
	return fmt.Errorf("process %d of uid %d, the owner of the data directory, is a PostgreSQL and may not be inspected: run Interrex as that user, or with CAP_SYS_PTRACE", pid, st.Uid)
}

// procStat is the part of /proc/PID/stat that is used.
type procStat struct {
	name  string
	state byte
	start uint64 // clock ticks since boot
}

// readStat returns false when the process is gone or a zombie.
func readStat(pid int) (procStat, bool, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return procStat{}, false, nil
	}
	if err != nil {
		return procStat{}, false, fmt.Errorf("inspect process %d: %w", pid, err)
	}
	// The name stands in parentheses and may hold anything, more of them too.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procStat{}, false, fmt.Errorf("inspect process %d: /proc holds %q, expected a name in parentheses", pid, b)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return procStat{}, false, fmt.Errorf("inspect process %d: /proc holds %q, expected more fields", pid, b)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return procStat{}, false, fmt.Errorf("inspect process %d: start time: %w", pid, err)
	}
	st := procStat{name: string(b[open+1 : end]), state: f[0][0], start: start}
	return st, st.state != 'Z' && st.state != 'X', nil
}

// ProcessesOf returns all processes whose working directory is the data
// directory, zombies excepted and the caller itself: every process of its
// PostgreSQL, what they started, and possibly a person's shell. A process of
// the directory's owner that may not be inspected is an error, because then
// nothing is known.
func ProcessesOf(dataDir string) ([]Process, error) {
	var dir unix.Stat_t
	if err := unix.Stat(dataDir, &dir); err != nil {
		return nil, fmt.Errorf("inspect the data directory %s: %w", dataDir, err)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var found []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		is, err := worksIn(pid, &dir)
		if err != nil {
			return nil, err
		}
		if !is {
			continue
		}
		st, ok, err := readStat(pid)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, Process{PID: pid, State: st.state, Name: st.name})
		}
	}
	return found, nil
}

// alive reports whether the incarnation still runs; a zombie does not.
func alive(inc Incarnation) bool {
	st, ok, err := readStat(inc.PID)
	return err != nil || ok && st.start == inc.StartTicks
}

// Stopped reports whether the postmaster is frozen by SIGSTOP or a debugger.
func Stopped(inc Incarnation) bool {
	st, ok, err := readStat(inc.PID)
	return err == nil && ok && st.start == inc.StartTicks && (st.state == 'T' || st.state == 't')
}

// Watch begins to watch a process by a pidfd, or by looking each 50 ms where
// the kernel has none. It fails when that incarnation has already ended.
func Watch(inc Incarnation) (*Watcher, error) {
	w := &Watcher{inc: inc, done: make(chan struct{}), stop: make(chan struct{})}
	fd, err := openExactly(inc)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	if err != nil { // forbidden by a sandbox, or an old kernel
		go w.poll()
		return w, nil
	}
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("watch process %d: %w", inc.PID, err), unix.Close(fd))
	}
	w.wake = func() { _ = unix.Close(wake[1]) } // the other end then reads end of file
	go w.wait(fd, wake[0])
	return w, nil
}

// wait sleeps in the kernel until the process ends or the watcher is closed.
func (w *Watcher) wait(process, wake int) {
	defer unix.Close(process)
	defer unix.Close(wake)
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if fds[0].Revents != 0 {
			close(w.done)
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if err != nil { // out of memory: look instead
			w.poll()
			return
		}
	}
}

// openExactly opens a pidfd of this incarnation; os.ErrProcessDone says that it
// has ended. The start time is compared after the opening: from then on the
// number cannot mean another process.
func openExactly(inc Incarnation) (int, error) {
	fd, err := unix.PidfdOpen(inc.PID, 0)
	done := fmt.Errorf("process %d, started at tick %d: %w", inc.PID, inc.StartTicks, os.ErrProcessDone)
	if errors.Is(err, unix.ESRCH) || !alive(inc) {
		if err == nil {
			_ = unix.Close(fd)
		}
		return -1, done
	}
	return fd, err
}

// signalExactly sends a signal to this incarnation and to no other process.
func signalExactly(inc Incarnation, sig syscall.Signal) error {
	fd, err := openExactly(inc)
	if errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err != nil {
		return unix.Kill(inc.PID, sig)
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// evidence says why nothing of a PostgreSQL whose postmaster is gone can live
// where this process does not see it, or returns an error.
func evidence(dataDir string, lock lockFile) error {
	_, exists, err := sharedMemory(lock)
	if err != nil {
		return err
	}
	if lock.hasShm && exists {
		return nil // its segment is in this IPC namespace, so it ran here
	}
	var host unix.Stat_t
	// The number of the first PID namespace is fixed in the kernel's interface;
	// from there every process of the host is seen.
	if err := unix.Stat("/proc/self/ns/pid", &host); err == nil && host.Ino == 0xEFFFFFFC {
		return nil
	}
	if boot, err := bootTime(); err == nil && lock.started > 0 && lock.started < boot {
		return nil // it ran before this boot
	}
	return fmt.Errorf("postmaster.pid in %s names process %d, which does not exist here, and no shared memory of it is left: it may live in another container; run Interrex where PostgreSQL runs, or remove the file if it is certainly dead", dataDir, lock.pid)
}

// bootTime is when the host booted, in Unix seconds.
func bootTime() (int64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, errors.New("/proc/stat holds no btime")
}

// childrenOf returns the children of a process where the kernel lists them,
// nothing elsewhere: it only saves time.
func childrenOf(pid int) []int {
	name := strconv.Itoa(pid)
	b, err := os.ReadFile("/proc/" + name + "/task/" + name + "/children")
	if err != nil {
		return nil
	}
	var out []int
	for _, f := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(f); err == nil {
			out = append(out, child)
		}
	}
	return out
}

// keyFits tells a segment from a later one with the same number.
func keyFits(d *unix.SysvShmDesc, key uint64) bool { return uint32(d.Perm.Key) == uint32(key) }

// clockTick is USER_HZ, in which /proc counts: 100 on every architecture that
// PostgreSQL is packaged for.
const clockTick = 100

// firstProcessBegan is when process 1 of this namespace began, in Unix seconds:
// the beginning of a container.
func firstProcessBegan() (int64, error) {
	boot, err := bootTime()
	if err != nil {
		return 0, fmt.Errorf("when the container began: %w", err)
	}
	st, ok, err := readStat(1)
	if err != nil || !ok {
		return 0, errors.Join(err, errors.New("when the container began cannot be read"))
	}
	return boot + int64(st.start/clockTick), nil
}
