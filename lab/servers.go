package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/probes"
)

// StopMode says how servers are stopped.
type StopMode string

// The modes of pg_ctl stop, and what they do to open sessions.
const (
	Fast      StopMode = "fast"      // ends sessions, writes a shutdown checkpoint
	Immediate StopMode = "immediate" // ends every process at once, as a crash would
)

// pollEvery is how often a condition is looked at that nothing announces.
const pollEvery = 5 * time.Millisecond

// startWithin bounds the start of one server.
const startWithin = 60 * time.Second

// Start starts a node's server as it is: a standby when standby.signal stands
// in its directory, else read-write. It returns when the server answers. For a
// lab without Interrex only: with it, agents start servers.
func (l *Layout) Start(ctx context.Context, name string) error {
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	pid, err := local.New().Spawn(ctx, executors.Command{
		Path: filepath.Join(l.BinDir, "postgres"), Args: []string{"-D", n.DataDir}, Env: []string{"LC_ALL=C"},
	}, n.LogFile)
	if err != nil {
		return fmt.Errorf("lab: start node %s: %w", name, err)
	}
	p := l.prober(name)
	defer p.Close()
	var last probes.Fact
	err = poll(ctx, pollEvery, func() bool {
		last = p.Probe(ctx)
		return last.State == events.PostgresUp || last.State == events.PostgresRefusing || !alive(pid)
	})
	if last.State == events.PostgresUp {
		return nil
	}
	if err == nil {
		err = errors.New("the server ended, or refuses its superuser")
	}
	return fmt.Errorf("lab: node %s does not answer on port %d: %w; last probe: %w; end of %s:\n%s", name, n.Port, err, last.Err, n.LogFile, tail(n.LogFile))
}

// Stop stops the servers of all nodes that run, standbys last, so that they
// receive everything, and waits until they are gone.
func (l *Layout) Stop(ctx context.Context, mode StopMode) error {
	var standbys []Node
	var errs []error
	for _, n := range l.Nodes {
		if _, err := os.Stat(filepath.Join(n.DataDir, "standby.signal")); err == nil {
			standbys = append(standbys, n)
			continue
		}
		errs = append(errs, l.stop(ctx, n, mode))
	}
	for _, n := range standbys {
		errs = append(errs, l.stop(ctx, n, mode))
	}
	return errors.Join(errs...)
}

// StopNode stops one server, as an operator would with pg_ctl, and waits until
// it is gone; nil when it does not run.
func (l *Layout) StopNode(ctx context.Context, name string, mode StopMode) error {
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	return l.stop(ctx, n, mode)
}

func (l *Layout) stop(ctx context.Context, n Node, mode StopMode) error {
	pid, err := postmaster(n)
	if err != nil || pid == 0 {
		return err
	}
	sig := syscall.SIGINT
	if mode == Immediate {
		sig = syscall.SIGQUIT
	}
	for _, s := range []syscall.Signal{sig, syscall.SIGCONT} { // a frozen one cannot stop
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("lab: stop node %s (process %d): %w", n.Name, pid, err)
		}
	}
	if err := poll(ctx, pollEvery, func() bool { return !alive(pid) }); err != nil {
		return fmt.Errorf("lab: node %s (process %d) does not stop: %w", n.Name, pid, err)
	}
	return nil
}

// makeRoles makes the roles, the clients' database and the standbys' slots.
func (l *Layout) makeRoles(ctx context.Context, n Node) error {
	conn, err := l.connect(ctx, n, Superuser, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	statements := []string{
		fmt.Sprintf("create role %s superuser login password '%s'", AgentUser, l.passwords[AgentUser]),
		fmt.Sprintf("create role %s replication login password '%s'", ReplicationUser, l.passwords[ReplicationUser]),
		fmt.Sprintf("create role %s login password '%s'", AppUser, l.passwords[AppUser]),
		fmt.Sprintf("create database %s owner %s", AppDatabase, AppUser),
	}
	for _, s := range l.Nodes[1:] {
		statements = append(statements, fmt.Sprintf("select pg_create_physical_replication_slot('%s', true)", events.SlotName(s.Name)))
	}
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			verb, _, _ := strings.Cut(s, " password")
			return fmt.Errorf("lab: node %s: %s: %w", n.Name, verb, err)
		}
	}
	return nil
}

// prober probes a node as the one role that exists from the beginning.
func (l *Layout) prober(name string) *probes.Prober {
	p := l.Postgres(name)
	p.User, p.Password = Superuser, l.passwords[Superuser]
	return probes.New(probes.Config{DSN: p.DSN("interrex-lab")})
}

// connect opens a session over the socket.
func (l *Layout) connect(ctx context.Context, n Node, role, database string) (*pgx.Conn, error) {
	p := l.Postgres(n.Name)
	p.User, p.Password, p.Database = role, l.passwords[role], database
	conn, err := pgx.Connect(ctx, p.DSN("interrex-lab"))
	if err != nil {
		return nil, fmt.Errorf("lab: connect to node %s: %w", n.Name, err)
	}
	return conn, nil
}

// waitStreaming waits until the primary feeds all the standbys.
func (l *Layout) waitStreaming(ctx context.Context, primary Node, standbys []Node) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	p := l.prober(primary.Name)
	defer p.Close()
	missing := ""
	err := poll(ctx, pollEvery, func() bool {
		streaming := map[string]bool{}
		for _, r := range p.Probe(ctx).Replicas {
			streaming[r.Node] = r.State == "streaming"
		}
		for _, s := range standbys {
			if !streaming[s.Name] {
				missing = s.Name
				return false
			}
		}
		return true
	})
	if err != nil {
		n, _ := l.Node(missing)
		return fmt.Errorf("lab: standby %s does not stream from %s: %w; end of %s:\n%s", missing, primary.Name, err, n.LogFile, tail(n.LogFile))
	}
	return nil
}

// Primary returns the name of the node that takes writes now, as its socket
// says; an error when none does, or more than one.
func (l *Layout) Primary(ctx context.Context) (string, error) {
	var found []string
	for _, n := range l.Nodes {
		p := l.prober(n.Name)
		f := p.Probe(ctx)
		p.Close()
		if f.State == events.PostgresUp && !f.InRecovery {
			found = append(found, n.Name)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("lab: cluster %s has %d servers that take writes (%s), expected 1", l.Cluster, len(found), strings.Join(found, ", "))
	}
	return found[0], nil
}

// tail returns the last lines of a log.
func tail(path string) string {
	const lines = 8
	raw, err := os.ReadFile(path)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// poll looks at a condition until it holds or ctx ends.
func poll(ctx context.Context, every time.Duration, holds func() bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// postmaster returns the process of a node's server, 0 when none runs. The pid
// in the lock file counts only when that process works in the data directory:
// a number may have been given to somebody else since.
func postmaster(n Node) (int, error) {
	raw, err := os.ReadFile(filepath.Join(n.DataDir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("lab: the lock file of node %s: %w", n.Name, err)
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	var pid int
	if _, err := fmt.Sscanf(first, "%d", &pid); err != nil || pid <= 1 {
		return 0, fmt.Errorf("lab: the lock file of node %s begins with %q, expected a process number", n.Name, first)
	}
	if !alive(pid) || !worksIn(pid, n.DataDir) {
		return 0, nil
	}
	return pid, nil
}
