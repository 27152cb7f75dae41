package executors

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The first server of a new cluster is made beside its place and gets its name
// last: what a killed run leaves is never taken for data.
const (
	placeInit = "interrex-init"          // a data directory that is being made
	initMark  = "interrex-init.decision" // file in it, until a term is given: the decision that ordered it
	initLimit = 10 * time.Minute         // for initdb, and for the first statements
)

// NewCluster is what the first server of a cluster is made of.
type NewCluster struct {
	Decision      uint64   // that ordered it
	Superuser     string   // of initdb
	Configuration string   // appended to initdb's postgresql.conf
	HBA, Ident    string   // the whole pg_hba.conf and pg_ident.conf
	Statements    []string // SQL, one line each, run before the server is ever reachable; may hold passwords
}

// ErrNotEmpty says that there is data where none was expected. Nothing was
// touched.
var ErrNotEmpty = errors.New("the data directory is not empty")

// Empty reports whether a node of this host has no data at all: its directory
// is absent or holds nothing that belongs to PostgreSQL, and no recovery has
// parts of it in its keeping. What cannot be read is not empty. What Init has
// made, and InitDone not confirmed, is no data yet: the cluster that it was made
// for never came to be.
func Empty(p Postgres) bool {
	if _, there := elsewhere(p); there || !onThisHost(p.Runner) {
		return false
	}
	at, err := findPlaces(p)
	if errors.Is(err, fs.ErrNotExist) {
		return true // not even its parent
	}
	if err != nil {
		return false
	}
	for _, kept := range []string{placeRecovering, placeRejoin, placeReady} {
		if exists(at.at(kept)) {
			return false
		}
	}
	if exists(filepath.Join(at.data, initMark)) {
		return true
	}
	entries, err := os.ReadDir(at.data)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	for _, e := range entries {
		if !ours(e.Name()) {
			return false
		}
	}
	return err == nil
}

// Init makes the data directory of a new cluster's first server; it starts
// nothing. A directory with anything in it is refused with ErrNotEmpty, unless
// Init has made it before and InitDone was not called: then there is nothing left
// to do. It may be killed at any moment and called again.
func Init(ctx context.Context, p Postgres, c NewCluster) error {
	if err := initCluster(ctx, p, c); err != nil {
		return fmt.Errorf("node %s: make a new cluster: %w", p.Node, err)
	}
	return nil
}

func initCluster(ctx context.Context, p Postgres, c NewCluster) error {
	if exists(filepath.Join(p.DataDir, initMark)) {
		return nil
	}
	if !Empty(p) {
		return fmt.Errorf("%w: %s holds something; nothing was touched: a new cluster begins with empty directories", ErrNotEmpty, p.DataDir)
	}
	if err := os.MkdirAll(filepath.Dir(p.DataDir), 0o700); err != nil {
		return err
	}
	at, err := findPlaces(p)
	if err != nil {
		return err
	}
	if at.inside {
		return fmt.Errorf("%s is a mount point, or its parent belongs to somebody else: name a directory in it as the data directory", p.DataDir)
	}
	dir := at.at(placeInit)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := fillNew(ctx, p, dir, c); err != nil {
		return err
	}
	if err := os.Remove(at.data); err != nil && !errors.Is(err, fs.ErrNotExist) { // fails on one that was filled meanwhile
		return fmt.Errorf("%w: %w", ErrNotEmpty, err)
	}
	return p.Runner.Rename(ctx, dir, at.data)
}

// fillNew runs initdb and, with the server in single-user mode, the first
// statements: nobody can connect before the passwords are there.
func fillNew(ctx context.Context, p Postgres, dir string, c NewCluster) error {
	env := []string{"LC_ALL=C"}
	_, err := p.Runner.Run(ctx, Command{
		Path: p.Bin("initdb"), Env: env, Timeout: initLimit,
		Args: []string{"-D", dir, "-U", c.Superuser, "-k", "--encoding=UTF8", "--locale=C", "--auth-local=peer", "--auth-host=reject"},
	})
	if err != nil {
		return err
	}
	conf, err := os.ReadFile(filepath.Join(dir, "postgresql.conf"))
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{
		{"postgresql.conf", string(conf) + "\n" + c.Configuration}, {"pg_hba.conf", c.HBA}, {"pg_ident.conf", c.Ident},
		{initMark, strconv.FormatUint(c.Decision, 10)},
	} {
		if err := p.Runner.WriteFile(ctx, filepath.Join(dir, f.name), []byte(f.text), 0o600); err != nil {
			return err
		}
	}
	_, err = p.Runner.Run(ctx, Command{
		Path: p.Bin("postgres"), Env: env, Timeout: initLimit, Stdin: []byte(strings.Join(c.Statements, "\n") + "\n"),
		// The statements hold passwords: they are not to be read in a log.
		Args: []string{"--single", "-D", dir, "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "-c", "log_statement=none", "postgres"},
	})
	return err
}

// InitDone confirms what Init has made, once a term was given to its server: from
// then on it is the cluster's data.
func InitDone(ctx context.Context, p Postgres) error {
	return p.Runner.Remove(ctx, filepath.Join(p.DataDir, initMark))
}
