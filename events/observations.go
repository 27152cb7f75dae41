package events

// Facts, in the past tense: what an agent saw at its own node or at another.
// A fact is appended when it changes; what changes all the time (positions,
// probe durations) travels in the heartbeat.

// PostgresState is what the last probe of a PostgreSQL found.
type PostgresState string

const (
	// PostgresUp: it answered the probe.
	PostgresUp PostgresState = "up"
	// PostgresStarting: SQLSTATE 57P03, "the database system is starting up".
	PostgresStarting PostgresState = "starting"
	// PostgresStopping: SQLSTATE 57P03/57P01, it is shutting down.
	PostgresStopping PostgresState = "stopping"
	// PostgresRefusing: alive but not observable: too many clients (53300),
	// authentication (28P01, 28000), no such database (3D000). Never a failover.
	PostgresRefusing PostgresState = "refusing"
	// PostgresSilent: it accepted the connection, or holds one, and did not
	// answer within the probe's time-out.
	PostgresSilent PostgresState = "silent"
	// PostgresDown: connection refused, or no postmaster process.
	PostgresDown PostgresState = "down"
	// PostgresUnreachable: no route, or the connection attempt timed out.
	PostgresUnreachable PostgresState = "unreachable"
)

// AgentStarted: an agent began to stand for a node.
type AgentStarted struct {
	Node        string `json:"node"`
	PID         int    `json:"pid"`
	Incarnation string `json:"incarnation"` // UUID of this run of the agent
	BootID      string `json:"boot_id"`     // of the host: a lease never outlives it
	Fence       string `json:"fence"`       // what stops PostgreSQL when the agent cannot: "guardian"
	GuardianPID int    `json:"guardian_pid,omitempty"`
	Version     string `json:"version"`
	Created     bool   `json:"created"` // Interrex created this PostgreSQL (else it was adopted)
	// Place is how the agent reaches its node when that is not on the agent's own
	// host: "ssh postgres@pg-a". Such an agent cannot stop a PostgreSQL that it is
	// cut off from, and names no fence.
	Place string `json:"place,omitempty"`
}

// AgentStopped: an agent ended in order.
type AgentStopped struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
	Reason      string `json:"reason"`
}

// PostgresSeen: something that matters changed at a node's own PostgreSQL.
type PostgresSeen struct {
	Node         string        `json:"node"`
	State        PostgresState `json:"state"`
	PID          int           `json:"pid,omitempty"`   // postmaster
	Empty        bool          `json:"empty,omitempty"` // down, and its data directory holds nothing: it never was, or its volume was lost
	InRecovery   bool          `json:"in_recovery"`
	Timeline     uint32        `json:"timeline,omitempty"`
	SystemID     string        `json:"system_id,omitempty"`
	Version      int           `json:"version,omitempty"`  // server_version_num
	LSN          LSN           `json:"lsn,omitzero"`       // flush position (primary) or received position (standby)
	Receiver     string        `json:"receiver,omitempty"` // pg_stat_wal_receiver.status of a standby
	Upstream     string        `json:"upstream,omitempty"` // node it streams from, by name when known
	ReplayPaused bool          `json:"replay_paused,omitempty"`
	ClientSeen   bool          `json:"client_seen,omitempty"` // a client backend that is not Interrex's own was seen
	// Unheard: the node's agent reaches its host from elsewhere, and has not heard
	// of it for some seconds; Error says why when nothing else does. What it cannot
	// see there (processes) it does not speak of.
	Unheard  bool   `json:"unheard,omitempty"`
	Error    string `json:"error,omitempty"`
	SQLState string `json:"sqlstate,omitempty"`
}

// Replica is one row of pg_stat_replication.
type Replica struct {
	Node  string `json:"node"` // application_name
	State string `json:"state"`
	Sync  string `json:"sync,omitempty"`
	Flush LSN    `json:"flush,omitzero"`
}

// ProbeSummary counts the probes of one heartbeat interval.
type ProbeSummary struct {
	Count     int   `json:"n"`
	Failures  int   `json:"fail,omitempty"`
	MinMicros int64 `json:"min_us,omitempty"`
	MedMicros int64 `json:"med_us,omitempty"`
	MaxMicros int64 `json:"max_us,omitempty"`
}

// Heartbeat: the agent lives, and this is what its probes measured.
type Heartbeat struct {
	Node     string        `json:"node"`
	State    PostgresState `json:"state"`
	LSN      LSN           `json:"lsn,omitzero"`    // flush (primary) or received (standby)
	Replay   LSN           `json:"replay,omitzero"` // standby
	Probes   ProbeSummary  `json:"probes"`
	Replicas []Replica     `json:"replicas,omitempty"`
}

// PostgresExited: the postmaster process ended, seen first-hand (pidfd). It is
// not yet a proof: backends may outlive the postmaster.
type PostgresExited struct {
	Node  string `json:"node"`
	PID   int    `json:"pid"`
	Clean bool   `json:"clean"` // pg_control says "shut down" or "shut down in recovery"
	Term  uint64 `json:"term,omitempty"`
}

// Causes of a PostgresDead.
const (
	CauseCrashed   = "crashed"    // it ended by itself, uncleanly
	CauseStopped   = "stopped"    // somebody stopped it cleanly
	CauseFenced    = "fenced"     // an order stopped it
	CauseLeaseLost = "lease-lost" // the agent or its guardian stopped it because the lease ran out
	CauseSwitched  = "switched"   // stopped cleanly by a switchover or an orderly shutdown
)

