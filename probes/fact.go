// Package probes asks a PostgreSQL how it is and says what it answered and how
// long that took. It judges nothing: whether a silent server is a dead one is
// for the log's readers to decide, from the facts of several probers.
package probes

import (
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Fact is what one probe found. State is always set; Took is the time that the
// probe needed, whatever it found. The other fields are set when State is
// PostgresUp; Err, and SQLState when the server gave one, otherwise.
type Fact struct {
	State        events.PostgresState
	InRecovery   bool
	Timeline     uint32 // that WAL is written (primary) or received (standby) on, not the last checkpoint's
	SystemID     string
	Version      int              // server_version_num
	LSN          events.LSN       // primary: flushed to disk; standby: received or replayed, whichever is further
	Replay       events.LSN       // standby only
	ReplayPaused bool             // standby only
	Receiver     string           // standby only: pg_stat_wal_receiver.status, empty when there is no receiver
	SenderHost   string           // standby only: host that the receiver streams from, as in its conninfo
	SenderPort   int              // standby only
	Replicas     []events.Replica // rows of pg_stat_replication
	Clients      int              // client backends whose application_name does not begin with "interrex"
	Started      time.Time        // pg_postmaster_start_time(), by the server's clock
	Took         time.Duration
	Err          error
	SQLState     string
}

// Seen turns the fact into the observation of the node named. PID and Upstream
// are the caller's to add: a connection knows neither.
func (f Fact) Seen(node string) events.PostgresSeen {
	seen := events.PostgresSeen{
		Node:         node,
		State:        f.State,
		InRecovery:   f.InRecovery,
		Timeline:     f.Timeline,
		SystemID:     f.SystemID,
		Version:      f.Version,
		LSN:          f.LSN,
		Receiver:     f.Receiver,
		ReplayPaused: f.ReplayPaused,
		ClientSeen:   f.Clients > 0,
		SQLState:     f.SQLState,
	}
	if f.Err != nil {
		seen.Error = f.Err.Error()
	}
	return seen
}
