// Package hosts runs the parts of a cluster as several hosts run them: nothing
// is shared but the log's address, a key for each role and the description in
// the environment.
package hosts

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/internal/unroot"
)

// binaryEnv hands the interrex under test to the run as another account.
const binaryEnv = "HOSTS_TEST_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(binaryEnv) == "" {
		dir, err := build()
		if err != nil {
			fmt.Fprintln(os.Stderr, "hosts:", err)
			os.Exit(1)
		}
		os.Setenv(binaryEnv, filepath.Join(dir, "interrex"))
		defer os.RemoveAll(dir) // not reached by Main's exit as root: the system's temporary directory is cleaned
	}
	unroot.Main(m)
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "ixhosts")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "interrex"), "github.com/interrex-ha/interrex/cmd/interrex")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build interrex: %w\n%s", err, out)
	}
	return dir, nil
}

// patience bounds what hangs; it measures nothing.
const patience = 90 * time.Second

// world is a cluster of two hosts and one that keeps the log.
type world struct {
	t     *testing.T
	dir   string
	env   []string
	ports []int // of db1, db2 and the log
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "h") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, ports: freePorts(t, 3)}
	t.Cleanup(func() {
		for _, node := range []string{"db1", "db2"} {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if _, err := executors.KillAll(ctx, w.data(node)); err != nil && !os.IsNotExist(err) {
				t.Logf("clean up: %v", err)
			}
			cancel()
		}
		os.RemoveAll(dir)
	})
	for _, f := range []struct{ name, text string }{{"pgpass", "*:*:*:interrex:it's \"odd\"\n*:*:*:app:app's\n"}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.run("compose-secrets", filepath.Join(dir, "keys"))
	w.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"INTERREX_CLUSTER=hosts", "INTERREX_BOOTSTRAP=db1", fmt.Sprintf("INTERREX_LOG_URL=nats://127.0.0.1:%d", w.ports[2]),
	}
	for i, node := range []string{"db1", "db2"} {
		at := fmt.Sprintf("INTERREX_NODE_%d_", i)
		w.env = append(w.env, at+"NAME="+node, at+"HOST=127.0.0.1", fmt.Sprintf("%sPORT=%d", at, w.ports[i]), at+"USER=interrex",
			at+"DATA_DIRECTORY="+w.data(node), at+"PASSFILE="+filepath.Join(dir, "pgpass"))
	}
	return w
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for tries := 0; len(ports) < n && tries < 1000; tries++ {
		p := 20000 + rand.IntN(12000) // below the kernel's range for outgoing connections
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		l.Close()
		ports = append(ports, p)
	}
	if len(ports) < n {
		t.Fatal("no free ports")
	}
	return ports
}

func (w *world) host(name string) string { return filepath.Join(w.dir, name) }
func (w *world) data(node string) string { return filepath.Join(w.host(node), "data") }
func (w *world) key(role string) string  { return filepath.Join(w.dir, "keys", role+".nk") }

// process is one part that runs.
type process struct {
	cmd  *exec.Cmd
	said *buffer
	done chan struct{}
}

