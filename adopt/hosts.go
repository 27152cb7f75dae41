package adopt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/executors/onhost"
)

// Hosts are the places that nodes' commands run in: one connection for each,
// made at its first use. It may be used by any number of goroutines.
type Hosts struct {
	program string
	logger  *slog.Logger

	mu    sync.Mutex
	known map[string]*onhost.Host // by config.Node.Place
	kept  []link                  // their runners
}

// NewHosts reaches other hosts; program is this program's file, which is copied
// there.
func NewHosts(program string, logger *slog.Logger) *Hosts {
	return &Hosts{program: program, logger: logger, known: map[string]*onhost.Host{}}
}

// Runner is where the node's commands run. Nothing is connected by it.
func (h *Hosts) Runner(n config.Node) executors.Runner {
	if n.Here() {
		return local.New()
	}
	return h.host(n)
}

func (h *Hosts) host(n config.Node) *onhost.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	place := n.Place()
	if _, ok := h.known[place]; !ok {
		r := reach(n)
		h.kept = append(h.kept, r)
		h.known[place] = onhost.New(r, onhost.Options{Program: h.program, Where: place, Logger: h.logger})
	}
	return h.known[place]
}

// Close ends what goes on at other hosts for us.
func (h *Hosts) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, host := range h.known {
		host.Close()
	}
	for _, r := range h.kept {
		_ = r.Close()
	}
}

// thereTime bounds what a node of another host may take to be looked at, this
// program's copying included.
const thereTime = 2 * time.Minute

// lookThere asks a node's own host what look asks here, and then, from here, what
// its agent will need: connections over TCP.
func lookThere(ctx context.Context, hosts *Hosts, n config.Node) view {
	ctx, cancel := context.WithTimeout(ctx, thereTime)
	defer cancel()
	asked := n
	asked.Passfile, asked.Executor = "", "" // what they say is so from here
	var got travelled
	if err := hosts.host(n).Ask(ctx, lookQuestion, asked, &got); err != nil {
		v := view{node: n}
		v.found(Refuse, "executor", "", AtOnce, "it cannot be looked at: %v", err)
		return v
	}
	v := got.view()
	v.node.Passfile, v.node.Executor = n.Passfile, n.Executor
	if v.facts == nil || v.facts.Settings == nil {
		return v
	}
	v.found(OK, "executor", "", AtOnce, "reached by %s; its agent runs here and cannot stop it when it is cut off from it: silence of its host is no proof, a failover then waits for one, or for an operator", n.Place())
	if _, err := askTCP(ctx, v.node); err != nil {
		fix, takes := connectFix(v.node, "all", err)
		v.found(Refuse, "connect", fix, takes, "%s cannot connect from here to %s:%d, as its agent has to: %v", n.User, n.Host, v.node.Port, brief(err))
		return v
	}
	v.found(OK, "connect", "", AtOnce, "%s connects from here to %s:%d", n.User, n.Host, v.node.Port)
	sameServer(ctx, &v)
	v.replicas = tryReplicationTCP(ctx, v.node)
	return v
}

// sameServer makes sure that the place and the address are of one server: what
// is stopped, and proved dead, in the one must be what the others reach by the
// other.
func sameServer(ctx context.Context, v *view) {
	n := v.node
	conn, err := pgx.Connect(ctx, conninfo(n))
	if err == nil {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	}
	var lock string
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT pg_read_file('postmaster.pid')").Scan(&lock)
	}
	if err != nil {
		v.found(Refuse, "place", "", AtOnce, "whether the server at %s:%d is the one that %s leads to cannot be seen: %v", n.Host, n.Port, n.Place(), err)
		return
	}
	lines := strings.Split(lock, "\n")
	if len(lines) < 3 || strings.TrimSpace(lines[0]) != strconv.Itoa(v.place.pid) || strings.TrimSpace(lines[2]) != v.place.started {
		v.found(Refuse, "place", fmt.Sprintf("INTERREX_NODE_%d_HOST, or where its executor leads", n.ID), AtOnce,
			"the server at %s:%d is not the one in %s that %s leads to: Interrex would stop one and promote over the other", n.Host, n.Port, n.DataDirectory, n.Place())
	}
}

// lookQuestion is asked of this program's copy on a node's host.
const lookQuestion = "adopt.look"

// Questions are what this program's copy answers about its own host.
func Questions() map[string]onhost.Question {
	return map[string]onhost.Question{lookQuestion: func(ctx context.Context, with json.RawMessage) (any, error) {
		var n config.Node
		if err := json.Unmarshal(with, &n); err != nil {
			return nil, fmt.Errorf("the node to look at: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		h := thisHost()
		v := lookInside(ctx, h, n)
		v.managers = otherManagers(ctx, h, []view{v})
		v.managers = append(v.managers, h.otherInterrex("", []config.Node{n})...)
		for i := range v.managers {
			v.managers[i].Node = n.Name
		}
		return travel(v), nil
	}}
}

// travelled is a view as it comes from another host.
type travelled struct {
	Node     config.Node `json:"node"`
	Version  int         `json:"version"`
	Owner    uint32      `json:"owner"`
	PID      int         `json:"pid"`
	Started  string      `json:"started"`
	Port     int         `json:"port"`
	Free     uint64      `json:"free"`
	Mount    bool        `json:"mount"`
	WALLink  bool        `json:"wal_link"`
	Facts    *facts      `json:"facts"`
	Auto     bool        `json:"auto"`
	How      string      `json:"how"`
	Fix      string      `json:"fix"`
	Replicas string      `json:"replicas"`
	Early    []Finding   `json:"early"`
	Managers []Finding   `json:"managers"`
	Log      string      `json:"log"`
}

func travel(v view) travelled {
	t := travelled{
		Node: v.node, Version: v.place.version, Owner: v.place.owner, PID: v.place.pid, Started: v.place.started, Port: v.place.port, Free: v.place.free,
		Mount: v.place.mount, WALLink: v.place.walLink, Facts: v.facts, Auto: v.boot.auto, How: v.boot.how, Fix: v.boot.fix,
		Early: v.early, Managers: v.managers, Log: debianLog(v.node),
	}
	if v.replicas != nil {
		t.Replicas = v.replicas.Error()
	}
	return t
}

func (t travelled) view() view {
	v := view{
		node: t.Node, facts: t.Facts, boot: boot{auto: t.Auto, how: t.How, fix: t.Fix}, here: true, early: t.Early, managers: t.Managers, log: t.Log,
		place: place{version: t.Version, owner: t.Owner, pid: t.PID, started: t.Started, port: t.Port, free: t.Free, mount: t.Mount, walLink: t.WALLink},
	}
	if t.Replicas != "" {
		v.replicas = errors.New(t.Replicas)
	}
	return v
}
