// Package view is what people and programs are shown of a cluster: its status,
// its nodes, a decision with its reasons. `interrex status --output json` and the
// HTTP API print the very same values. It judges nothing and reaches nothing: it
// turns a folded state, or events, into plain data.
package view

import (
	"fmt"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// Status is `interrex status --output json` and GET /v1/cluster.
type Status struct {
	Cluster    string      `json:"cluster"`
	Phase      string      `json:"phase"`
	Term       uint64      `json:"term"`
	Primary    string      `json:"primary"`
	Durability string      `json:"durability"`
	Promise    string      `json:"promise"`
	MayStay    bool        `json:"may_stay"`
	Paused     string      `json:"paused,omitempty"`
	Stalled    string      `json:"stalled,omitempty"`
	Halted     string      `json:"halted,omitempty"`
	Nodes      []Node      `json:"nodes"`
	Seq        uint64      `json:"seq"`
	Digest     string      `json:"digest"`
	RuleSet    int         `json:"rule_set"`
	PolicyHash string      `json:"policy_hash"`
	Alarms     []fsm.Alarm `json:"alarms,omitempty"`
}

// NewStatus shows a folded state.
func NewStatus(s fsm.State) Status {
	v := Status{
		Cluster: s.Cluster, Phase: string(s.Phase), Term: s.Term, Primary: s.Primary, Durability: s.Policy.Durability,
		Promise: Promise(s), MayStay: s.Grant.Stay, Stalled: s.Stall, Halted: s.MayDecide(), Nodes: Nodes(s),
		Seq: s.Seq, Digest: s.Digest.String(), RuleSet: s.RuleSet, PolicyHash: s.PolicyHash, Alarms: s.Alarms,
	}
	if s.Paused() {
		v.Paused = fmt.Sprintf("by %s for %s: %s", s.Pause.Owner, s.Pause.For, s.Pause.Reason)
	}
	return v
}

// Promise is what the durability mode promises, in one sentence.
func Promise(s fsm.State) string {
	return fmt.Sprintf("asynchronous: no promotion without a proof that the old primary is gone; a failover may lose what the chosen standby had not received, "+
		"and none is automatic where more than %s of WAL is known to be missing; the loss is logged, exactly where the old primary's disk could be read, else as far as its last report", Size(s.Policy.MaxLag))
}

// Size shows a number of bytes in the unit that a person would use.
func Size(b uint64) string {
	switch {
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	case b >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(b)/(1<<20))
	case b >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(b)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", b)
}

// Node is one node as status shows it. Weights are shares of 1, positions and
// delays bytes of WAL, the last status change the time of this host.
type Node struct {
	NodeID           int                 `json:"node_id"`
	Name             string              `json:"name"`
	Hostname         string              `json:"hostname"`
	Port             int                 `json:"port"`
	Status           int                 `json:"status"`
	StatusName       string              `json:"status_name"`
	PGStatus         string              `json:"pg_status"`
	LBWeight         float64             `json:"lb_weight"`
	Role             string              `json:"role"`
	PGRole           string              `json:"pg_role"`
	ReplicationDelay uint64              `json:"replication_delay"`
	ReplicationState string              `json:"replication_state"`
	SyncState        string              `json:"replication_sync_state"`
	LastStatusChange string              `json:"last_status_change"`
	AgentPID         int                 `json:"agent_pid,omitempty"`
	GuardianPID      int                 `json:"guardian_pid,omitempty"`
	PostmasterPID    int                 `json:"postmaster_pid,omitempty"`
	DataDirectory    string              `json:"data_directory"`
	Timeline         uint32              `json:"timeline,omitempty"`
	LSN              string              `json:"lsn,omitempty"`
	Detached         bool                `json:"detached,omitempty"`
	Agent            string              `json:"agent"`
	Place            string              `json:"place,omitempty"`   // how its agent reaches it from another host; such an agent cannot stop it when it is cut off from it
	Unheard          bool                `json:"unheard,omitempty"` // that host has not told of it for some seconds: see Error
	Error            string              `json:"error,omitempty"`
	Probe            events.ProbeSummary `json:"probe"`
	Peers            []Peer              `json:"peers,omitempty"`
}

// Peer is what another node's agent found at the node.
type Peer struct {
	By    string `json:"by"`
	State string `json:"state"`
}

// hostname is the name that an operator knows the node by: its host, or its
// name where all hosts are this one.
func hostname(n fsm.Node) string {
	switch n.Host {
	case "", "localhost", "127.0.0.1", "::1":
		return n.Name
	}
	return n.Host
}

var statusNames = []string{"unused", "waiting", "up", "down"}

// Nodes shows the nodes by id.
func Nodes(s fsm.State) []Node {
	var sum int
	for _, n := range s.Nodes {
		sum += n.Weight
	}
	var out []Node
	for _, n := range s.Nodes {
		v := Node{
			NodeID: n.ID, Name: n.Name, Hostname: hostname(n), Port: n.Port, Status: n.Status, StatusName: statusNames[n.Status],
			PGStatus: pgStatus(n), Role: s.Role(n.Name), PGRole: pgRole(n), LastStatusChange: n.StatusSince.Local().Format(time.DateTime),
			AgentPID: n.Agent.PID, GuardianPID: n.Agent.GuardianPID, PostmasterPID: n.PG.PID, DataDirectory: n.DataDir,
			Timeline: n.PG.Timeline, Detached: n.Detached, Agent: agentWord(s, n), Place: n.Agent.Place, Unheard: n.PG.Unheard, Error: n.PG.Error, Probe: n.Probes,
		}
		if n.LSN != 0 {
			v.LSN = n.LSN.String()
		}
		if sum > 0 {
			v.LBWeight = float64(n.Weight) / float64(sum)
		}
		if n.Name != s.Primary {
			v.ReplicationDelay = n.LSN.Behind(s.PrimaryLSN)
			v.ReplicationState = n.PG.Receiver
		}
		if p, ok := s.Node(s.Primary); ok {
			for _, r := range p.Replicas {
				if r.Node == n.Name {
					v.ReplicationState, v.SyncState = r.State, r.Sync
				}
			}
		}
		for _, p := range n.Peers {
			v.Peers = append(v.Peers, Peer{p.By, string(p.State)})
		}
		out = append(out, v)
	}
	return out
}

func agentWord(s fsm.State, n fsm.Node) string {
	switch {
	case n.AgentSeq == 0:
		return "never seen"
	case n.AgentLeft:
		return "stopped"
	case !s.AgentLives(n):
		return "silent"
	}
	return "running"
}

func pgStatus(n fsm.Node) string {
	switch n.PG.State {
	case "":
		return "unknown"
	case events.PostgresUp:
		return "up"
	case events.PostgresDown:
		return "down"
	}
	return string(n.PG.State)
}

func pgRole(n fsm.Node) string {
	switch {
	case n.PG.State != events.PostgresUp:
		return "unknown"
	case n.PG.InRecovery:
		return "standby"
	}
	return "primary"
}
