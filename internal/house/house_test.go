package house_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/internal/house"
)

// TestTheRulesOfTheHouse judges the tree as it is.
func TestTheRulesOfTheHouse(t *testing.T) {
	g := load(t)
	if len(g[house.Module+"events"]) == 0 {
		t.Fatal("go list shows no imports of events: the graph is not the tree")
	}
	for _, b := range house.Check(g, house.Rules) {
		t.Error(b)
	}
}

// load asks go list for all packages that this module builds, with their
// imports and those of everything behind them. Test files are not in it.
func load(t *testing.T) house.Graph {
	t.Helper()
	lookAtSources(t)
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	g := house.Graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return g
		} else if err != nil {
			t.Fatalf("reading what go list printed: %v", err)
		}
		g[p.ImportPath] = p.Imports
	}
}

// lookAtSources has the go command remember this test's result only until a Go
// file of the tree changes: it sees what a test opens, not what go list does.
func lookAtSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // another test's file that is gone again
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".git") || d.Name() == "testdata"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go"):
			_, _ = os.Stat(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryRuleCanBreak shows each kind of offence to the checker: a rule that
// nothing can break keeps nothing.
func TestEveryRuleCanBreak(t *testing.T) {
	const m = house.Module
	for _, c := range []struct {
		name string
		g    house.Graph
		want string // part of the one break expected; empty: none
	}{
		{"the core asks the network", house.Graph{m + "fsm": {"net"}}, "fsm must not import net:"},
		{"the core runs a program", house.Graph{m + "fsm": {"os/exec"}}, "fsm must not import os/exec:"},
		{"the core reads a file", house.Graph{m + "fsm": {"os"}}, "fsm must not import os:"},
		{"fmt may use os", house.Graph{m + "fsm": {"fmt"}, "fmt": {"os"}}, ""},
		{"the core throws dice through its library", house.Graph{m + "fsm": {"github.com/looplab/fsm"}, "github.com/looplab/fsm": {"math/rand"}}, "github.com/looplab/fsm imports math/rand"},
		{"the core takes a new library", house.Graph{m + "fsm": {"github.com/google/uuid"}}, "fsm must not import github.com/google/uuid:"},
		{"the core logs", house.Graph{m + "fsm": {"log/slog"}}, "fsm must not import log/slog:"},
		{"the vocabulary takes a library", house.Graph{m + "events": {"github.com/google/uuid"}}, "events must not import github.com/google/uuid:"},
		{"the vocabulary may use json", house.Graph{m + "events": {"encoding/json"}}, ""},
		{"lease knows the cluster's machine", house.Graph{m + "fsm/lease": {m + "fsm"}, m + "fsm": nil}, "fsm/lease must not import fsm:"},
		{"agent reaches the core through a helper", house.Graph{m + "agent": {m + "internal/x"}, m + "internal/x": {m + "fsm"}, m + "fsm": nil}, "agent imports internal/x imports fsm)"},
		{"agent uses lease", house.Graph{m + "agent": {m + "fsm/lease"}, m + "fsm/lease": nil}, ""},
		{"controller reaches PostgreSQL", house.Graph{m + "controller": {m + "events/y"}, m + "events/y": {"github.com/jackc/pgx/v5"}}, "controller imports events/y imports github.com/jackc/pgx/v5)"},
		{"controller and agent meet", house.Graph{m + "controller": {m + "agent"}, m + "agent": nil}, "controller must not import agent:"},
		{"api and gateway meet", house.Graph{m + "api": {m + "gateway"}, m + "gateway": nil}, "api must not import gateway:"},
		{"cmd takes NATS", house.Graph{m + "cmd/interrex": {"github.com/nats-io/nats.go"}}, "cmd/interrex must not import github.com/nats-io/nats.go:"},
		{"cmd takes natslog", house.Graph{m + "cmd/interrex": {m + "events/natslog"}, m + "events/natslog": {"github.com/nats-io/nats.go"}}, ""},
		{"an executor takes the log's client", house.Graph{m + "executors": {m + "events/natslog"}, m + "events/natslog": {"github.com/nats-io/nats.go"}}, "executors imports events/natslog imports github.com/nats-io/nats.go)"},
		{"the agent takes the lab", house.Graph{m + "agent": {m + "lab"}, m + "lab": nil}, "agent must not import lab:"},
		{"cmd takes the lab", house.Graph{m + "cmd/interrex": {m + "lab"}, m + "lab": nil}, ""},
		{"a part imports cmd", house.Graph{m + "config": {m + "cmd/interrex"}, m + "cmd/interrex": nil}, "config must not import cmd/interrex:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := house.Check(c.g, house.Rules)
			switch {
			case c.want == "" && len(got) > 0:
				t.Fatalf("unexpected: %v", got)
			case c.want != "" && len(got) != 1:
				t.Fatalf("%d breaks, want 1: %v", len(got), got)
			case c.want != "" && !strings.Contains(got[0].String(), c.want):
				t.Fatalf("got %q, want it to contain %q", got[0], c.want)
			}
		})
	}
}
