package adopted

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/internal/debiantest"
)

// box is a container in which PostgreSQL runs, but not as its first process.
type box struct {
	t        *testing.T
	name, ip string
	bin      string
}

// baseImage is made by `task images`.
const baseImage = "debian:bookworm-slim"

// boxes makes two containers on a network of their own; PostgreSQL's programs are
// this host's, which is of the same Debian.
func boxes(t *testing.T) (a, b box) {
	t.Helper()
	if out, err := exec.Command("docker", "image", "inspect", baseImage).CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("containers cannot be tested: %v\n%s\nrun: go tool task images", err, out)
		}
		t.Skipf("NOT TESTED on containers: %v; run: go tool task images", err)
	}
	network := fmt.Sprintf("ixadopt%d", os.Getpid())
	run(t, "docker", "network", "create", network)
	t.Cleanup(func() { _ = exec.Command("docker", "network", "rm", network).Run() })
	bins, err := filepath.Glob("/usr/lib/postgresql/15/bin")
	if err != nil || len(bins) == 0 {
		t.Fatalf("no PostgreSQL 15 here: %v", err)
	}
	for i, x := range []*box{&a, &b} {
		*x = box{t: t, name: fmt.Sprintf("%s%c", network, 'a'+i), bin: bins[0]}
		t.Cleanup(func() {
			if t.Failed() {
				log, _ := exec.Command("docker", "exec", x.name, "tail", "-n", "20", "/data/pg.log").CombinedOutput()
				t.Logf("%s's log ends with:\n%s", x.name, log)
			}
			_ = exec.Command("docker", "rm", "-f", "-v", x.name).Run()
		})
		run(t, "docker", "run", "-d", "--name", x.name, "--network", network, "-v", "/usr:/usr:ro", baseImage, "sh", "-c", "while :; do sleep 1; done") // as process 1 it reaps what is left to it
		x.ip = run(t, "docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", x.name)
		run(t, "docker", "exec", x.name, "sh", "-c", "echo postgres:x:999:999::/data:/bin/sh >>/etc/passwd; echo postgres:x:999: >>/etc/group; mkdir /data && chown 999:999 /data")
	}
	a.sh(`"$0/initdb" -D /data/pg -U postgres -A trust -N >/dev/null
cat >>/data/pg/postgresql.conf <<X
listen_addresses = '*'
unix_socket_directories = '/tmp'
wal_log_hints = on
X
echo 'host all,replication all samenet trust' >>/data/pg/pg_hba.conf
"$0/pg_ctl" -D /data/pg -l /data/pg.log -w start >/dev/null`)
	b.sh(`"$0/pg_basebackup" -D /data/pg -R -c fast -h ` + a.ip + ` -U postgres
"$0/pg_ctl" -D /data/pg -l /data/pg.log -w start >/dev/null`)
	return a, b
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (x box) sh(script string) string {
	x.t.Helper()
	return run(x.t, "docker", "exec", "-u", "postgres", x.name, "sh", "-ec", script, x.bin)
}

func (x box) sql(statement string) string {
	x.t.Helper()
	return run(x.t, x.bin+"/psql", "-XAtq", "-h", x.ip, "-U", "postgres", "-d", "postgres", "-c", statement)
}

// engineSocket is the Engine's socket for interrex, which is not root and in no
// group: a door of the test's own.
func engineSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ixdocker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for p, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go forward(from)
		}
	}()
	return "unix://" + path
}

func forward(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("unix", "/var/run/docker.sock")
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(from, to)
}

// TestContainers has nodes in containers fail over: a PostgreSQL that is killed, a
// container that is killed, and one that is paused, in which nothing can be run.
func TestContainers(t *testing.T) {
	a, b := boxes(t)
	c := newCluster(t, map[string]debiantest.Cluster{})
	for id, x := range []box{a, b} {
		v := fmt.Sprintf("INTERREX_NODE_%d_", id)
		c.env = append(c.env, v+"EXECUTOR=docker", v+"CONTAINER="+x.name, v+"HOST="+x.ip, v+"DATA_DIRECTORY=/data/pg", fmt.Sprintf("%sNAME=db%d", v, id+1))
	}
	c.fails(3, "docker.sock", "up", "--plan") // its socket is root's
	c.env = append(c.env, "DOCKER_HOST="+engineSocket(t))
	out := c.must("up", "--plan")
	if !strings.Contains(out, "reached by container "+a.name) {
		t.Errorf("the plan reads:\n%s", out)
	}
	u := c.up()
	u.await("a healthy cluster under db1", healthy("db1"))
	a.sql("CREATE TABLE kept (n int)")
	a.sql("INSERT INTO kept VALUES (1)")

	a.sh(`kill -9 "$(head -1 /data/pg/postmaster.pid)"`)
	u.await("db2 primary", func(s status) bool { return s.Phase == "healthy" && s.Primary == "db2" })
	c.explains("dead: no process")
	c.must("recover", "db1", "--yes")
	u.await("db1 back", healthy("db2"))

	run(t, "docker", "kill", b.name)
	u.await("db1 primary", func(s status) bool { return s.Phase == "healthy" && s.Primary == "db1" })
	c.explains("killed: container")
	c.must("recover", "db2", "--yes") // starts the container
	u.await("db2 back", healthy("db1"))

	run(t, "docker", "pause", a.name)
	began := time.Now()
	u.await("db2 primary, while db1 is paused", func(s status) bool { return s.Phase == "healthy" && s.Primary == "db2" })
	t.Logf("db2 was primary and settled %s after db1 was paused", time.Since(began).Round(time.Millisecond))
	c.explains("killed: container")
	if state := run(t, "docker", "inspect", "-f", "{{.State.Running}}", a.name); state != "false" {
		t.Errorf("the paused container runs: %s", state)
	}
	b.sql("INSERT INTO kept VALUES (2)")
	c.must("recover", "db1", "--yes")
	u.await("db1 back", healthy("db2"))
	debiantest.Until(t, func() bool { return a.sql("SELECT count(*) FROM kept") == "2" }, "both rows on db1")
	u.stop()
}

// explains checks what the last failover was decided on.
func (c *cluster) explains(proof string) {
	c.t.Helper()
	if out := c.must("explain"); !strings.Contains(out, proof) {
		c.t.Errorf("explain says nothing of %q:\n%s", proof, out)
	}
}
