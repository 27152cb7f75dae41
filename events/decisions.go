package events

// Phase is what the cluster is going through.
type Phase string

const (
	Forming   Phase = "forming"   // no primary was ever named, or everything was stopped in order
	Healthy   Phase = "healthy"   // the primary serves
	Suspect   Phase = "suspect"   // the primary is silent or was stopped; it may come back
	Fencing   Phase = "fencing"   // making sure that the old primary is dead
	Electing  Phase = "electing"  // proof held; collecting the standbys' positions
	Promoting Phase = "promoting" // a node was named primary; waiting to see it serve
	Settling  Phase = "settling"  // it serves; the others are led to it
	Switching Phase = "switching" // planned: the old primary is being stopped cleanly
	Stalled   Phase = "stalled"   // cannot go on by itself; the reason names the way out
)

// Action is what an order tells a node to do.
type Action string

const (
	ActPromote  Action = "promote"  // become primary of the term
	ActResume   Action = "resume"   // the old primary starts again, read-write, under a new term
	ActFence    Action = "fence"    // stop PostgreSQL by force and prove it dead
	ActDemote   Action = "demote"   // close sessions, stop cleanly, prove it dead, report the end of WAL
	ActPosition Action = "position" // stop receiving and report where the WAL ends
	ActFollow   Action = "follow"   // stream from the primary named
	ActSettle   Action = "settle"   // new primary: checkpoint, slots, term row
	ActRecover  Action = "recover"  // become a standby of the primary: start, rewind or base backup
	ActStop     Action = "stop"     // stop a standby cleanly
	ActClean    Action = "clean"    // remove what a recovery kept aside
	ActInit     Action = "init"     // first of a new cluster: make the data directory and start it
)

// Order is one part of a decision. Its identity is the decision's sequence and
// its index; an order that is not in the log does not exist.
type Order struct {
	Do      Action   `json:"do"`
	Node    string   `json:"node"`
	Term    uint64   `json:"term"`              // fencing token: older ones are refused
	Primary string   `json:"primary,omitempty"` // follow, recover: the upstream
	Target  LSN      `json:"target,omitzero"`   // promote: the position that it must have
	Expires Duration `json:"expires,omitempty"` // after the agent read it: not begun later, promote not repeated later
	How     string   `json:"how,omitempty"`     // recover: "auto", "rewind", "basebackup"
}

// Grant is the right to be primary, and whether it ends with the log.
type Grant struct {
	Term uint64 `json:"term"`
	Node string `json:"node"`
	// Stay: the primary may outlive its lease, because nothing can be promoted
	// while this grant stands (single node, pause). "expired" is no proof
	// against such a grant (TRIED 14).
	Stay bool   `json:"stay,omitempty"`
	Why  string `json:"why,omitempty"`
}

// ProofKind names the evidence that an old primary can acknowledge no more.
type ProofKind string

const (
	ProofDead     ProofKind = "dead"
	ProofKilled   ProofKind = "killed" // from outside: what it ran in was ended, and that was verified
	ProofExpired  ProofKind = "expired"
	ProofUnused   ProofKind = "unacquired" // the grant was never acquired and this decision voids it
	ProofOperator ProofKind = "operator"
	ProofNone     ProofKind = "none-needed" // no node ever held a term
)

// Proof is the evidence in the prefix of a decision that names a new primary.
type Proof struct {
	Kind   ProofKind `json:"kind"`
	Node   string    `json:"node,omitempty"` // the old primary
	Term   uint64    `json:"term,omitempty"` // its term
	Events []uint64  `json:"events,omitempty"`
	EndLSN LSN       `json:"end_lsn,omitzero"` // exact end of its WAL, when known
	Why    string    `json:"why"`
}

// Candidate is one row of the table that a decision was chosen from.
type Candidate struct {
	Node     string `json:"node"`
	LSN      LSN    `json:"lsn,omitzero"`
	Timeline uint32 `json:"timeline,omitempty"`
	Lag      uint64 `json:"lag,omitempty"` // bytes behind the old primary's last known position
	Chosen   bool   `json:"chosen,omitempty"`
	Rejected string `json:"rejected,omitempty"` // why not, empty when it may be promoted
}

// Loss is the accounting of a failover, in bytes of WAL.
type Loss struct {
	Exact bool   `json:"exact"` // the end of the old primary's WAL was read
	From  LSN    `json:"from,omitzero"`
	To    LSN    `json:"to,omitzero"`
	Bytes uint64 `json:"bytes"`
}

// StatusMove changes a node's pgpool status (0 unused, 1 waiting, 2 up, 3 down).
type StatusMove struct {
	Node string `json:"node"`
	From int    `json:"from"`
	To   int    `json:"to"`
	Rule int    `json:"rule"`
	Why  string `json:"why"`
}

