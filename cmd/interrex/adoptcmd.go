package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/adopt"
	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/fsm"
)

// lookAt is adopt's plan, and whether an Interrex of another directory has the
// nodes already.
func (g *globals) lookAt(ctx context.Context, nodes []config.Node) (adopt.Report, error) {
	r, err := adopt.Plan(ctx, nodes, adopt.NewHosts(selfPath(), slog.Default()))
	r.Findings = append(r.Findings, adopt.OtherInterrex(g.dir, nodes)...)
	return r, err
}

// takeOver takes the servers that the environment names over, in place; or goes
// on with them, when that was done before.
func (g *globals) takeOver(cmd *cobra.Command, cfg config.Config) (topology, error) {
	if a, err := readAddress(g.dir); err == nil && a.Cluster != cfg.Cluster {
		return nil, usage("%s holds the log of cluster %q, and INTERREX_CLUSTER says %q: use another --dir, or correct it", g.dir, a.Cluster, cfg.Cluster)
	}
	r, err := g.lookAt(cmd.Context(), cfg.Nodes)
	if err != nil {
		return nil, err
	}
	if r.Refused() {
		if err := r.Write(cmd.ErrOrStderr()); err != nil {
			return nil, err
		}
		return nil, refused("nothing was changed: %d findings stand in the way; see them with: interrex up --plan", r.Count(adopt.Refuse))
	}
	return r.Take(cfg.Cluster, g.dir), nil
}

// forbidding are the checks that also keep a cluster that was taken over before
// from being run again: they make two deciders possible. A node that is down, or
// cannot be reached, does not: that is what Interrex is for.
var forbidding = []string{"manager", "autostart", "system", "place"}

// takeUpAgain goes on with a cluster that was taken over before.
func (g *globals) takeUpAgain(cmd *cobra.Command, cfg config.Config, t adopt.Taken) (topology, error) {
	if len(cfg.Nodes) > 0 {
		if err := t.Agrees(cfg.Cluster, cfg.Nodes); err != nil {
			return nil, codedError{exitUsage, err}
		}
		t = t.With(cfg.Nodes)
	}
	r, err := g.lookAt(cmd.Context(), t.Nodes)
	if err != nil {
		return nil, err
	}
	stands := 0
	for _, f := range r.Findings {
		if f.Level != adopt.Refuse {
			continue
		}
		if slices.Contains(forbidding, f.Check) {
			stands++
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "interrex: found now: %s %s: %s\n", f.Node, f.Check, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "interrex:   change: %s\n", f.Fix)
		}
	}
	if stands > 0 {
		return nil, refused("nothing was changed: %d findings stand in the way; see them with: interrex up --plan", stands)
	}
	return t, nil
}

// keepTaken remembers a cluster that was taken over, for the agents and for the
// next interrex up. It is written once the log has accepted the cluster.
func (g *globals) keepTaken(t topology) error {
	taken, ok := t.(adopt.Taken)
	if !ok {
		return nil
	}
	b, err := json.MarshalIndent(taken, "", "  ")
	if err != nil {
		return err
	}
	tmp := takenFile(g.dir) + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("the cluster that was taken over cannot be remembered: %w", err)
	}
	return os.Rename(tmp, takenFile(g.dir))
}

// sameMembers compares a cluster with the one that a log speaks of.
func sameMembers(dir string, s fsm.State, t topology) error {
	members := t.Members()
	if len(members) != len(s.Nodes) {
		return fmt.Errorf("the log in %s is of a cluster of %d nodes, and this one has %d: use another --dir", dir, len(s.Nodes), len(members))
	}
	for i, n := range s.Nodes { // both are in the order of the ids
		if m := members[i]; m.Name != n.Name || m.DataDir != n.DataDir || m.Port != n.Port {
			return fmt.Errorf("the log in %s is of another cluster: its node %d is %s, port %d, in %s, and this one's is %s, port %d, in %s: use another --dir",
				dir, n.ID, n.Name, n.Port, n.DataDir, m.Name, m.Port, m.DataDir)
		}
	}
	if taken, ok := t.(adopt.Taken); ok && s.SystemID != "" && taken.SystemID != "" && s.SystemID != taken.SystemID {
		return fmt.Errorf("the log in %s is of the database system %s, and these servers are copies of %s: use another --dir", dir, s.SystemID, taken.SystemID)
	}
	return nil
}

