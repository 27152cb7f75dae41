package executors

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Spawner is a Runner that can start a program which lasts: detached, its
// output appended to logFile, not ended with the caller. Only a Runner of this
// very host is one: what a Spawner has started is looked for among this host's
// processes.
type Spawner interface {
	Spawn(ctx context.Context, c Command, logFile string) (pid int, err error)
}

// ErrRunning says that a server already runs in the data directory.
var ErrRunning = errors.New("PostgreSQL is already running")

// StartOptions says how a server is started.
type StartOptions struct {
	Standby bool     // read-only, with standby.signal; without it the signal is removed: only under a grant
	Extra   []string // further arguments of postgres, for example "-c", "port=5433"
}

// Started is a server that has taken its data directory.
type Started struct {
	PID         int
	Incarnation Incarnation
}

const (
	startPoll     = 2 * time.Millisecond
	acceptingPoll = 10 * time.Millisecond
)

// Start starts the server, detached, and returns when postmaster.pid names it:
// it then holds the data directory, but does not accept connections yet. A
// postmaster.pid of a server that is certainly gone is removed. Where it runs
// already the error wraps ErrRunning. When a server that was to be no standby
// does not start, standby.signal is put back.
func Start(ctx context.Context, p Postgres, o StartOptions) (Started, error) {
	if e, ok := elsewhere(p); ok {
		done, err := act(ctx, e, Act{Do: "start", Postgres: p, Start: o})
		return done.Started, err
	}
	spawner, ok := p.Runner.(Spawner)
	if !ok {
		return Started{}, fmt.Errorf("node %s: a server can be started on this host only: use the runner local", p.Node)
	}
	if _, err := majorVersion(ctx, p); err != nil {
		return Started{}, err
	}
	if err := clearLock(ctx, p); err != nil {
		return Started{}, fmt.Errorf("node %s: not started: %w", p.Node, err)
	}
	if err := waitForPort(ctx, p); err != nil {
		return Started{}, fmt.Errorf("node %s: not started: %w", p.Node, err)
	}
	if err := setSignal(ctx, p, o.Standby); err != nil {
		return Started{}, fmt.Errorf("node %s: not started: %w", p.Node, err)
	}
	s, err := spawn(ctx, p, spawner, o.Extra)
	if err != nil && !o.Standby {
		// ctx may be over; that must not leave a directory that starts read-write.
		err = errors.Join(err, readOnly(context.WithoutCancel(ctx), p))
	}
	if err != nil {
		return Started{}, fmt.Errorf("node %s: %w", p.Node, err)
	}
	return s, nil
}

// portPatience is how long a port may be taken before a start is given up.
const portPatience = 15 * time.Second

