// Package fsm is the pure core: what the log says (Fold), what should follow
// (Machine.Decide) and when to ask again though nothing is heard (Deadlines).
// It reads no clock, throws no dice and reaches nothing outside its arguments:
// the same prefix of the log gives the same decision, today and in ten years.
package fsm

import (
	"fmt"
	"slices"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// pgpool-II's node status.
const (
	StatusUnused  = 0 // never seen
	StatusWaiting = 1 // up, no client connection seen since it was attached
	StatusUp      = 2 // up, and a client connection was seen
	StatusDown    = 3
)

// State is everything that a decision may depend on. It is plain data: no map,
// pointer, channel or mutex, and slices only in a fixed order, so that two
// controllers that folded the same log hold the same bytes.
type State struct {
	Seq    uint64
	Time   time.Time
	Digest events.Digest

	Cluster    string
	Created    bool
	Bootstrap  string // the node that may be made from nothing, "": none
	RuleSet    int
	Policy     events.Policy
	PolicyHash string
	LeaseWait  time.Duration // the longest ExpiryWait of a policy that the holder of this term may act by
	Halted     string        // why this program must not decide; empty when it may
	Alarms     []Alarm

	Phase        events.Phase
	PhaseSince   uint64 // the decision that began it
	PhaseRule    int    // its rule
	Episode      uint64 // the decision with which the primary's loss began
	Term         uint64
	Primary      string // who holds, or last held, the term
	Served       string // the last primary that was seen in office, or took the lease and may have written
	Grant        Grant
	LastDecision uint64
	Target       string
	Stall        string
	PrimaryLSN   events.LSN // last position that the primary reported
	PrimaryTLI   uint32
	SystemID     string

	Nodes    []Node    // by id
	Requests []Request // not yet answered, oldest first
	Rung     []Rung    // last deadline of each name and node
	Orders   []OrderState
	Pause    Pause
	Declined []string // what was declined since the phase began
	Started  uint64   // last startup-requested, 0 when it was answered
}

// Alarm is something that no healthy cluster shows: a void decision, an
// unknown kind where it matters.
type Alarm struct {
	Seq  uint64
	Text string
}

// Grant is the newest right to be primary.
type Grant struct {
	events.Grant
	Seq      uint64     // the granting decision
	Begun    uint64     // the decision that first granted this term; Seq is newer when whether it may stay has changed since
	End      events.LSN // where the WAL of the last primary in office ends, when it was read: see granted
	Running  bool       // the node was a running primary when it was named: that its lease was not acquired proves nothing
	Acquired uint64     // first lease event of this term, 0: never acquired
	Renewed  uint64     // last lease event that cites Seq itself, 0: the agent does not act by this grant yet
	Fence    string     // what survives the agent, as the acquisition named it
}

// Node is what is known of one node.
type Node struct {
	events.Member
	Status      int
	StatusSince time.Time
	Detached    bool

	Agent        events.AgentStarted
	AgentSeq     uint64 // its agent-started, 0: never
	AgentLeft    bool   // it ended in order
	Heard        uint64 // last event from its agent
	PG           events.PostgresSeen
	PGSeq        uint64 // last postgres-seen, 0: nothing known
	PGFirst      uint64 // first postgres-seen of the current state
	LSN          events.LSN
	Replay       events.LSN
	LSNGrew      bool   // between its last two reports
	HadStreaming bool   // it has been a working standby of this cluster
	Exited       uint64 // postgres-exited that no later start has answered
	ExitedClean  bool
	Dead         events.PostgresDead
	DeadSeq      uint64 // 0: not proved dead, or seen alive since
	FenceFailed  uint64
	FenceError   string
	Position     events.PositionReported
	PositionSeq  uint64
	FailedIn     uint64 // episode in which it could not be promoted or resumed
	FailedAt     uint64 // the decision that had named it then
	FailedMute   bool   // and it was not heard of since
	Replicas     []events.Replica
	Peers        []Peer // what others' probes of it found, by prober
	Probes       events.ProbeSummary
}

// Peer is one other agent's view of a node.
type Peer struct {
	By    string
	State events.PostgresState
	Seq   uint64
}

// Request is an operator's event that waits for an answer.
type Request struct {
	Seq  uint64
	Data events.Data
}

// Rung is a deadline that was reached.
type Rung struct {
	Name, Node string
	Since      uint64
	Waited     time.Duration
	Seq        uint64
}

// OrderState is an order and how far it is.
type OrderState struct {
	events.Order
	Decision uint64
	Status   string // "", "started", "done", "failed", "refused"
	Seq      uint64 // of the last result
	Acted    bool
	How      string
	Error    string
}

// Pause is in force while Owner is set.
type Pause struct {
	events.Pause
	Since uint64 // the decision that set it
}

// Initial is the state of an empty log.
func Initial() State {
	return State{Phase: events.Forming, RuleSet: events.RuleSet, Policy: events.DefaultPolicy(), PolicyHash: events.DefaultPolicy().Hash(), LeaseWait: events.DefaultPolicy().ExpiryWait()}
}

// clone copies every slice, so that a Fold never writes into its input.
func (s State) clone() State {
	s.Nodes = slices.Clone(s.Nodes)
	s.Alarms = slices.Clone(s.Alarms)
	s.Requests = slices.Clone(s.Requests)
	s.Rung = slices.Clone(s.Rung)
	s.Orders = slices.Clone(s.Orders)
	s.Declined = slices.Clone(s.Declined)
	return s
}

// Node returns what is known of a node by name.
func (s State) Node(name string) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// node returns a pointer into the state's own slice, nil when there is none.
func (s *State) node(name string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

// primary returns the node that holds, or last held, the term.
func (s State) primary() Node {
	n, _ := s.Node(s.Primary)
	return n
}

// rung returns the last deadline of that name and node.
func (s State) rung(name, node string) Rung {
	for _, r := range s.Rung {
		if r.Name == name && r.Node == node {
			return r
		}
	}
	return Rung{}
}

// failed reports whether the node could not take office in this failover. An
// agent that was started since, or was only not heard then, may do better.
func (s State) failed(n Node) bool {
	again := n.AgentSeq > n.FailedAt || n.FailedMute && n.Heard > n.FailedAt
	return s.Episode != 0 && n.FailedIn == s.Episode && !again
}

// AgentLives reports whether the node's agent was heard of and has neither left
// in order nor been silent for the policy's time.
func (s State) AgentLives(n Node) bool {
	return n.AgentSeq > 0 && !n.AgentLeft && s.rung(DeadlineNode, n.Name).Since != n.Heard
}

// MayDecide says why this program must not decide in this state, or "".
func (s State) MayDecide() string {
	switch {
	case s.Halted != "":
		return s.Halted
	case s.RuleSet != events.RuleSet:
		return fmt.Sprintf("the log has rule set %d activated, this program has %d: use the version that the cluster uses", s.RuleSet, events.RuleSet)
	case len(s.Nodes) == 0:
		return "the log names no nodes yet"
	}
	return ""
}

// Paused reports whether automatic failover is suspended.
func (s State) Paused() bool { return s.Pause.Owner != "" }

// Role is what the cluster assigns to a node.
func (s State) Role(node string) string {
	if node == s.Primary {
		return "primary"
	}
	return "standby"
}
