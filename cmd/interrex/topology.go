package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/interrex-ha/interrex/adopt"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/lab"
)

// topology says where a cluster's servers are and how they are reached: one
// that Interrex made, or one that it took over.
type topology interface {
	Name() string
	Created() bool
	Members() []events.Member
	Place(node string) string // where its commands run, in words; empty: on this host
	Postgres(node string) executors.Postgres
	PeerDSN(node string) string
	Upstream(primary, standby string) executors.Upstream
	DSN() string
}

// made is a cluster that interrex up created.
type made struct{ *lab.Layout }

func (m made) Name() string  { return m.Cluster }
func (m made) Created() bool { return true }

// Place: Interrex makes clusters on its own host.
func (m made) Place(string) string { return "" }

func (m made) Members() []events.Member {
	var out []events.Member
	for _, n := range m.Nodes {
		out = append(out, events.Member{ID: n.ID, Name: n.Name, Host: n.Host, Port: n.Port, DataDir: n.DataDir, Weight: 1000})
	}
	return out
}

// takenFile keeps what was found out about a cluster that was taken over.
func takenFile(dir string) string { return filepath.Join(dir, "adopted.json") }

// loadTopology reads what an earlier interrex up left in the directory.
func loadTopology(dir string) (topology, error) {
	b, err := os.ReadFile(takenFile(dir))
	if err == nil {
		var t adopt.Taken
		if err := json.Unmarshal(b, &t); err != nil {
			return nil, fmt.Errorf("%s is damaged: %w; remove it and have interrex up take the servers over again", takenFile(dir), err)
		}
		t.Dir, t.Hosts = dir, adopt.NewHosts(selfPath(), slog.Default())
		return t, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s belongs to another user: run this as that user or as root", dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := lab.Load(dir)
	if errors.Is(err, lab.ErrNoCluster) {
		return nil, fmt.Errorf("%w; make one with: interrex up --dir %s", err, dir)
	}
	if err != nil {
		return nil, err
	}
	return made{l}, nil
}

// nodeDir holds a node's journal, lease and locks.
func nodeDir(dir, node string) string { return filepath.Join(dir, node) }