// waitForPort waits until the server's TCP port can be had. While it was down,
// an outgoing connection of any program may have been given that very port: the
// kernel's range for those begins at 32768. Such a connection is short as a rule.
func waitForPort(ctx context.Context, p Postgres) error {
	if p.Host == "" || p.Port == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	for {
		l, err := net.Listen("tcp", net.JoinHostPort(p.Host, strconv.Itoa(p.Port)))
		if err == nil {
			return l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil // the server itself will say what is wrong
		}
		select {
		case <-limited.Done():
			return fmt.Errorf("port %d is in use by another process (%w); see: ss -tanp 'sport = :%d'", p.Port, err, p.Port)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func setSignal(ctx context.Context, p Postgres, standby bool) error {
	if standby {
		return readOnly(ctx, p)
	}
	return p.Runner.Remove(ctx, standbySignal(p))
}

// clearLock removes a stale postmaster.pid: PostgreSQL itself would refuse to
// start over a zombie, or over another process that got the number.
func clearLock(ctx context.Context, p Postgres) error {
	lock, locked, err := readLockFile(p.DataDir)
	if err != nil {
		return err
	}
	inc, running, err := FindPostmaster(p.DataDir)
	if err != nil {
		return err
	}
	if running {
		return fmt.Errorf("%w in %s as process %d", ErrRunning, p.DataDir, inc.PID)
	}
	left, err := ProcessesOf(p.DataDir)
	if err != nil {
		return err
	}
	free, err := SharedMemoryFree(p.DataDir)
	if err != nil {
		return err
	}
	if len(left) > 0 || !free {
		return fmt.Errorf("a dead server has left processes in %s (%s; shared memory in use: %t): prove it dead first", p.DataDir, describe(left), !free)
	}
	if !locked || evidence(p.DataDir, lock) != nil {
		return nil // where it is not certain, PostgreSQL itself shall judge
	}
	if err := clearSocketLock(ctx, p, lock); err != nil {
		return err
	}
	return p.Runner.Remove(ctx, p.DataDir+"/postmaster.pid")
}

// clearSocketLock removes the lock file beside the dead server's socket, which
// names the same process: it stops a new server just as postmaster.pid does.
func clearSocketLock(ctx context.Context, p Postgres, lock lockFile) error {
	if lock.socket == "" {
		return nil
	}
	b, err := p.Runner.ReadFile(ctx, lock.socket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the lock file of the dead server's socket: %w", err)
	}
	pid, rest, _ := strings.Cut(string(b), "\n")
	dir, _, _ := strings.Cut(rest, "\n")
	if pid != strconv.Itoa(lock.pid) || dir != lock.dir {
		return nil // another server has taken the socket meanwhile
	}
	return p.Runner.Remove(ctx, lock.socket)
}

func spawn(ctx context.Context, p Postgres, s Spawner, extra []string) (Started, error) {
	args := []string{"-D", p.DataDir}
	if p.ConfigFile != "" {
		args = append(args, "-c", "config_file="+p.ConfigFile)
	}
	if p.HBAFile != "" {
		args = append(args, "-c", "hba_file="+p.HBAFile)
	}
	mark := logLength(p.ServerLog())
	pid, err := s.Spawn(ctx, Command{Path: p.Bin("postgres"), Args: append(args, extra...)}, p.ServerLog())
	if err != nil {
		return Started{}, fmt.Errorf("start PostgreSQL: %w", err)
	}
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		// Errors pass by themselves: the file is just being written.
		if inc, ok, err := FindPostmaster(p.DataDir); err == nil && ok && inc.PID == pid {
			return Started{PID: pid, Incarnation: inc}, nil
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return Started{}, fmt.Errorf("PostgreSQL ended while it started; %s", logTail(p.ServerLog(), mark))
		}
		select {
		case <-ctx.Done():
			_ = syscall.Kill(pid, syscall.SIGQUIT) // it holds nothing yet; it must not come up unobserved
			return Started{}, fmt.Errorf("PostgreSQL, process %d, has not taken %s in time and was told to quit: %w", pid, p.DataDir, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// WaitAccepting returns when the server accepts connections, or the error with
// the last lines of its log when it ends before; only ctx bounds the wait. As
// with pg_isready, a refusal for the client's sake (password, database, too many
// clients) is an accepting server too. A standby that has not reached a
// consistent state does not accept.
func WaitAccepting(ctx context.Context, p Postgres) error {
	if e, ok := elsewhere(p); ok {
		_, err := act(ctx, e, Act{Do: "wait-accepting", Postgres: p})
		return err
	}
	cfg, err := pgconn.ParseConfig(p.DSN("interrex"))
	if err != nil {
		return fmt.Errorf("node %s: connection settings: %w", p.Node, err)
	}
	mark := max(0, logLength(p.ServerLog())-logTailMax)
	tick := time.NewTicker(acceptingPoll)
	defer tick.Stop()
	for {
		last := accepts(ctx, cfg)
		if last == nil {
			return nil
		}
		_, running, err := FindPostmaster(p.DataDir)
		if err == nil && !running {
			return fmt.Errorf("node %s: PostgreSQL is not running; %s", p.Node, logTail(p.ServerLog(), mark))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s: PostgreSQL does not accept connections in time (%w); %w", p.Node, context.Cause(ctx), errors.Join(last, err))
		case <-tick.C:
		}
	}
}

func accepts(ctx context.Context, cfg *pgconn.Config) error {
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := pgconn.ConnectConfig(limited, cfg)
	if err == nil {
		_ = conn.Close(limited) // the answer is known
		return nil
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code != "57P03" { // cannot_connect_now
		return nil
	}
	return err
}