// PostgresDead is the proof "dead": no process of that PostgreSQL is left,
// standby.signal is on disk so that any later start is read-only, and the end
// of its WAL was read (TRIED 10 and 12).
type PostgresDead struct {
	Node          string `json:"node"`
	PID           int    `json:"pid,omitempty"`
	Term          uint64 `json:"term"` // highest term that this node ever held
	Cause         string `json:"cause"`
	Clean         bool   `json:"clean"`
	EndLSN        LSN    `json:"end_lsn,omitzero"`
	Timeline      uint32 `json:"timeline,omitempty"`
	SystemID      string `json:"system_id,omitempty"`
	Killed        int    `json:"killed,omitempty"` // processes that had to be killed
	StandbySignal bool   `json:"standby_signal"`
	// Outside names what PostgreSQL ran in when that was ended as a whole, and seen
	// to have no process left: "container pg-a". The proof is then "killed", and
	// where the WAL ends was not read: EndLSN is 0.
	Outside    string `json:"outside,omitempty"`
	TookMicros int64  `json:"took_us,omitempty"`
}

// FenceFailed: PostgreSQL could not be proved dead (a process in D state, a
// directory that cannot be written). No proof, no promotion.
type FenceFailed struct {
	Node  string `json:"node"`
	Term  uint64 `json:"term"`
	Error string `json:"error"`
}

// PeerSeen: what one agent's probe of another node's PostgreSQL found, when it
// changed.
type PeerSeen struct {
	Node       string        `json:"node"` // the one probed
	By         string        `json:"by"`   // the node whose agent probed
	State      PostgresState `json:"state"`
	InRecovery bool          `json:"in_recovery,omitempty"`
	Error      string        `json:"error,omitempty"`
}

// PositionReported: where a standby's WAL ends, read once with its receiver
// gone: it can grow no more from the old primary.
type PositionReported struct {
	Node     string `json:"node"`
	Decision uint64 `json:"decision"` // the order it answers
	LSN      LSN    `json:"lsn,omitzero"`
	Replay   LSN    `json:"replay,omitzero"`
	Timeline uint32 `json:"timeline,omitempty"`
	SystemID string `json:"system_id,omitempty"`
	Error    string `json:"error,omitempty"` // set when the position is unknown: no candidate
}

// LeaseAcquired: the agent of the node named by a grant took the lease. It is
// conditional on the granting decision, and names the fence that survives the
// agent; only then may the node take writes.
type LeaseAcquired struct {
	Node        string `json:"node"`
	Term        uint64 `json:"term"`
	Grant       uint64 `json:"grant"` // sequence of the granting decision
	Fence       string `json:"fence"`
	Incarnation string `json:"incarnation"`
	BootID      string `json:"boot_id"`
}

// LeaseRenewed is the primary's heartbeat.
type LeaseRenewed struct {
	Term  uint64 `json:"term"`
	Grant uint64 `json:"grant"`
	Heartbeat
}

// LeaseRefused: a renewal or acquisition was void: a newer decision stands in
// the log, or the acknowledgement came too late.
type LeaseRefused struct {
	Node   string `json:"node"`
	Term   uint64 `json:"term"`
	Reason string `json:"reason"`
}

func (AgentStarted) Kind() string     { return "agent-started" }
func (AgentStopped) Kind() string     { return "agent-stopped" }
func (PostgresSeen) Kind() string     { return "postgres-seen" }
func (Heartbeat) Kind() string        { return "heartbeat" }
func (PostgresExited) Kind() string   { return "postgres-exited" }
func (PostgresDead) Kind() string     { return "postgres-dead" }
func (FenceFailed) Kind() string      { return "fence-failed" }
func (PeerSeen) Kind() string         { return "peer-seen" }
func (PositionReported) Kind() string { return "position-reported" }
func (LeaseAcquired) Kind() string    { return "lease-acquired" }
func (LeaseRenewed) Kind() string     { return "lease-renewed" }
func (LeaseRefused) Kind() string     { return "lease-refused" }

func (AgentStarted) Class() Class     { return ClassHealth }
func (AgentStopped) Class() Class     { return ClassHealth }
func (PostgresSeen) Class() Class     { return ClassHealth }
func (Heartbeat) Class() Class        { return ClassHealth }
func (PostgresExited) Class() Class   { return ClassHealth }
func (PostgresDead) Class() Class     { return ClassHealth }
func (FenceFailed) Class() Class      { return ClassHealth }
func (PeerSeen) Class() Class         { return ClassHealth }
func (PositionReported) Class() Class { return ClassHealth }
func (LeaseAcquired) Class() Class    { return ClassLease }
func (LeaseRenewed) Class() Class     { return ClassLease }
func (LeaseRefused) Class() Class     { return ClassLease }

func (d AgentStarted) Key() string     { return d.Node }
func (d AgentStopped) Key() string     { return d.Node }
func (d PostgresSeen) Key() string     { return d.Node }
func (d Heartbeat) Key() string        { return d.Node }
func (d PostgresExited) Key() string   { return d.Node }
func (d PostgresDead) Key() string     { return d.Node }
func (d FenceFailed) Key() string      { return d.Node }
func (d PeerSeen) Key() string         { return d.By }
func (d PositionReported) Key() string { return d.Node }
func (d LeaseAcquired) Key() string    { return d.Node }
func (d LeaseRenewed) Key() string     { return d.Node }
func (d LeaseRefused) Key() string     { return d.Node }

func (AgentStarted) data()     {}
func (AgentStopped) data()     {}
func (PostgresSeen) data()     {}
func (Heartbeat) data()        {}
func (PostgresExited) data()   {}
func (PostgresDead) data()     {}
func (FenceFailed) data()      {}
func (PeerSeen) data()         {}
func (PositionReported) data() {}
func (LeaseAcquired) data()    {}
func (LeaseRenewed) data()     {}
func (LeaseRefused) data()     {}
