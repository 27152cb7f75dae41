//go:build !linux

package lab

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// alive reports that a process exists and is no zombie.
func alive(pid int) bool {
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

// stopped reports that a process was stopped by a signal.
func stopped(pid int) bool {
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.HasPrefix(strings.TrimSpace(string(out)), "T")
}

// worksIn cannot be known cheaply here; the lock file is believed.
func worksIn(pid int, _ string) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// processesIn is not available here: faults that need it say so.
func processesIn(string) ([]int, error) {
	return nil, errors.New("lab: the processes of a server can be listed on Linux only")
}
