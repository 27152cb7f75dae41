package executors_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/executors"
)

// newNothing is a node without a data directory.
func newNothing(t *testing.T) solo {
	t.Helper()
	s := newSolo(t)
	if err := os.RemoveAll(s.DataDir); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s solo) cluster(decision uint64) executors.NewCluster {
	return executors.NewCluster{
		Decision: decision, Superuser: "postgres", HBA: "local all all trust\n", Ident: "",
		Configuration: fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\nshared_buffers = 16MB\n", s.SocketDir),
		Statements:    []string{"create role shop login password 'it''s a secret'", "create database shop owner shop"},
	}
}

// TestInit: the first server of a cluster is made whole or not at all, by one
// decision, and over nothing.
func TestInit(t *testing.T) {
	s := newNothing(t)
	if !executors.Empty(s.Postgres) {
		t.Error("a directory that is not there is not called empty")
	}
	half := s.DataDir + ".interrex-init" // what a killed run left
	if err := os.MkdirAll(filepath.Join(half, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := executors.Init(within(t), s.Postgres, s.cluster(7)); err != nil {
		t.Fatal(err)
	}
	if !executors.Empty(s.Postgres) {
		t.Error("what was just made, and no term was given to, counts as the cluster's data")
	}
	s.up(false)
	var owner string
	if err := s.connect().QueryRow(t.Context(), "select pg_get_userbyid(datdba) from pg_database where datname = 'shop'").Scan(&owner); err != nil || owner != "shop" {
		t.Errorf("the statements were not run: owner %q, %v", owner, err)
	}
	for _, decision := range []uint64{7, 8} { // a container may end in between, and is told again
		if err := executors.Init(within(t), s.Postgres, s.cluster(decision)); err != nil {
			t.Errorf("decision %d, taken up again: %v", decision, err)
		}
	}
	s.exec("create table kept (n int)")
	if err := executors.InitDone(within(t), s.Postgres); err != nil {
		t.Fatal(err)
	}
	if executors.Empty(s.Postgres) {
		t.Error("the cluster's data is called empty")
	}
	for _, decision := range []uint64{7, 8} {
		if err := executors.Init(within(t), s.Postgres, s.cluster(decision)); !errors.Is(err, executors.ErrNotEmpty) || !strings.Contains(err.Error(), s.DataDir) {
			t.Errorf("decision %d over a cluster: %v", decision, err)
		}
	}
	s.exec("select n from kept") // and it was not touched

	kept := newNothing(t) // its data is in a recovery's keeping
	if err := os.MkdirAll(kept.DataDir+".interrex-rejoin", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := executors.Init(within(t), kept.Postgres, kept.cluster(7)); !errors.Is(err, executors.ErrNotEmpty) {
		t.Errorf("beside data that a recovery keeps: %v", err)
	}
}

// TestInitFails: a statement that fails leaves nothing that could be taken for
// data, and no password in the error.
func TestInitFails(t *testing.T) {
	s := newNothing(t)
	c := s.cluster(7)
	c.Statements = append(c.Statements, "create role shop login password 'hidden'")
	err := executors.Init(within(t), s.Postgres, c)
	if err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), `role "shop" already exists`) {
		t.Errorf("got %v", err)
	}
	if !executors.Empty(s.Postgres) {
		t.Error("something was left")
	}
}

// TestEmpty: only nothing is empty.
func TestEmpty(t *testing.T) {
	for _, c := range []struct {
		made  string
		empty bool
	}{
		{"", true},
		{"data/lost+found/", true},
		{"data/.interrex-new/", true},
		{"data/postgresql.conf", false},
		{"data/global/", false},
		{"data.interrex-rejoin/", false},
		{"data.interrex-recovering/", false},
		{"data.interrex-ready/", false},
		{"data.interrex-new/", true}, // a copy that was being made: nothing to lose
	} {
		s := newNothing(t)
		path := filepath.Join(filepath.Dir(s.DataDir), c.made)
		if strings.HasSuffix(c.made, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
		} else if c.made != "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := executors.Empty(s.Postgres); got != c.empty {
			t.Errorf("with %q: empty %v, want %v", c.made, got, c.empty)
		}
	}
}
