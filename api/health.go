package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// Health is a node as a health endpoint shows it, in the shape of Patroni's REST
// API: what its users read there they find here under the same names.
type Health struct {
	State            string `json:"state"` // running, starting, stopping, stopped; silent, unreachable, refusing; unknown
	Role             string `json:"role"`  // primary: it may be written to now; replica; unknown
	ServerVersion    int    `json:"server_version,omitempty"`
	Xlog             *Xlog  `json:"xlog,omitempty"`
	Timeline         uint32 `json:"timeline,omitempty"`
	ReplicationState string `json:"replication_state,omitempty"`
	Pause            bool   `json:"pause,omitempty"`
	SystemID         string `json:"database_system_identifier,omitempty"`
	Interrex         About  `json:"interrex"`
	Reason           string `json:"reason,omitempty"` // why the answer is 503
}

// Xlog holds positions in bytes: a primary's, or what a standby has received and
// replayed.
type Xlog struct {
	Location uint64 `json:"location,omitempty"`
	Received uint64 `json:"received_location,omitempty"`
	Replayed uint64 `json:"replayed_location,omitempty"`
	Paused   bool   `json:"paused,omitempty"`
}

// About says who answers.
type About struct {
	Version string `json:"version"`
	Scope   string `json:"scope"` // the cluster
	Name    string `json:"name"`  // the node
	Phase   string `json:"phase"`
	Seq     uint64 `json:"seq"` // the event up to which the log was folded
}

// seen is what a health check judges.
type seen struct {
	s       fsm.State
	n       fsm.Node
	renewed time.Duration // since the last renewal was heard
	stale   error         // the state is too old to claim anything from
	lag     uint64        // bound of ?lag=
	bounded bool
}

// check says why a node is not what was asked for, or "".
type check func(seen) string

// checks are the health endpoints, by the last part of their path.
var checks = map[string]check{
	"primary": isPrimary, "master": isPrimary, "leader": isPrimary, "read-write": isPrimary,
	"replica": isReplica, "read-only": isReadable,
	"health": isRunning, "liveness": isAttended, "readiness": isReadable,
}

// isPrimary: the cluster's primary of this moment, which takes writes. While the
// cluster fences, elects, promotes or switches, nobody is.
func isPrimary(v seen) string {
	s, n := v.s, v.n
	switch {
	case v.stale != nil:
		return v.stale.Error()
	case n.Name != s.Primary && s.Primary != "":
		return fmt.Sprintf("%s is the primary of term %d", s.Primary, s.Term)
	case s.Phase != events.Healthy && s.Phase != events.Settling && s.Phase != events.Suspect || n.Name != s.Primary:
		return fmt.Sprintf("the cluster is %s: nobody is primary now", s.Phase)
	case s.Grant.Acquired == 0:
		return n.Name + " has not taken the lease of its term yet"
	case !s.Grant.Stay && v.renewed > s.Policy.Lease.D():
		return fmt.Sprintf("the lease of %s was not renewed for %s, and lasts %s", n.Name, v.renewed.Round(time.Millisecond), s.Policy.Lease)
	case n.PG.State != events.PostgresUp || n.Exited != 0:
		return fmt.Sprintf("PostgreSQL of %s is %s", n.Name, stateOf(n))
	case n.PG.InRecovery:
		return n.Name + " is in recovery"
	}
	return ""
}

// isReplica: a standby that is attached, up by pgpool's status, and not further
// behind than was asked for.
func isReplica(v seen) string {
	s, n := v.s, v.n
	switch {
	case v.stale != nil:
		return v.stale.Error()
	case n.Name == s.Primary:
		return fmt.Sprintf("%s is the primary of term %d", n.Name, s.Term)
	case n.Detached:
		return n.Name + " is detached: interrex attach " + n.Name
	case n.PG.State != events.PostgresUp:
		return fmt.Sprintf("PostgreSQL of %s is %s", n.Name, stateOf(n))
	case !n.PG.InRecovery:
		return n.Name + " is no standby"
	case n.Status != fsm.StatusWaiting && n.Status != fsm.StatusUp:
		return fmt.Sprintf("the status of %s is %d: it does not follow the primary", n.Name, n.Status)
	case !s.AgentLives(n):
		return "the agent of " + n.Name + " is not heard"
	case v.bounded && behind(s, n) > v.lag:
		return fmt.Sprintf("%s lags %d bytes behind, %d were asked for at most", n.Name, behind(s, n), v.lag)
	}
	return ""
}

// behind is the WAL that a standby has not replayed, as far as it tells, else not
// received.
func behind(s fsm.State, n fsm.Node) uint64 {
	at := n.LSN
	if n.Replay != 0 {
		at = n.Replay
	}
	return at.Behind(s.PrimaryLSN)
}