// buffer is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs a part on a host until the test ends, or kill.
func (w *world) start(host string, env []string, args ...string) *process {
	w.t.Helper()
	p := &process{cmd: exec.Command(os.Getenv(binaryEnv), append(args, "--dir", w.host(host))...), said: new(buffer), done: make(chan struct{})}
	p.cmd.Env = append(append([]string{}, w.env...), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.WaitDelay = time.Second // its guardian holds the pipe for longer
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("%v said:\n%s", args, p.said)
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// ended waits for a part that ends by itself and returns what it said.
func (w *world) ended(p *process) string {
	w.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		w.t.Fatalf("it does not end; it said: %s", p.said)
	}
	return p.said.String()
}

func (w *world) log() *process {
	return w.start("log", []string{fmt.Sprintf("INTERREX_LOG_LISTEN=127.0.0.1:%d", w.ports[2]), "INTERREX_LOG_KEYS=" + filepath.Join(w.dir, "keys")},
		"controller", "--serve-log")
}

// agent has the agents' key only.
func (w *world) agent(node string, env ...string) *process {
	return w.start(node, append([]string{"INTERREX_LOG_KEY_FILE=" + w.key("agent")}, env...), "agent", node)
}

// run is a command with an operator's keys; it must work.
func (w *world) run(args ...string) string {
	w.t.Helper()
	out, err := w.try(nil, args...)
	if err != nil {
		w.t.Fatalf("interrex %v: %v\n%s", args, err, out)
	}
	return out
}

func (w *world) try(env []string, args ...string) (string, error) {
	cmd := exec.Command(os.Getenv(binaryEnv), args...)
	cmd.Env = append(append(append([]string{}, w.env...), "INTERREX_LOG_KEYS="+filepath.Join(w.dir, "keys")), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// await looks until the log tells what is wanted.
func (w *world) await(what string, ok func(log string) bool) string {
	w.t.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var err error
		if last, err = w.try(nil, "log"); err == nil && ok(last) {
			return last
		}
	}
	w.t.Fatalf("waited for %s; the log:\n%s", what, last)
	return ""
}

func has(words ...string) func(string) bool {
	return func(log string) bool {
		for _, w := range words {
			if !strings.Contains(log, w) {
				return false
			}
		}
		return true
	}
}

// systemID reads the identifier of a node's database system.
func (w *world) systemID(node string) string {
	w.t.Helper()
	bin, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_controldata")
	if err != nil || len(bin) == 0 {
		w.t.Fatalf("no pg_controldata: %v", err)
	}
	out, err := exec.Command(bin[len(bin)-1], w.data(node)).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if id, ok := strings.CutPrefix(line, "Database system identifier:"); ok {
			return strings.TrimSpace(id)
		}
	}
	w.t.Fatalf("pg_controldata: %v\n%s", err, out)
	return ""
}

// TestNewClusterOnce: a cluster begins with one node, when all are heard and
// empty; a first node whose disk is lost comes back as a copy of the others.
func TestNewClusterOnce(t *testing.T) {
	w := newWorld(t)
	w.log()
	first := w.agent("db1")
	w.await("db1's agent to have looked", has("db1: PostgreSQL is down"))
	if out := w.run("log"); strings.Contains(out, "rule 107") {
		t.Fatalf("made before db2 was heard:\n%s", out)
	}
	w.agent("db2")
	w.await("db2 to stream from db1", has("db2: PostgreSQL is a standby, streaming from db1", "db2: recover done (basebackup)"))
	was := w.systemID("db1")

	first.kill() // the guardian stops PostgreSQL when the lease ends
	w.await("db2 to take over", has("db2 is primary of term 2", "db2: settle done"))
	killing, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := executors.KillAll(killing, w.data("db1")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.host("db1")); err != nil {
		t.Fatal(err)
	}
	w.agent("db1")
	log := w.await("db1 to be a copy of db2", has("db1: PostgreSQL is a standby, streaming from db2"))
	if n := strings.Count(log, "rule 107"); n != 1 {
		t.Errorf("a first node was made %d times:\n%s", n, log)
	}
	if is := w.systemID("db1"); is != was || is != w.systemID("db2") {
		t.Errorf("db1 was system %s and is %s, db2 is %s: a second cluster", was, is, w.systemID("db2"))
	}
}

// TestSaysWhatIsWrong: each mistake of a host is told by its name, and nothing
// is half done.
func TestSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	out, err := w.try(nil, "status")
	if err == nil || !has("INTERREX_LOG_URL", "did not answer", fmt.Sprint(w.ports[2]))(out) {
		t.Errorf("without a log: %v\n%s", err, out)
	}
	w.log()
	w.await("the log", has("cluster hosts formed with 2 nodes"))
	w.run("compose-secrets", filepath.Join(w.dir, "others"))
	wrong := filepath.Join(w.dir, "others", "agent.nk")
	for _, c := range []struct {
		name  string
		env   string
		words []string
	}{
		{"another cluster's key", "INTERREX_LOG_KEY_FILE=" + wrong, []string{"does not permit", wrong}},
		{"no key", "INTERREX_LOG_KEY_FILE=/nonexistent/agent.nk", []string{"INTERREX_LOG_KEY_FILE", "/nonexistent/agent.nk"}},
		{"no URL", "INTERREX_LOG_URL=http://log:4222", []string{"INTERREX_LOG_URL", "http://log:4222", "nats://HOST:PORT"}},
		{"another cluster's name", "INTERREX_CLUSTER=other", []string{"other"}},
		{"another port", "INTERREX_NODE_1_PORT=5999", []string{"db2", "5999", "the same on every host"}},
		{"no password", "INTERREX_NODE_0_USER=nobody_knows", []string{"INTERREX_NODE_0_PASSFILE", "nobody_knows"}},
		{"ssh", "INTERREX_NODE_0_EXECUTOR=ssh", []string{"INTERREX_NODE_0_EXECUTOR", "own host"}},
		{"no such node", "INTERREX_BOOTSTRAP=db9", []string{"INTERREX_BOOTSTRAP", "db9"}},
	} {
		p := w.agent("db1", c.env)
		if said := w.ended(p); !has(c.words...)(said) || p.cmd.ProcessState.ExitCode() == 0 {
			t.Errorf("%s: exit status %d, said %s", c.name, p.cmd.ProcessState.ExitCode(), said)
		}
		if _, err := os.Stat(w.data("db1")); !os.IsNotExist(err) {
			t.Errorf("%s: there is a data directory: %v", c.name, err)
		}
	}
	if out, err := w.try([]string{"INTERREX_LOG_KEY_FILE=" + w.key("agent")}, "pause", "--reason", "x", "--for", "1m"); err == nil || !strings.Contains(out, "does not permit") {
		t.Errorf("an agent's key gave an operator's order: %v\n%s", err, out)
	}
}
