package fsm

import (
	"slices"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// fact folds what agents saw; it reports whether e was a fact.
func (s *State) fact(e events.Event) bool {
	switch d := e.Data.(type) {
	case events.AgentStarted:
		if n := s.node(d.Node); n != nil {
			n.Agent, n.AgentSeq, n.AgentLeft, n.Heard = d, e.Seq, false, e.Seq
			// What an earlier agent saw is no longer first-hand.
			n.PG, n.PGSeq, n.PGFirst, n.Exited = events.PostgresSeen{Node: d.Node}, 0, 0, 0
		}
	case events.AgentStopped:
		if n := s.node(d.Node); n != nil {
			n.AgentLeft, n.Heard = true, e.Seq
		}
	case events.PostgresSeen:
		s.postgresSeen(e, d)
	case events.Heartbeat:
		s.heartbeat(e, d)
	case events.PostgresExited:
		if n := s.node(d.Node); n != nil {
			n.Exited, n.ExitedClean, n.Heard = e.Seq, d.Clean, e.Seq
			n.PG.State = events.PostgresDown
		}
	case events.PostgresDead:
		if n := s.node(d.Node); n != nil {
			n.Dead, n.DeadSeq, n.Heard, n.FenceFailed = d, e.Seq, e.Seq, 0
			n.PG.State, n.PG.Receiver = events.PostgresDown, ""
		}
	case events.FenceFailed:
		if n := s.node(d.Node); n != nil {
			n.FenceFailed, n.FenceError, n.Heard = e.Seq, d.Error, e.Seq
		}
	case events.PeerSeen:
		s.peerSeen(e, d)
	case events.PositionReported:
		if n := s.node(d.Node); n != nil {
			n.Position, n.PositionSeq, n.Heard = d, e.Seq, e.Seq
		}
	case events.LeaseAcquired:
		s.leaseSeen(e, d.Node, d.Grant, d.Fence)
	case events.LeaseRenewed:
		s.heartbeat(e, d.Heartbeat)
		s.leaseSeen(e, d.Node, d.Grant, "")
	case events.LeaseRefused:
		if n := s.node(d.Node); n != nil {
			n.Heard = e.Seq
		}
	default:
		return false
	}
	return true
}

func (s *State) postgresSeen(e events.Event, d events.PostgresSeen) {
	n := s.node(d.Node)
	if n == nil {
		return
	}
	if n.PGSeq == 0 || n.PG.State != d.State {
		n.PGFirst = e.Seq
	}
	if d.State == events.PostgresUp || d.State == events.PostgresRefusing { // a postmaster has answered
		n.Exited = 0
	}
	if d.State == events.PostgresUp {
		if n.DeadSeq > 0 && (!d.InRecovery || n.Name != s.Primary) {
			n.DeadSeq = 0 // it lives again
		}
	}
	if d.State != events.PostgresUp { // keep what the last good probe knew
		keep := n.PG
		keep.State, keep.Empty, keep.Unheard, keep.Error, keep.SQLState, keep.PID = d.State, d.Empty, d.Unheard, d.Error, d.SQLState, d.PID
		keep.Receiver, keep.ClientSeen, keep.Node = "", false, d.Node
		d = keep
	}
	n.PG, n.PGSeq, n.Heard = d, e.Seq, e.Seq
	s.position(n, d.LSN)
	if d.State != events.PostgresUp {
		return
	}
	if n.Name == s.Primary && !d.InRecovery {
		if d.Timeline > s.PrimaryTLI {
			s.PrimaryLSN = d.LSN // its history branched off: what lies beyond on the old one is counted in its decision
		}
		s.PrimaryTLI, s.SystemID = d.Timeline, d.SystemID
	}
	if d.InRecovery && d.Upstream == s.Primary && d.Receiver == "streaming" {
		n.HadStreaming = true
	}
}

func (s *State) heartbeat(e events.Event, d events.Heartbeat) {
	n := s.node(d.Node)
	if n == nil {
		return
	}
	n.Heard, n.Probes = e.Seq, d.Probes
	n.Replay = d.Replay
	if d.Replicas != nil || n.Name == s.Primary {
		n.Replicas = d.Replicas
	}
	s.position(n, d.LSN)
}

func (s *State) position(n *Node, lsn events.LSN) {
	if lsn == 0 {
		return
	}
	n.LSNGrew = n.LSN != 0 && lsn > n.LSN // a first report says nothing about movement
	n.LSN = lsn
	if n.Name == s.Primary && !n.PG.InRecovery {
		s.PrimaryLSN = max(s.PrimaryLSN, lsn)
	}
}

func (s *State) peerSeen(e events.Event, d events.PeerSeen) {
	if by := s.node(d.By); by != nil {
		by.Heard = e.Seq
	}
	n := s.node(d.Node)
	if n == nil {
		return
	}
	p := Peer{d.By, d.State, e.Seq}
	peers := slices.Clone(n.Peers)
	i, found := slices.BinarySearchFunc(peers, d.By, func(a Peer, by string) int { return strings.Compare(a.By, by) })
	if found {
		peers[i] = p
	} else {
		peers = slices.Insert(peers, i, p)
	}
	n.Peers = peers
}

// leaseSeen counts only lease events under the newest grant: the agent has read
// it, and acts by it.
func (s *State) leaseSeen(e events.Event, node string, grant uint64, fence string) {
	if n := s.node(node); n != nil {
		n.Heard = e.Seq
	}
	if grant != s.Grant.Seq || node != s.Grant.Node {
		return
	}
	if s.Grant.Acquired == 0 {
		s.Grant.Acquired = e.Seq
		s.Served = node // nobody else's WAL has all that may have been written from here on
	}
	if fence != "" {
		s.Grant.Fence = fence
	}
	s.Grant.Renewed = e.Seq
}

// result folds what executors did; it reports whether e was a result.
func (s *State) result(e events.Event) bool {
	var ref events.OrderRef
	var o OrderState
	switch d := e.Data.(type) {
	case events.OrderStarted:
		ref, o = d.OrderRef, OrderState{Status: "started"}
	case events.OrderProgress:
		ref, o = d.OrderRef, OrderState{Status: "started"}
	case events.OrderDone:
		ref, o = d.OrderRef, OrderState{Status: "done", How: d.How}
	case events.OrderFailed:
		ref, o = d.OrderRef, OrderState{Status: "failed", Acted: d.Acted, Error: d.Error}
	case events.OrderRefused:
		ref, o = d.OrderRef, OrderState{Status: "refused", Error: d.Reason}
	default:
		return false
	}
	if n := s.node(ref.Node); n != nil {
		n.Heard = e.Seq
	}
	for i := range s.Orders {
		x := &s.Orders[i]
		if x.Decision == ref.Decision && x.Node == ref.Node && x.Do == ref.Action {
			x.Status, x.Seq, x.Acted, x.How, x.Error = o.Status, e.Seq, o.Acted, o.How, o.Error
		}
	}
	return true
}

// request keeps what an operator asked until it is answered.
func (s *State) request(e events.Event) {
	if _, ok := e.Data.(events.StartupRequested); ok {
		s.Started = e.Seq
		return
	}
	if e.Data.Class() == events.ClassOperator {
		s.Requests = append(s.Requests, Request{e.Seq, e.Data})
	}
}
