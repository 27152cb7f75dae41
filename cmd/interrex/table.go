package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/view"
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
	for _, v := range view.Nodes(s) {
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
