// Package debiantest makes PostgreSQL clusters the way Debian does, with
// pg_createcluster, for tests of taking them over. It is for tests only.
package debiantest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// oldest and newest are the major versions that a test may use.
const (
	oldest = 13
	newest = 18
)

// Cluster is one of Debian's, made for a test by pg_createcluster and dropped
// after it. What fails fails the test T.
type Cluster struct {
	T             *testing.T
	Version, Name string
	Port          int
	Passfile      string // "127.0.0.1:*:*:*:sesame", owned by postgres
}

// Data is the data directory.
func (c Cluster) Data() string { return filepath.Join("/var/lib/postgresql", c.Version, c.Name) }

// Etc is a file of the configuration, which lies outside the data directory.
func (c Cluster) Etc(file string) string {
	return filepath.Join("/etc/postgresql", c.Version, c.Name, file)
}

// Bin is one of PostgreSQL's programs.
func (c Cluster) Bin(name string) string {
	return filepath.Join("/usr/lib/postgresql", c.Version, "bin", name)
}

// version returns the newest version of PostgreSQL that pg_createcluster
// can make here. Without its tools, or as an ordinary user, the test is left
// out with a word; never in CI.
func version(t *testing.T) string {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "pg_createcluster needs root"
	} else if _, err := exec.LookPath("pg_createcluster"); err != nil {
		missing = "there is no pg_createcluster: install Debian's postgresql-common"
	}
	found := 0
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	for _, d := range dirs {
		if v, err := strconv.Atoi(strings.Split(d, "/")[4]); err == nil && v >= oldest && v <= newest {
			found = max(found, v)
		}
	}
	if found == 0 && missing == "" {
		missing = "there is no server of a supported version in /usr/lib/postgresql"
	}
	if missing == "" {
		return strconv.Itoa(found)
	}
	if os.Getenv("CI") != "" {
		t.Fatal("taking over cannot be tested on real servers: " + missing)
	}
	t.Skip("NOT TESTED on real servers: " + missing)
	return ""
}

var ours = regexp.MustCompile(`^([0-9]+)\s+(ixadopt([0-9]+)[ab])\s`)

// dropLeftovers removes clusters of earlier runs of this test that were killed.
func dropLeftovers(t *testing.T) {
	t.Helper()
	out, err := exec.Command("pg_lsclusters", "-h").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_lsclusters: %v\n%s", err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		m := ours.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if pid, err := strconv.Atoi(m[3]); err == nil && syscall.Kill(pid, 0) != nil {
			t.Logf("dropping %s %s of a run that was killed", m[1], m[2])
			_ = exec.Command("pg_dropcluster", "--stop", m[1], m[2]).Run()
		}
	}
}

func createCluster(t *testing.T, version, letter, passfile string) Cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := Cluster{T: t, Version: version, Name: fmt.Sprintf("ixadopt%d%s", os.Getpid(), letter), Port: l.Addr().(*net.TCPAddr).Port, Passfile: passfile}
	_ = l.Close()
	c.Root("pg_createcluster", version, c.Name, "-p", strconv.Itoa(c.Port), "--start-conf=auto")
	t.Cleanup(func() {
		out, err := exec.Command("pg_dropcluster", "--stop", version, c.Name).CombinedOutput()
		if err != nil {
			t.Errorf("pg_dropcluster %s %s: %v\n%s", version, c.Name, err, out)
		}
		socket := fmt.Sprintf("/var/run/postgresql/.s.PGSQL.%d", c.Port)
		for _, left := range []string{socket, socket + ".lock", fmt.Sprintf("/var/run/postgresql/%s-%s.pid", version, c.Name)} {
			_ = os.Remove(left) // of a server that was killed
		}
	})
	return c
}

// Root runs a program as root.
func (c Cluster) Root(path string, args ...string) {
	c.T.Helper()
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		c.T.Fatalf("%s %q: %v\n%s", path, args, err, out)
	}
}

// Ctl runs pg_ctlcluster. It has files in place of pipes: a server that is started keeps them open.
func (c Cluster) Ctl(action string, more ...string) {
	c.T.Helper()
	log, err := os.CreateTemp(c.T.TempDir(), "ctl")
	if err != nil {
		c.T.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("pg_ctlcluster", append([]string{"--skip-systemctl-redirect", c.Version, c.Name, action}, more...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		server, _ := os.ReadFile(fmt.Sprintf("/var/log/postgresql/postgresql-%s-%s.log", c.Version, c.Name))
		c.T.Fatalf("pg_ctlcluster %s: %v\n%s\n%s", action, err, text, server)
	}
}

// Postgres runs one of PostgreSQL's programs as its user.
func (c Cluster) Postgres(path string, args ...string) string {
	c.T.Helper()
	uid, gid := Account(c.T)
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PGPASSFILE="+c.Passfile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.T.Fatalf("%s %q: %v\n%s", path, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// SQL runs one statement through the socket, as the user postgres, and returns
// what it prints.
func (c Cluster) SQL(statement string) string {
	c.T.Helper()
	return c.Postgres(c.Bin("psql"), "-XAtq", "-h", "/var/run/postgresql", "-p", strconv.Itoa(c.Port), "-d", "postgres", "-c", statement)
}

// Account is the user postgres.
func Account(t *testing.T) (uid, gid uint32) {
	t.Helper()
	u, err := osuser.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	id, err1 := strconv.ParseUint(u.Uid, 10, 32)
	group, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return uint32(id), uint32(group)
}

// Pair makes a primary and a streaming standby the way people do on
// Debian: two clusters, the second one's directory replaced by a base backup.
func Pair(t *testing.T) (primary, standby Cluster) {
	t.Helper()
	v := version(t)
	dropLeftovers(t)
	dir, err := os.MkdirTemp("", "ixadopt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	uid, gid := Account(t)
	passfile := filepath.Join(dir, "pgpass")
	if err := os.WriteFile(passfile, []byte("127.0.0.1:*:*:*:sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, passfile} {
		if err := os.Chown(path, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	primary = createCluster(t, v, "a", passfile)
	primary.Ctl("start")
	primary.SQL("ALTER ROLE postgres PASSWORD 'sesame'")
	primary.SQL("CREATE ROLE weak LOGIN PASSWORD 'sesame'")
	standby = createCluster(t, v, "b", passfile)
	if err := os.RemoveAll(standby.Data()); err != nil {
		t.Fatal(err)
	}
	primary.Postgres(primary.Bin("pg_basebackup"), "-h", "127.0.0.1", "-p", strconv.Itoa(primary.Port), "-U", "postgres", "-D", standby.Data(), "-R", "-c", "fast")
	standby.Ctl("start")
	return primary, standby
}

// Streams waits until the standby streams.
func (c Cluster) Streams() {
	c.T.Helper()
	Until(c.T, func() bool {
		return c.SQL("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == "1"
	}, c.Name+" streaming")
}

// Until waits for a condition that is about to become true.
func Until(t *testing.T, holds func() bool, what string) {
	t.Helper()
	end := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(end) {
			t.Fatalf("not seen after 60 s: %s", what)
		}
		<-tick.C
	}
}
