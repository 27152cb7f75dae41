// Package adopt looks at PostgreSQL servers that Interrex did not create and
// says what stands in the way of taking them over. It changes nothing: for each
// finding it names the exact line to change and whether that takes a reload or
// a restart, and it lists what Interrex would create, and the way back.
//
// Servers of other hosts are looked at there, through the node's executor. A
// report is true of the moment that it was made in: interrex up makes one again.
package adopt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/interrex-ha/interrex/config"
)

// Oldest and Newest are the PostgreSQL major versions that Interrex knows.
const (
	Oldest = 13
	Newest = 18
)

// Level is the weight of a finding.
type Level string

// The levels, from light to grave.
const (
	OK     Level = "ok"     // as it should be, or worth knowing
	Warn   Level = "warn"   // works, with less than what could be promised
	Refuse Level = "refuse" // Interrex would not take over; Fix says what to change
)

// When says what a fix takes to become true.
type When string

// What a fix takes.
const (
	AtOnce  When = ""
	Reload  When = "reload"
	Restart When = "restart"
)

// Finding is one thing that was looked at.
type Finding struct {
	Node    string `json:"node,omitempty"` // empty: the host or the cluster as a whole
	Level   Level  `json:"level"`
	Check   string `json:"check"` // one word, the same in every release
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`   // the exact line, or command, to change
	Takes   When   `json:"takes,omitempty"` // what the fix takes to become true
}

// Report is what a plan found. Nodes are the given ones with all that could be
// found out filled in.
type Report struct {
	Nodes    []config.Node `json:"nodes"`
	Primary  string        `json:"primary,omitempty"` // the one server that takes writes; empty when there is not exactly one
	Findings []Finding     `json:"findings"`
	Creates  []string      `json:"creates"` // what taking over would add
	Back     []string      `json:"back"`    // how to undo it, in order

	systemID string            // of the primary
	sockets  map[string]string // directory of the Unix socket by node
	logs     map[string]string // see Taken.Logs
	hosts    *Hosts
}

// Count returns how many findings have the level.
func (r Report) Count(l Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// Refused reports whether anything stands in the way.
func (r Report) Refused() bool { return r.Count(Refuse) > 0 }

// lookTime bounds what one node may take to answer, all its questions together.
const lookTime = 10 * time.Second

// Plan looks at the nodes of a cluster and at this host. It opens connections
// and reads files, runs systemctl is-enabled and, as the owner of a data
// directory, psql; nothing is written. The error is about the call itself (no
// nodes, ctx ended); what is wrong with the servers stands in the report.
func Plan(ctx context.Context, nodes []config.Node, hosts *Hosts) (Report, error) {
	if len(nodes) == 0 {
		return Report{}, errors.New("adopt: no node is configured; set INTERREX_NODE_0_DATA_DIRECTORY and so on")
	}
	h := thisHost()
	var seen []view
	for _, n := range nodes {
		one, cancel := context.WithTimeout(ctx, lookTime)
		if n.Here() {
			seen = append(seen, look(one, h, n))
		} else {
			seen = append(seen, lookThere(ctx, hosts, n))
		}
		cancel()
		if err := ctx.Err(); err != nil {
			return Report{}, fmt.Errorf("adopt: looking at node %s: %w", n.Name, err)
		}
	}
	r := judge(seen)
	r.hosts = hosts
	r.Findings = append(otherManagers(ctx, h, seen), r.Findings...)
	for _, v := range seen {
		r.Findings = append(r.Findings, v.managers...)
	}
	r.Creates, r.Back = creates(r.Nodes, r.Primary)
	return r, ctx.Err()
}

// view is all that was seen of one node; what could not be seen is zero, and
// early says why.
type view struct {
	node     config.Node
	place    place     // on disk and among the processes
	facts    *facts    // what the server says; nil when it said nothing
	boot     boot      // who starts it when the host boots
	here     bool      // its address belongs to this host
	replicas error     // why a replication connection did not work; nil when it did
	early    []Finding // found while looking
	managers []Finding // of another host
	log      string    // of another host: the file that a server started there writes to
}

func (v *view) found(level Level, check, fix string, takes When, format string, args ...any) {
	v.early = append(v.early, Finding{Node: v.node.Name, Level: level, Check: check, Message: fmt.Sprintf(format, args...), Fix: fix, Takes: takes})
}

// look asks everything of one node of this host, from the outside in: its
// address, its directory, its processes, the server.
func look(ctx context.Context, h host, n config.Node) view {
	v := view{node: n}
	v.here = h.isHere(ctx, n.Host)
	if !v.here {
		v.found(Refuse, "host", "", AtOnce,
			"%s is not this host; reach it by INTERREX_NODE_%d_EXECUTOR=ssh, as postgres with a key: it is then looked at there", n.Host, n.ID)
		return v
	}
	return lookInside(ctx, h, n)
}

// lookInside asks everything on the node's own host.
func lookInside(ctx context.Context, h host, n config.Node) view {
	v := view{node: n, here: true}
	var err error
	if v.node, v.place, err = h.discover(ctx, n); err != nil {
		v.found(Refuse, "directory", "", AtOnce, "%v", err)
		return v
	}
	v.boot = h.autostart(ctx, v.node)
	if v.place.pid == 0 {
		v.found(Refuse, "running", startCommand(v.node), AtOnce,
			"no server runs in %s; it has to run, as it did until now, so that it can be looked at", v.node.DataDirectory)
		return v
	}
	v.facts = ask(ctx, &v)
	if v.facts != nil && v.facts.Settings != nil {
		v.replicas = tryReplication(ctx, &v)
		for _, check := range ownChecks {
			check(&v)
		}
	}
	return v
}

func startCommand(n config.Node) string {
	if version, name, ok := debian(n.ConfigFile); ok {
		return fmt.Sprintf("pg_ctlcluster %s %s start", version, name)
	}
	return fmt.Sprintf("%s/pg_ctl -D %s start", n.BinDirectory, n.DataDirectory)
}