// Decided is one decision whole: the move, its reason, its evidence and its
// orders in one event, so that a crash cannot leave a move without its orders.
type Decided struct {
	Controller string `json:"controller"`
	BasedOn    uint64 `json:"based_on"` // the sequence just before this event; else it is void
	Previous   uint64 `json:"previous"` // sequence of the decision before
	Digest     string `json:"digest"`   // of the log up to BasedOn: the chain
	RuleSet    int    `json:"rule_set"`
	PolicyHash string `json:"policy_hash"`
	Durability string `json:"durability"`

	Rule     int      `json:"rule"` // 0 when only statuses move
	Trigger  string   `json:"trigger,omitempty"`
	From     Phase    `json:"from"`
	To       Phase    `json:"to"`
	Why      string   `json:"why"`
	Term     uint64   `json:"term"`
	Primary  string   `json:"primary,omitempty"`
	Evidence []uint64 `json:"evidence,omitempty"`
	Request  uint64   `json:"request,omitempty"` // the operator's event that it answers

	Grant      *Grant       `json:"grant,omitempty"`
	Proof      *Proof       `json:"proof,omitempty"`
	Candidates []Candidate  `json:"candidates,omitempty"`
	Loss       *Loss        `json:"loss,omitempty"`
	Orders     []Order      `json:"orders,omitempty"`
	Statuses   []StatusMove `json:"statuses,omitempty"`
	Pause      *Pause       `json:"pause,omitempty"` // set or, with an empty owner, lifted
	Detach     string       `json:"detach,omitempty"`
	Attach     string       `json:"attach,omitempty"`
	Stall      string       `json:"stall,omitempty"`  // what would resolve a stalled phase
	Target     string       `json:"target,omitempty"` // switching, or a failover that was asked for: who shall be primary
}

// Pause suspends automatic failover.
type Pause struct {
	Owner  string   `json:"owner"`
	Reason string   `json:"reason,omitempty"`
	For    Duration `json:"for,omitempty"`
}

// Declined: a decision was considered and not taken, or an operator's request
// was refused. De-duplicated: once for each (rule, missing) since the phase began.
type Declined struct {
	Controller string `json:"controller"`
	BasedOn    uint64 `json:"based_on"`
	Rule       int    `json:"rule,omitempty"`
	Would      string `json:"would"`              // what would have been done
	Missing    string `json:"missing"`            // which evidence or condition is missing
	Earliest   string `json:"earliest,omitempty"` // when it could pass at the earliest, as a sentence
	Request    uint64 `json:"request,omitempty"`
}

// DeadlineReached: a controller's timer rang. Time enters the log only so.
type DeadlineReached struct {
	Controller string   `json:"controller"`
	BasedOn    uint64   `json:"based_on"`
	Name       string   `json:"name"`
	Node       string   `json:"node,omitempty"`
	Since      uint64   `json:"since"`  // the event that the wait began at
	Waited     Duration `json:"waited"` // by the controller's own monotonic clock, uninterrupted
}

// Results: what an executor did. An order is not a result: phases move on what
// probes then see.

// OrderRef names the order that a result belongs to.
type OrderRef struct {
	Node     string `json:"node"`
	Decision uint64 `json:"decision"`
	Action   Action `json:"action"`
	Term     uint64 `json:"term"`
}

// OrderStarted: the agent has journalled its intent and begins.
type OrderStarted struct{ OrderRef }

// OrderProgress: how far a long order is.
type OrderProgress struct {
	OrderRef
	Step  string `json:"step"`
	Done  uint64 `json:"done,omitempty"`  // bytes
	Total uint64 `json:"total,omitempty"` // bytes
}

// OrderDone: the effect was seen by inspection.
type OrderDone struct {
	OrderRef
	How        string            `json:"how,omitempty"` // for example "rewind"
	Detail     map[string]string `json:"detail,omitempty"`
	TookMicros int64             `json:"took_us,omitempty"`
}

// OrderFailed: it did not work. Acted tells whether the node may have changed.
type OrderFailed struct {
	OrderRef
	Acted bool   `json:"acted"`
	Error string `json:"error"`
}

// OrderRefused: the agent would not begin (older term, expired, lease gone).
type OrderRefused struct {
	OrderRef
	Reason string `json:"reason"`
}

func (Decided) Kind() string         { return "decided" }
func (Declined) Kind() string        { return "declined" }
func (DeadlineReached) Kind() string { return "deadline-reached" }
func (OrderStarted) Kind() string    { return "order-started" }
func (OrderProgress) Kind() string   { return "order-progress" }
func (OrderDone) Kind() string       { return "order-done" }
func (OrderFailed) Kind() string     { return "order-failed" }
func (OrderRefused) Kind() string    { return "order-refused" }

func (Decided) Class() Class         { return ClassDecision }
func (Declined) Class() Class        { return ClassDeclined }
func (DeadlineReached) Class() Class { return ClassDeadline }
func (OrderStarted) Class() Class    { return ClassResult }
func (OrderProgress) Class() Class   { return ClassResult }
func (OrderDone) Class() Class       { return ClassResult }
func (OrderFailed) Class() Class     { return ClassResult }
func (OrderRefused) Class() Class    { return ClassResult }

func (d Decided) Key() string         { return d.Controller }
func (d Declined) Key() string        { return d.Controller }
func (d DeadlineReached) Key() string { return d.Controller }
func (r OrderRef) Key() string        { return r.Node }

func (Decided) data()         {}
func (Declined) data()        {}
func (DeadlineReached) data() {}
func (OrderRef) data()        {}
