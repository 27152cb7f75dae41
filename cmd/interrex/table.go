package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// psqlTable prints rows as psql does: centred headings, left-aligned text.
func psqlTable(w io.Writer, head []string, rows [][]string) {
	width := make([]int, len(head))
	for i, h := range head {
		width[i] = utf8.RuneCountInString(h)
		for _, r := range rows {
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	line := func(cells []string, centre bool) {
		var b strings.Builder
		for i, c := range cells {
			if i > 0 {
				b.WriteString("|")
			}
			left := 0
			if centre {
				left = (width[i] - utf8.RuneCountInString(c)) / 2
			}
			right := width[i] - utf8.RuneCountInString(c) - left
			b.WriteString(" " + strings.Repeat(" ", left) + c + strings.Repeat(" ", right) + " ")
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	line(head, true)
	rule := make([]string, len(head))
	for i := range head {
		rule[i] = strings.Repeat("-", width[i]+2)
	}
	fmt.Fprintln(w, strings.Join(rule, "+"))
	for _, r := range rows {
		line(r, false)
	}
	plural := "s"
	if len(rows) == 1 {
		plural = ""
	}
	fmt.Fprintf(w, "(%d row%s)\n", len(rows), plural)
}

// nodeView is one node as status shows it.
type nodeView struct {
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
	Error            string              `json:"error,omitempty"`
	Probe            events.ProbeSummary `json:"probe"`
	Peers            []peerView          `json:"peers,omitempty"`
}

type peerView struct {
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

func viewNodes(s fsm.State) []nodeView {
	var sum int
	for _, n := range s.Nodes {
		sum += n.Weight
	}
	var out []nodeView
	for _, n := range s.Nodes {
		v := nodeView{
			NodeID: n.ID, Name: n.Name, Hostname: hostname(n), Port: n.Port, Status: n.Status, StatusName: statusNames[n.Status],
			PGStatus: pgStatus(n), Role: s.Role(n.Name), PGRole: pgRole(n), LastStatusChange: n.StatusSince.Local().Format(time.DateTime),
			AgentPID: n.Agent.PID, GuardianPID: n.Agent.GuardianPID, PostmasterPID: n.PG.PID, DataDirectory: n.DataDir,
			Timeline: n.PG.Timeline, Detached: n.Detached, Agent: agentWord(s, n), Error: n.PG.Error, Probe: n.Probes,
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
			v.Peers = append(v.Peers, peerView{p.By, string(p.State)})
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

// poolNodes prints SHOW POOL_NODES in the shape of a pgpool release.
func poolNodes(w io.Writer, s fsm.State, format string) {
	var rows [][]string
	head := []string{"node_id", "hostname", "port", "status", "lb_weight", "role"}
	if format == "pgpool43" {
		head = []string{
			"node_id", "hostname", "port", "status", "pg_status", "lb_weight", "role", "pg_role", "select_cnt",
			"load_balance_node", "replication_delay", "replication_state", "replication_sync_state", "last_status_change",
		}
	}
	for _, v := range viewNodes(s) {
		id, port, weight := strconv.Itoa(v.NodeID), strconv.Itoa(v.Port), fmt.Sprintf("%f", v.LBWeight)
		if format == "pgpool43" {
			rows = append(rows, []string{
				id, v.Hostname, port, v.StatusName, v.PGStatus, weight, v.Role, v.PGRole, "0", "false",
				strconv.FormatUint(v.ReplicationDelay, 10), v.ReplicationState, v.SyncState, v.LastStatusChange,
			})
			continue
		}
		rows = append(rows, []string{id, v.Hostname, port, strconv.Itoa(v.Status), weight, v.Role})
	}
	psqlTable(w, head, rows)
}
