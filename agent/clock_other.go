//go:build !linux

package agent

import (
	"time"

	"github.com/interrex-ha/interrex/fsm/lease"
)

// Now is only good for trying things out here: Linux is the platform.
func Now() lease.Instant {
	d := time.Duration(time.Now().UnixNano())
	return lease.Instant{Raw: d, Boot: d}
}
