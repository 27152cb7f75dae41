package probes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/internal/unroot"
)

func TestMain(m *testing.M) { unroot.Main(m) }

// server is a PostgreSQL of one test.
type server struct {
	t    testing.TB
	dir  string // data directory and socket
	port int
	cmd  *exec.Cmd
	done chan struct{}
}

// binDir is the newest PostgreSQL of this host.
func binDir(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		path, err := exec.LookPath("initdb")
		if err != nil {
			t.Fatal("no PostgreSQL in /usr/lib/postgresql/*/bin or PATH: install the package postgresql")
		}
		return filepath.Dir(path)
	}
	sort.Slice(found, func(i, j int) bool { return major(found[i]) < major(found[j]) })
	return filepath.Dir(found[len(found)-1])
}

func major(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

var template = struct {
	sync.Once
	dir string
	err error
}{}

// newServer makes a data directory; conf lines are appended to its
// configuration. Start starts it.
func newServer(t testing.TB, conf ...string) *server {
	t.Helper()
	template.Do(func() {
		// It outlives the test that makes it; unroot removes TMPDIR, and so
		// does the operating system.
		template.dir, template.err = os.MkdirTemp("", "probes")
		if template.err == nil {
			_, template.err = run(binDir(t)+"/initdb", "-N", "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "-D", template.dir+"/t")
		}
	})
	if template.err != nil {
		t.Fatal(template.err)
	}
	s := &server{t: t, dir: shortDir(t), port: freePort(t)}
	if _, err := run("cp", "-a", template.dir+"/t", s.dir+"/data"); err != nil {
		t.Fatal(err)
	}
	s.configure(append([]string{
		"listen_addresses = '127.0.0.1'", "port = " + strconv.Itoa(s.port), "unix_socket_directories = '" + s.dir + "'",
		"fsync = off", "shared_buffers = 16MB", "lc_messages = 'C'",
	}, conf...)...)
	return s
}

// shortDir is a temporary directory whose path fits into a socket address.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *server) configure(lines ...string) {
	s.t.Helper()
	f, err := os.OpenFile(s.dir+"/data/postgresql.conf", os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// start starts the postmaster; it ends, with all its children, with the test.
func (s *server) start() *server {
	s.t.Helper()
	log, err := os.Create(s.dir + "/log")
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(binDir(s.t)+"/postgres", "-D", s.dir+"/data")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	s.t.Cleanup(func() {
		s.signal(syscall.SIGKILL, true)
		<-s.done
	})
	return s
}

// up waits until the server answers.
func (s *server) up() *server {
	s.t.Helper()
	p := s.prober()
	eventually(s.t, func() bool { return p.Probe(context.Background()).State == events.PostgresUp })
	return s
}

// signal goes to the postmaster, and to its children first when all is set.
func (s *server) signal(sig syscall.Signal, all bool) {
	if all {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.cmd.Process.Pid, s.cmd.Process.Pid))
		for _, f := range strings.Fields(string(raw)) {
			pid, err := strconv.Atoi(f)
			if err == nil {
				_ = syscall.Kill(pid, sig)
			}
		}
	}
	_ = s.cmd.Process.Signal(sig)
}

func (s *server) dsn() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=prefer", s.port)
}

func (s *server) socketDSN() string {
	return fmt.Sprintf("postgres:///postgres?host=%s&port=%d&user=postgres", s.dir, s.port)
}

func (s *server) prober() *Prober { return prober(s.t, s.dsn()) }

func prober(t testing.TB, dsn string) *Prober {
	p := New(Config{DSN: dsn, Timeout: 400 * time.Millisecond})
	t.Cleanup(p.Close)
	return p
}

// client is an ordinary session.
func (s *server) client() *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(context.Background(), s.dsn())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (s *server) exec(sql string) {
	s.t.Helper()
	c := s.client()
	defer c.Close(context.Background())
	if _, err := c.Exec(context.Background(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return string(out), nil
}

// eventually polls a condition for at most 30 s.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen within 30 s")
		}
	}
}

// certificate makes a self-signed one where a server looks for it.
func certificate(t testing.TB, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ask := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, ask, ask, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"server.crt": {Type: "CERTIFICATE", Bytes: cert},
		"server.key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
