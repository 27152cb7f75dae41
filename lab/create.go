package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

const (
	authSCRAM = "scram"
	authTrust = "trust"
)

// The bounds of CreateOptions.Nodes.
const (
	MinNodes = 1
	MaxNodes = 16
)

// CreateOptions says what cluster to make.
type CreateOptions struct {
	Dir      string       // absent or empty; made with mode 0700
	Cluster  string       // name; "demo" when empty
	Nodes    int          // MinNodes to MaxNodes; the first becomes the primary
	Port     int          // of the first node, the others follow; 0 finds free ones from FirstPort on
	BinDir   string       // of PostgreSQL; FindBinDir chooses when empty
	Auth     string       // of TCP connections: "scram" (when empty) or "trust"
	Ignore   []string     // names in Dir that may be there already
	NoSync   bool         // for tests: nothing is fsynced, a power cut destroys the cluster
	Progress func(string) // told what is done now; may be nil
}

// Create makes a cluster of streaming PostgreSQL servers on this host: db1 the
// primary, db2 … its standbys, each with a replication slot. When it returns,
// all are running and every standby streams. The servers outlive the caller;
// Layout.Stop ends them.
//
// The caller must not be root: PostgreSQL refuses to run as root. After an
// error, the servers that it started are stopped and the directory is left
// half-made, which Load and a later Create recognise; that includes a caller
// that was killed, whose servers may still run.
func Create(ctx context.Context, o CreateOptions) (*Layout, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	l, err := plan(o)
	if err != nil {
		return nil, err
	}
	if err := claim(l.dir, o.Ignore); err != nil {
		return nil, err
	}
	if err := l.makeAll(ctx, o); err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, l.Stop(stopping, Immediate))
	}
	return l, nil
}

// plan checks the options and lays the cluster out, touching nothing.
func plan(o CreateOptions) (*Layout, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("lab: PostgreSQL refuses to run as root: make the cluster as another user, for example postgres")
	}
	if o.Nodes < MinNodes || o.Nodes > MaxNodes {
		return nil, fmt.Errorf("lab: %d nodes: a cluster has %d to %d", o.Nodes, MinNodes, MaxNodes)
	}
	l := &Layout{Cluster: o.Cluster, BinDir: o.BinDir, Auth: o.Auth, passwords: map[string]string{}}
	if l.Cluster == "" {
		l.Cluster = "demo"
	}
	if err := events.CheckName(l.Cluster); err != nil {
		return nil, fmt.Errorf("lab: cluster name: %w", err)
	}
	if l.Auth == "" {
		l.Auth = authSCRAM
	}
	if l.Auth != authSCRAM && l.Auth != authTrust {
		return nil, fmt.Errorf("lab: auth %q: use %s (a generated password) or %s (none, on loopback)", o.Auth, authSCRAM, authTrust)
	}
	var err error
	if l.BinDir == "" {
		l.BinDir, l.Version, err = FindBinDir()
	} else {
		l.Version, err = CheckBinDir(l.BinDir)
	}
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if l.dir, err = filepath.Abs(o.Dir); err != nil || o.Dir == "" {
		return nil, fmt.Errorf("lab: directory %q: expected the path of one to make (%w)", o.Dir, err)
	}
	if strings.ContainsAny(l.dir, ":\n\\") {
		// In a passfile's path or a socket directory's list they mean something.
		return nil, fmt.Errorf("lab: directory %q: choose one without colon, backslash or newline", l.dir)
	}
	name := func(i int) string { return "db" + strconv.Itoa(i+1) }
	first, err := choosePorts(o.Port, o.Nodes, name)
	if err != nil {
		return nil, err
	}
	for i := range o.Nodes {
		dir := filepath.Join(l.dir, name(i))
		l.Nodes = append(l.Nodes, Node{ID: i, Name: name(i), Host: loopback, Port: first + i,
			DataDir: filepath.Join(dir, "data"), LogFile: filepath.Join(dir, "postgres.log")})
	}
	return l, nil
}

// claim makes the directory and puts the marker there. It refuses one that
// holds anything that it does not know.
func claim(dir string, ignore []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("lab: make the cluster's directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("lab: look into the cluster's directory: %w", err)
	}
	known := map[string]bool{}
	for _, name := range ignore {
		known[name] = true
	}
	for _, e := range entries {
		if e.Name() == markerFile {
			return halfMade(dir)
		}
	}
	for _, e := range entries {
		switch {
		case e.Name() == layoutFile:
			return fmt.Errorf("lab: %s holds a cluster already (%s): use it, or choose another directory", dir, layoutFile)
		case !known[e.Name()]:
			return fmt.Errorf("lab: %s is not empty: it holds %s; choose a directory that is absent or empty", dir, e.Name())
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, markerFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return halfMade(dir) // somebody else was faster
	}
	if err != nil {
		return fmt.Errorf("lab: write to the cluster's directory: %w", err)
	}
	return f.Close()
}

// makeAll does the work; the last thing is to take the marker away.
func (l *Layout) makeAll(ctx context.Context, o CreateOptions) error {
	for _, role := range []string{Superuser, AgentUser, ReplicationUser, AppUser} {
		l.passwords[role] = password()
	}
	if err := errors.Join(l.makeSocketDir(), l.savePasswords()); err != nil {
		return err
	}
	if err := l.makePrimary(ctx, o); err != nil {
		return err
	}
	for _, n := range l.Nodes[1:] {
		o.Progress(fmt.Sprintf("copying %s to %s and starting it on port %d", l.Nodes[0].Name, n.Name, n.Port))
		if err := l.makeStandby(ctx, l.Nodes[0], n, o.NoSync); err != nil {
			return err
		}
	}
	if len(l.Nodes) > 1 {
		o.Progress("waiting until the standbys stream")
		if err := l.waitStreaming(ctx, l.Nodes[0], l.Nodes[1:]); err != nil {
			return err
		}
	}
	if err := l.save(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.dir, markerFile)); err != nil {
		return fmt.Errorf("lab: take the marker of a half-made cluster away: %w", err)
	}
	return nil
}

