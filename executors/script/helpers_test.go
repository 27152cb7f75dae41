package script_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/config/pgpool"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/internal/unroot"
	"github.com/interrex-ha/interrex/lab"
)

func TestMain(m *testing.M) { unroot.Main(m) }

// patience bounds what hangs; it measures nothing.
const patience = 90 * time.Second

// world is a real cluster whose nodes pgpool's scripts can reach: by the names
// localhost (db2) and 127.0.0.1 (db1, and db3), through testdata/bin/ssh.
type world struct {
	*lab.Layout
	t   *testing.T
	dir string // for scripts and what they write
}

func newWorld(t *testing.T, nodes int) world {
	t.Helper()
	dir, err := os.MkdirTemp(fastDir(), "s") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Create(within(t), lab.CreateOptions{Dir: filepath.Join(dir, "c"), Nodes: nodes, Auth: "trust", NoSync: true, Port: ports(t, nodes)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A server that is told to quit removes its shared memory; SIGKILL leaves it.
		soon, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = l.Stop(soon, lab.Immediate)
		for _, n := range l.Nodes {
			if err := l.KillAll(context.Background(), n.Name); err != nil {
				t.Error(err)
			}
		}
		os.RemoveAll(dir)
	})
	w := world{l, t, dir}
	bin, err := filepath.Abs("testdata/bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+l.BinDir+":"+os.Getenv("PATH"))
	t.Setenv("IX_HOSTS", filepath.Join(dir, "hosts"))
	for _, n := range l.Nodes {
		w.write(filepath.Join("hosts", w.as(n.Name).Host), n.DataDir)
	}
	return w
}

// fastDir is a file system in memory where there is one with room: these tests
// copy data directories all the time. Empty means the usual place.
func fastDir() string {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) != nil || uint64(st.Bavail)*uint64(st.Bsize) < 4<<30 || unix.Access("/dev/shm", unix.W_OK) != nil {
		return ""
	}
	return "/dev/shm"
}

// ports finds free ones below the range that the kernel gives to clients.
func ports(t *testing.T, n int) int {
	t.Helper()
	for first := 21000 + os.Getpid()%5000; first < 32000; first += n {
		free := 0
		for ; free < n; free++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+free))
			if err != nil {
				break
			}
			l.Close()
		}
		if free == n {
			return first
		}
	}
	t.Fatal("no free ports between 21000 and 32000")
	return 0
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// as is the node as scripts are told it.
func (w world) as(name string) pgpool.Node {
	w.t.Helper()
	n, err := w.Node(name)
	if err != nil {
		w.t.Fatal(err)
	}
	host := "127.0.0.1"
	if n.ID == 1 {
		host = "localhost"
	}
	return pgpool.Node{ID: n.ID, Host: host, Port: n.Port, DataDir: n.DataDir}
}

// values are those of a failover from one node to another.
func (w world) values(from, to string) pgpool.Values {
	return pgpool.Values{Detached: w.as(from), Main: w.as(to), OldMain: w.as(from).ID, Primary: w.as(from)}
}

func (w world) write(name, text string) string {
	w.t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(w.dir, name)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// script puts a script of testdata into the world; pairs of strings in it are
// replaced first.
func (w world) script(name string, replace ...string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.write(strings.ReplaceAll(name, "/", "-"), strings.NewReplacer(replace...).Replace(string(text)))
}

// intoData puts a script where pgpool looks for it: the primary's data directory.
func (w world) intoData(node, as, from string) {
	w.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(filepath.Join(w.as(node).DataDir, as), string(text))
}

func (w world) read(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// ask asks a node for one text.
func (w world) ask(node, sql string) string {
	w.t.Helper()
	conn, err := executors.Connect(within(w.t), w.Postgres(node))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var text string
	if err := conn.QueryRow(within(w.t), "select ("+sql+")::text").Scan(&text); err != nil {
		w.t.Fatalf("%s: %s: %v", node, sql, err)
	}
	return text
}

func (w world) do(node, sql string) {
	w.t.Helper()
	conn, err := executors.Connect(within(w.t), w.Postgres(node))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(within(w.t), sql); err != nil {
		w.t.Fatalf("%s: %s: %v", node, sql, err)
	}
}

func (w world) kill(node string) {
	w.t.Helper()
	if err := w.KillAll(within(w.t), node); err != nil {
		w.t.Fatal(err)
	}
}

func command(t *testing.T, line string) pgpool.Command {
	t.Helper()
	c, err := pgpool.ParseCommand(line)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func here() executors.Runner { return local.New() }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
