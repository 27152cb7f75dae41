//go:build !linux

package executors

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Elsewhere than on Linux the kernel does not tell a process's working
// directory. A postmaster and its children are found by their numbers, and that
// nothing is left is told by the shared memory segment alone.

// BootID identifies the host's boot: no process outlives it.
func BootID() (string, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return id, nil
}

func inspectPostmaster(_ string, lock lockFile) (Incarnation, bool, error) {
	inc := Incarnation{PID: lock.pid, StartTicks: uint64(lock.started)}
	if !alive(inc) {
		return Incarnation{}, false, nil
	}
	var err error
	inc.BootID, err = BootID()
	return inc, err == nil, err
}

// ProcessesOf returns the postmaster of the data directory and its children,
// zombies excepted; children that have outlived it are not found.
func ProcessesOf(dataDir string) ([]Process, error) {
	if _, err := os.Stat(dataDir); err != nil {
		return nil, fmt.Errorf("inspect the data directory: %w", err)
	}
	lock, ok, err := readLockFile(dataDir)
	if err != nil || !ok {
		return nil, err
	}
	return listProcesses(func(pid, parent int) bool { return pid == lock.pid || parent == lock.pid })
}

func listProcesses(want func(pid, parent int) bool) ([]Process, error) {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=,state=,comm=").Output()
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var found []Process
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		parent, err2 := strconv.Atoi(f[1])
		if err == nil && err2 == nil && f[2][0] != 'Z' && pid != os.Getpid() && want(pid, parent) {
			found = append(found, Process{PID: pid, State: f[2][0], Name: f[3]})
		}
	}
	return found, nil
}

func alive(inc Incarnation) bool {
	procs, err := listProcesses(func(pid, _ int) bool { return pid == inc.PID })
	return err != nil || len(procs) > 0
}

// Stopped reports whether the postmaster is frozen by SIGSTOP or a debugger.
func Stopped(inc Incarnation) bool {
	procs, err := listProcesses(func(pid, _ int) bool { return pid == inc.PID })
	return err == nil && len(procs) == 1 && procs[0].State == 'T'
}

// Watch begins to watch a process by looking each 50 ms. It fails when that
// incarnation has already ended.
func Watch(inc Incarnation) (*Watcher, error) {
	if !alive(inc) {
		return nil, fmt.Errorf("process %d: %w", inc.PID, os.ErrProcessDone)
	}
	w := &Watcher{inc: inc, done: make(chan struct{}), stop: make(chan struct{})}
	go w.poll()
	return w, nil
}

func signalExactly(inc Incarnation, sig syscall.Signal) error {
	err := syscall.Kill(inc.PID, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// evidence demands that the segment is still there, since nothing else tells
// here that children of a dead postmaster are gone.
func evidence(dataDir string, lock lockFile) error {
	_, exists, err := sharedMemory(lock)
	if err != nil || exists {
		return err
	}
	return fmt.Errorf("postmaster.pid in %s names process %d, which does not exist, and no shared memory of it is left: it cannot be told that its children have ended; remove the file if they certainly have", dataDir, lock.pid)
}

func childrenOf(int) []int { return nil }

// keyFits cannot be told: the segment's key is not public in this system's
// structure. A number that was given to another segment delays a proof only.
func keyFits(*unix.SysvShmDesc, uint64) bool { return true }

func firstProcessBegan() (int64, error) {
	return 0, errors.New("containers are known on Linux only")
}
