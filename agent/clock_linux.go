package agent

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/fsm/lease"
)

// Now reads the two clocks that bound a lease. CLOCK_MONOTONIC would not do:
// chrony may slew it by 8 % (SAFETY.md §3.4).
func Now() lease.Instant {
	return lease.Instant{Raw: read(unix.CLOCK_MONOTONIC_RAW), Boot: read(unix.CLOCK_BOOTTIME)}
}

func read(clock int32) time.Duration {
	var ts unix.Timespec
	// Raw: it never blocks, and unix.ClockGettime would have Go's scheduler look
	// after it as if it did, which costs more than the reading.
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("agent: the kernel has no clock: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}
