package executors

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Incarnation is one run of a postmaster, told from every other: a process
// number alone is used again.
type Incarnation struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"` // since boot, in clock ticks; elsewhere than Linux the start time in seconds
	BootID     string `json:"boot_id"`
	PIDNS      string `json:"pid_ns,omitempty"` // empty elsewhere than Linux
	IPCNS      string `json:"ipc_ns,omitempty"`
}

// Process is one process that belongs to a data directory.
type Process struct {
	PID   int
	State byte // as in /proc/PID/stat: R, S, D, T, …
	Name  string
}

func (p Process) String() string { return fmt.Sprintf("%d (%s, state %c)", p.PID, p.Name, p.State) }

// lockFile is what postmaster.pid says; PostgreSQL writes it line by line.
type lockFile struct {
	pid     int    // line 1; a single-user server writes it negative
	dir     string // line 2, the data directory
	started int64  // line 3, Unix seconds
	socket  string // lines 4 and 5: the first socket's lock file, empty when there is none
	shmKey  uint64
	shmID   int
	hasShm  bool // line 7 is written only when the segment exists
}

// readLockFile returns false when there is no postmaster.pid.
func readLockFile(dataDir string) (lockFile, bool, error) {
	name := filepath.Join(dataDir, "postmaster.pid")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return lockFile{}, false, nil
	}
	if err != nil {
		return lockFile{}, false, fmt.Errorf("read the lock file: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid == 0 {
		return lockFile{}, false, fmt.Errorf("%s begins with %q, expected a process number; if no PostgreSQL runs on %s, remove the file", name, lines[0], dataDir)
	}
	lock := lockFile{pid: max(pid, -pid)}
	if len(lines) > 4 && strings.HasPrefix(lines[4], "/") {
		lock.socket = filepath.Join(lines[4], ".s.PGSQL."+strings.TrimSpace(lines[3])+".lock")
	}
	if len(lines) > 2 {
		lock.dir = lines[1]
		lock.started, _ = strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64) // 0: not known
	}
	if len(lines) > 6 && strings.TrimSpace(lines[6]) != "" {
		_, err = fmt.Sscan(lines[6], &lock.shmKey, &lock.shmID)
		if err != nil {
			return lockFile{}, false, fmt.Errorf("%s has line 7 %q, expected a shared memory key and number: %w", name, lines[6], err)
		}
		lock.hasShm = true
	}
	return lock, true, nil
}

// FindPostmaster returns the live postmaster of a data directory: the process
// that postmaster.pid names, if it exists, is no zombie, works in that
// directory and sees the same processes and shared memory as the caller. It
// returns false when there is none, and an error when that cannot be told: the
// process may not be inspected, or belongs to another namespace. A single-user
// server counts as a postmaster.
func FindPostmaster(dataDir string) (Incarnation, bool, error) {
	lock, ok, err := readLockFile(dataDir)
	if err != nil || !ok {
		return Incarnation{}, false, err
	}
	return inspectPostmaster(dataDir, lock)
}

// SharedMemoryFree reports whether no process is attached to the shared memory
// segment that line 7 of postmaster.pid names. It is true where there is no such
// file, line or segment; in another IPC namespace it is meaningless.
func SharedMemoryFree(dataDir string) (bool, error) {
	lock, ok, err := readLockFile(dataDir)
	if err != nil || !ok || !lock.hasShm {
		return err == nil, err
	}
	attached, _, err := sharedMemory(lock)
	return err == nil && attached == 0, err
}

// Watcher tells when one process ends. Close it when done.
type Watcher struct {
	inc  Incarnation
	done chan struct{}
	stop chan struct{}
	once sync.Once
	wake func() // out of its sleep in the kernel; nil when it polls
}

// NewWatcher is for a host that tells of its processes in another way: ended is
// called when it has said that the process is no more, at most once.
func NewWatcher(inc Incarnation) (w *Watcher, ended func()) {
	w = &Watcher{inc: inc, done: make(chan struct{}), stop: make(chan struct{})}
	return w, func() { close(w.done) }
}

// Done is closed when the process has ended, a zombie included; never by Close.
func (w *Watcher) Done() <-chan struct{} { return w.done }

// Incarnation returns what is watched.
func (w *Watcher) Incarnation() Incarnation { return w.inc }

// Signal sends a signal to exactly this process, never to one that got its
// number later (elsewhere than Linux: very probably). It returns
// os.ErrProcessDone when the process has ended.
func (w *Watcher) Signal(s syscall.Signal) error { return signalExactly(w.inc, s) }

// Close ends the watching; it may be called more than once.
func (w *Watcher) Close() {
	w.once.Do(func() {
		close(w.stop)
		if w.wake != nil {
			w.wake()
		}
	})
}

// pollEvery is used where the kernel does not tell of a process's end.
const pollEvery = 50 * time.Millisecond

// poll watches by looking, until the incarnation is no more.
func (w *Watcher) poll() {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for alive(w.inc) {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
	}
	close(w.done)
}

// describe lists processes for an error's text.
func describe(procs []Process) string {
	var b bytes.Buffer
	for i, p := range procs {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(procs)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}
