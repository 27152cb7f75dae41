package onhost

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/executors"
)

// bootClock is this host's clock.
func bootClock() (instant, error) {
	boot, err := executors.BootID()
	if err != nil {
		return instant{}, err
	}
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		return instant{}, fmt.Errorf("read the clock: %w", err)
	}
	return instant{boot, at.Nano()}, nil
}

// killHolder kills exactly the process that holds the lock: it is asked for again
// once its number is pinned.
func killHolder(f *os.File) {
	pid := holder(f)
	if pid <= 1 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone, and looked for again
	}
	defer unix.Close(fd)
	if holder(f) == pid {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
