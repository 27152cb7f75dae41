package lab

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// alive reports that a process exists and is no zombie.
func alive(pid int) bool {
	state := processState(pid)
	return state != 0 && state != 'Z' && state != 'X'
}

// stopped reports that a process was stopped by a signal.
func stopped(pid int) bool { return processState(pid) == 'T' }

// processState is the letter of /proc/PID/stat, 0 when there is no process.
func processState(pid int) byte {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything, a parenthesis as well.
	i := bytes.LastIndexByte(raw, ')')
	if i < 0 || i+2 >= len(raw) {
		return 0
	}
	return raw[i+2]
}

// worksIn reports that a process has a directory as its working directory.
func worksIn(pid int, dir string) bool {
	here, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	there, err := os.Stat(dir)
	return err == nil && os.SameFile(here, there)
}

// processesIn returns all processes that work in a directory, zombies left out.
func processesIn(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("lab: list the processes: %w", err)
	}
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && worksIn(pid, dir) && alive(pid) {
			found = append(found, pid)
		}
	}
	return found, nil
}