// ownerLike is a file or directory whose owner interrex up shall be, "" when
// nothing tells: then any unprivileged account will do. What was written when the
// cluster was taken over comes first: while a recovery is under way a data
// directory has another name.
func (g *globals) ownerLike(cfg config.Config) (string, error) {
	if exists(takenFile(g.dir)) {
		return takenFile(g.dir), nil
	}
	owner := ""
	for _, n := range cfg.Nodes {
		if !n.Here() {
			continue
		}
		if _, err := os.Stat(n.DataDirectory); errors.Is(err, fs.ErrNotExist) {
			return "", usage("INTERREX_NODE_%d_DATA_DIRECTORY=%q: there is no such directory; set it to what SHOW data_directory says", n.ID, n.DataDirectory)
		}
		owner = cmp.Or(owner, n.DataDirectory)
	}
	return owner, nil
}

// planOrRelease looks, or takes back what taking over changed. Both are done as
// the owner of the data directories, as everything that interrex up does.
func (g *globals) planOrRelease(cmd *cobra.Command, cfg config.Config, o upOptions) error {
	if o.plan && o.release {
		return usage("--plan and --release exclude each other")
	}
	if o.release {
		return g.release(cmd)
	}
	if i := slices.IndexFunc(cfg.Nodes, config.Node.Here); i < 0 || exists(cfg.Nodes[i].DataDirectory) {
		owner := "" // all nodes are of other hosts: no account is better than another
		if i >= 0 {
			owner = cfg.Nodes[i].DataDirectory
		}
		if err := becomeOwner(g.dir, owner); err != nil {
			return err
		}
	}
	r, err := g.lookAt(cmd.Context(), cfg.Nodes)
	if err != nil {
		return codedError{exitUsage, err}
	}
	if g.json() {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.Write(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	if r.Refused() {
		return refused("%d findings stand in the way", r.Count(adopt.Refuse))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// release takes back what taking over changed in the servers.
func (g *globals) release(cmd *cobra.Command) error {
	if !exists(takenFile(g.dir)) {
		return usage("%s holds no cluster that was taken over: there is nothing to release", g.dir)
	}
	if err := becomeOwner(g.dir, takenFile(g.dir)); err != nil {
		return err
	}
	loaded, err := loadTopology(g.dir)
	if err != nil {
		return err
	}
	t, ok := loaded.(adopt.Taken)
	if !ok {
		return usage("%s holds a cluster that Interrex made: there is nothing to release", g.dir)
	}
	lock, err := lockUp(g.dir)
	if err != nil {
		return codedError{exitRefused, err}
	}
	defer lock.Close()
	if err := g.nobodyLeft(t); err != nil {
		return err
	}
	done, err := adopt.Release(cmd.Context(), t)
	if err == nil {
		err = os.Remove(takenFile(g.dir))
	}
	if g.json() {
		return errors.Join(printJSON(cmd.OutOrStdout(), done), err)
	}
	tellReleased(cmd.OutOrStdout(), done, err)
	return err
}

func tellReleased(w io.Writer, r adopt.Released, err error) {
	for _, d := range r.Done {
		fmt.Fprintln(w, d)
	}
	if err != nil {
		return
	}
	fmt.Fprintln(w, "Released: Interrex has no part in these servers any more. PostgreSQL goes on. What was left:")
	for _, l := range r.Left {
		fmt.Fprintln(w, "  "+l)
	}
}

// nobodyLeft waits a moment for agents and guardians that are just ending, and
// refuses when one goes on: it would stop a PostgreSQL, or set what is reset.
func (g *globals) nobodyLeft(t adopt.Taken) error {
	for end := time.Now().Add(3 * time.Second); ; {
		held := ""
		for _, n := range t.Nodes {
			for _, who := range []string{"agent", "guardian"} {
				if locked(filepath.Join(nodeDir(g.dir, n.Name), who+".lock")) {
					held = fmt.Sprintf("the %s of %s", who, n.Name)
				}
			}
		}
		switch {
		case held == "":
			return nil
		case time.Now().After(end):
			return refused("%s still runs, left by an interrex up that was killed; run interrex up once more and stop it by Ctrl-C, then release", held)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// locked reports whether a living process holds the lock.
func locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