// maxSocketPath is what fits into a sockaddr_un: 108 bytes on Linux, 104 on
// macOS, less the final zero.
const maxSocketPath = 103

// makeSocketDir makes DIR/run, or a short directory elsewhere when the sockets'
// paths would be too long there.
func (l *Layout) makeSocketDir() error {
	l.SocketDir = filepath.Join(l.dir, "run")
	if len(l.SocketDir)+len("/.s.PGSQL.65535.lock") <= maxSocketPath && !strings.ContainsAny(l.SocketDir, ", ") {
		if err := os.Mkdir(l.SocketDir, 0o700); err != nil {
			return fmt.Errorf("lab: make the sockets' directory: %w", err)
		}
		return nil
	}
	short, err := os.MkdirTemp("", "interrex") // mode 0700
	if err != nil {
		return fmt.Errorf("lab: make a directory for the sockets, as %s is too long: %w", l.SocketDir, err)
	}
	l.SocketDir = short
	return nil
}

// makePrimary makes, configures and starts the first node, with its roles and
// the standbys' slots.
func (l *Layout) makePrimary(ctx context.Context, o CreateOptions) error {
	n := l.Nodes[0]
	o.Progress(fmt.Sprintf("making %s with PostgreSQL %d and starting it on port %d", n.Name, l.Version, n.Port))
	if err := l.initdb(ctx, n, o.NoSync); err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("lab: the name of this account, for pg_ident.conf: %w", err)
	}
	if err := l.configure(n, o.NoSync); err != nil {
		return err
	}
	for file, text := range map[string]string{"pg_hba.conf": l.hba(), "pg_ident.conf": l.ident(me.Username)} {
		if err := os.WriteFile(filepath.Join(n.DataDir, file), []byte(text), 0o600); err != nil {
			return fmt.Errorf("lab: configure node %s: %w", n.Name, err)
		}
	}
	if err := l.Start(ctx, n.Name); err != nil {
		return err
	}
	return l.makeRoles(ctx, n)
}

func (l *Layout) initdb(ctx context.Context, n Node, noSync bool) error {
	if err := os.Mkdir(filepath.Dir(n.DataDir), 0o700); err != nil {
		return fmt.Errorf("lab: make the directory of node %s: %w", n.Name, err)
	}
	secret := filepath.Join(l.dir, "initdb-password")
	if err := os.WriteFile(secret, []byte(l.passwords[Superuser]+"\n"), 0o600); err != nil {
		return fmt.Errorf("lab: write the superuser's password for initdb: %w", err)
	}
	defer os.Remove(secret)
	args := []string{"-D", n.DataDir, "-U", Superuser, "-k", "--encoding=UTF8", "--locale=C",
		"--auth-local=peer", "--auth-host=scram-sha-256", "--pwfile=" + secret}
	if noSync {
		args = append(args, "--no-sync")
	}
	return l.run(ctx, "initdb", args...)
}

// makeStandby copies the primary into a standby's directory and starts it.
func (l *Layout) makeStandby(ctx context.Context, primary, n Node, noSync bool) error {
	if err := os.MkdirAll(filepath.Dir(n.DataDir), 0o700); err != nil {
		return fmt.Errorf("lab: make the directory of node %s: %w", n.Name, err)
	}
	args := []string{"-D", n.DataDir, "-h", l.SocketDir, "-p", strconv.Itoa(primary.Port), "-U", ReplicationUser,
		"-c", "fast", "-X", "stream", "-S", events.SlotName(n.Name), "--no-password"}
	if noSync {
		args = append(args, "--no-sync")
	}
	if err := l.run(ctx, "pg_basebackup", args...); err != nil {
		return err
	}
	if err := l.configure(n, noSync); err != nil {
		return err
	}
	return l.startStandby(ctx, primary, n)
}

// startStandby starts a copy of the primary as a standby of it.
func (l *Layout) startStandby(ctx context.Context, primary, n Node) error {
	for file, text := range map[string]string{
		"postgresql.auto.conf": l.autoConfiguration(primary.Name, n.Name),
		"standby.signal":       "",
	} {
		if err := os.WriteFile(filepath.Join(n.DataDir, file), []byte(text), 0o600); err != nil {
			return fmt.Errorf("lab: configure node %s: %w", n.Name, err)
		}
	}
	return l.Start(ctx, n.Name)
}

// run runs one of PostgreSQL's programs.
func (l *Layout) run(ctx context.Context, program string, args ...string) error {
	_, err := local.New().Run(ctx, executors.Command{
		Path: filepath.Join(l.BinDir, program), Args: args, Env: []string{"LC_ALL=C"}, Timeout: 10 * time.Minute,
	})
	if err != nil {
		return fmt.Errorf("lab: %s: %w", program, err)
	}
	return nil
}
