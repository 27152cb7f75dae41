package executors_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// patience is how long a test waits for what takes milliseconds to seconds.
const patience = 60 * time.Second

// solo is one PostgreSQL of its own, on a Unix socket only.
type solo struct {
	executors.Postgres
	t *testing.T
}

// newSolo copies a template that initdb has made; it is not started. Segments
// are 1 MiB, so that little work fills many.
func newSolo(t *testing.T) solo {
	t.Helper()
	dir, err := os.MkdirTemp(fastDir(), "s") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	p := executors.Postgres{
		Runner: local.New(), Node: "db1", BinDir: soloBin(t), DataDir: filepath.Join(dir, "data"),
		Port: 5432, SocketDir: dir, User: "postgres", Database: "postgres",
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		// A server that is told to quit removes its shared memory; SIGKILL leaves it
		// on the host for ever, which has a limited number.
		soon, over := context.WithTimeout(ctx, time.Second)
		_ = executors.Stop(soon, p, "immediate")
		over()
		if _, err := executors.KillAll(ctx, p.DataDir); err != nil && !os.IsNotExist(err) {
			t.Logf("clean up: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	soloRun(t, "cp", "-a", soloTemplate(t), p.DataDir)
	conf := fmt.Sprintf("\nlisten_addresses = ''\nunix_socket_directories = '%s'\nmax_wal_size = 1GB\nwal_keep_size = 1GB\nshared_buffers = 16MB\nautovacuum = off\nwal_recycle = on\n", dir)
	f, err := os.OpenFile(filepath.Join(p.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(conf); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return solo{p, t}
}

// fastDir is a file system in memory where there is one with room: these tests
// kill processes, not machines, and copy and remove data directories all the
// time. Empty means the usual place.
func fastDir() string {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) != nil || uint64(st.Bavail)*uint64(st.Bsize) < 4<<30 || unix.Access("/dev/shm", unix.W_OK) != nil {
		return ""
	}
	return "/dev/shm"
}

func soloBin(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		if initdb, err := exec.LookPath("initdb"); err == nil {
			found = []string{initdb}
		}
	}
	if len(found) == 0 {
		t.Fatal("these tests need a real PostgreSQL: no initdb in /usr/lib/postgresql/*/bin or PATH; install postgresql")
	}
	sort.Strings(found)
	return filepath.Dir(found[len(found)-1])
}

// soloTemplate runs initdb once for each account and version.
func soloTemplate(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := soloBin(t)
	dir := filepath.Join(cache, "interrex-test-"+filepath.Base(filepath.Dir(bin))+"-seg1")
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	fresh := fmt.Sprintf("%s.%d", dir, os.Getpid())
	soloRun(t, filepath.Join(bin, "initdb"), "-D", fresh, "-U", "postgres", "-A", "trust", "--wal-segsize=1", "--locale=C", "-E", "UTF8", "--no-sync")
	if err := os.Rename(fresh, dir); err != nil {
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(fresh) // another run was faster
	}
	return dir
}

func soloRun(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
	return string(out)
}

// up starts it and waits until it accepts connections.
func (s solo) up(standby bool) executors.Started {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	started, err := executors.Start(ctx, s.Postgres, executors.StartOptions{Standby: standby})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := executors.WaitAccepting(ctx, s.Postgres); err != nil {
		s.t.Fatal(err)
	}
	return started
}

func (s solo) connect() *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(s.t.Context(), s.DSN("test"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (s solo) exec(sql string, args ...any) {
	s.t.Helper()
	c := s.connect()
	defer func() { _ = c.Close(context.Background()) }()
	if _, err := c.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s solo) text(sql string) string {
	s.t.Helper()
	c := s.connect()
	defer func() { _ = c.Close(context.Background()) }()
	var v string
	if err := c.QueryRow(s.t.Context(), "select ("+sql+")::text").Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (s solo) lsn(sql string) events.LSN {
	s.t.Helper()
	v, err := events.ParseLSN(s.text(sql))
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s solo) version() int {
	s.t.Helper()
	c, err := executors.ReadControl(s.t.Context(), s.Postgres)
	if err != nil {
		s.t.Fatal(err)
	}
	return c.Version
}

// crash kills the postmaster and waits until everything has ended.
func (s solo) crash() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if _, err := executors.KillAll(ctx, s.DataDir); err != nil {
		s.t.Fatal(err)
	}
}

func (s solo) dead(from events.LSN) executors.Dead {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	d, err := executors.ProveDead(ctx, s.Postgres, from)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// processes are those of the data directory by ps, not by the code under test.
func (s solo) processes() []string {
	s.t.Helper()
	var found []string
	for line := range strings.Lines(soloRun(s.t, "ps", "-axo", "pid=,stat=")) {
		f := strings.Fields(line)
		if len(f) != 2 || f[1][0] == 'Z' {
			continue
		}
		if cwd, err := os.Readlink("/proc/" + f[0] + "/cwd"); err == nil && cwd == s.DataDir {
			found = append(found, f[0]+" "+f[1])
		}
	}
	return found
}

func soloUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func soloSignal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signal %v to process %d: %v", sig, pid, err)
	}
}