func isReadable(v seen) string {
	if v.n.Name == v.s.Primary {
		return isPrimary(v)
	}
	return isReplica(v)
}

func isRunning(v seen) string {
	switch {
	case v.stale != nil:
		return v.stale.Error()
	case v.n.PG.State != events.PostgresUp || v.n.Exited != 0:
		return fmt.Sprintf("PostgreSQL of %s is %s", v.n.Name, stateOf(v.n))
	}
	return ""
}

func isAttended(v seen) string {
	switch {
	case v.stale != nil:
		return v.stale.Error()
	case !v.s.AgentLives(v.n):
		return "the agent of " + v.n.Name + " is not heard"
	}
	return ""
}

// stateOf uses Patroni's words where it has one.
func stateOf(n fsm.Node) string {
	switch n.PG.State {
	case "":
		return "unknown"
	case events.PostgresUp:
		return "running"
	case events.PostgresDown:
		return "stopped"
	}
	return string(n.PG.State)
}

// health shows a node and the answer of a check.
func (s *Server) health(v seen, reason string) Health {
	h := Health{
		State: stateOf(v.n), Role: "unknown", ServerVersion: v.n.PG.Version, Timeline: v.n.PG.Timeline,
		ReplicationState: v.n.PG.Receiver, Pause: v.s.Paused(), SystemID: v.n.PG.SystemID, Reason: reason,
		Interrex: About{Version: s.options.Version, Scope: v.s.Cluster, Name: v.n.Name, Phase: string(v.s.Phase), Seq: v.s.Seq},
	}
	switch {
	case v.stale != nil:
		h.State = "unknown"
	case isPrimary(v) == "":
		h.Role, h.Xlog = "primary", &Xlog{Location: uint64(v.n.LSN)}
	case v.n.PG.State == events.PostgresUp && v.n.PG.InRecovery:
		h.Role, h.Xlog = "replica", &Xlog{Received: uint64(v.n.LSN), Replayed: uint64(v.n.Replay), Paused: v.n.PG.ReplayPaused}
	}
	return h
}

// healthOf answers a health check of a node: 200, or 503 with the reason.
func (s *Server) healthOf(w http.ResponseWriter, r *http.Request, node string, c check) error {
	v, err := s.see(r, node)
	if err != nil {
		return err
	}
	reason := c(v)
	status := http.StatusOK
	if reason != "" {
		status = http.StatusServiceUnavailable
	}
	if r.Method == http.MethodOptions { // Patroni: the status and no document
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		w.WriteHeader(status)
		return nil
	}
	return writeJSON(w, status, s.health(v, reason))
}

// see gathers what a check of a node judges. A node that the log does not name is
// a 404; while nothing is known of the log it may still be one.
func (s *Server) see(r *http.Request, node string) (seen, error) {
	var v seen
	v.s, v.renewed, v.stale = s.follower.peek()
	if lag := r.URL.Query().Get("lag"); r.URL.Query().Has("lag") {
		b, err := events.ParseBytes(lag)
		if err != nil {
			return v, bad("lag=%q must be a number of bytes, like 16777216, 16MB or 1GB", lag)
		}
		v.lag, v.bounded = b, true
	}
	n, ok := v.s.Node(node)
	if !ok && v.stale != nil {
		return v, unavailable(v.stale)
	}
	if !ok {
		return v, unknownNode(v.s, node)
	}
	v.n = n
	return v, nil
}

// ownHealth answers the root form of a check: that of the node that the API was
// started for, or, without one, of the API itself where that has a meaning.
func (s *Server) ownHealth(w http.ResponseWriter, r *http.Request, name string) error {
	if s.options.Node != "" {
		return s.healthOf(w, r, s.options.Node, checks[name])
	}
	state, _, stale := s.follower.peek()
	if name != "liveness" && name != "readiness" {
		return fail(http.StatusNotFound, "this API serves several nodes: ask /nodes/NODE/%s, or start it with --node NODE", name)
	}
	if name == "liveness" {
		stale = s.follower.ended()
	}
	h := Health{State: "running", Role: "unknown", Interrex: About{Version: s.options.Version, Scope: state.Cluster, Phase: string(state.Phase), Seq: state.Seq}}
	status := http.StatusOK
	if stale != nil {
		status, h.Reason = http.StatusServiceUnavailable, stale.Error()
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(status)
		return nil
	}
	return writeJSON(w, status, h)
}

// ended says why the log is followed no more.
func (f *follower) ended() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		return nil
	}
	return f.tooOld()
}
