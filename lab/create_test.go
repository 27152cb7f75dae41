package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/probes"
)

func TestCreate(t *testing.T) {
	ctx := deadline(t)
	dir := filepath.Join(tempDir(t), "cluster")
	began := time.Now()
	var steps []string
	l := cluster(t, CreateOptions{Dir: dir, Nodes: 3, Cluster: "ix-test", Progress: func(s string) { steps = append(steps, s) }})
	t.Logf("three nodes in %s: %s", time.Since(began).Round(time.Millisecond), strings.Join(steps, "; "))

	again, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l, again) {
		t.Errorf("loaded %+v, made %+v", again, l)
	}
	if len(l.Nodes) != 3 || l.Nodes[2].Name != "db3" || l.Nodes[2].ID != 2 || l.Nodes[2].Port != l.Nodes[0].Port+2 || l.NodeAt(l.Nodes[1].Port) != "db2" {
		t.Errorf("nodes %+v", l.Nodes)
	}
	for path, mode := range map[string]os.FileMode{"": 0o700, passwordFile: 0o600, "run": 0o700, layoutFile: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v, %v, want mode %v", path, info.Mode(), err, mode)
		}
	}
	if primary, err := l.Primary(ctx); err != nil || primary != "db1" {
		t.Errorf("primary %q, %v", primary, err)
	}
	for i, n := range l.Nodes {
		over := map[string]string{"socket": l.Postgres(n.Name).DSN("interrex-test"), "peer": l.PeerDSN(n.Name)}
		for name, dsn := range over {
			p := probes.New(probes.Config{DSN: dsn})
			f := p.Probe(ctx)
			p.Close()
			if f.State != events.PostgresUp || f.InRecovery != (i > 0) || (f.Receiver == "streaming") != (i > 0) {
				t.Errorf("%s over %s: %+v", n.Name, name, f)
			}
			if i == 0 && len(f.Replicas) != 2 {
				t.Errorf("%s feeds %+v", n.Name, f.Replicas)
			}
		}
		conn, err := pgx.Connect(ctx, l.NodeDSN(n.Name))
		if err != nil {
			t.Fatal(err)
		}
		var name string
		if err := conn.QueryRow(ctx, "show cluster_name").Scan(&name); err != nil || name != "ix-test/"+n.Name {
			t.Errorf("%s calls itself %q, %v", n.Name, name, err)
		}
		conn.Close(ctx)
	}
}

// What a half-made, a foreign and a used directory are told by.
func TestCreateRefuses(t *testing.T) {
	ctx := deadline(t)
	if _, err := Load(tempDir(t)); !errors.Is(err, ErrNoCluster) {
		t.Errorf("loading an empty directory: %v", err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := busy.Addr().(*net.TCPAddr).Port
	with := func(name string) string {
		dir := tempDir(t)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, c := range map[string]struct {
		o    CreateOptions
		want string
	}{
		"something in it": {CreateOptions{Dir: with("letters.txt"), Nodes: 2}, "letters.txt"},
		"half-made":       {CreateOptions{Dir: with(markerFile), Nodes: 2}, "rm -r"},
		"a cluster":       {CreateOptions{Dir: with(layoutFile), Nodes: 2}, "holds a cluster already"},
		"port in use":     {CreateOptions{Dir: tempDir(t), Nodes: 1, Port: taken}, strconv.Itoa(taken) + " for node db1"},
		"second in use":   {CreateOptions{Dir: tempDir(t), Nodes: 2, Port: taken - 1}, strconv.Itoa(taken) + " for node db2"},
		"no nodes":        {CreateOptions{Dir: tempDir(t)}, "0 nodes"},
		"high port":       {CreateOptions{Dir: tempDir(t), Nodes: 3, Port: 65535}, "65535"},
		"bad name":        {CreateOptions{Dir: tempDir(t), Nodes: 1, Cluster: "a.b"}, `"a.b"`},
		"bad auth":        {CreateOptions{Dir: tempDir(t), Nodes: 1, Auth: "md5"}, "md5"},
		"bad directory":   {CreateOptions{Dir: "/tmp/a:b", Nodes: 1}, "colon"},
		"no PostgreSQL":   {CreateOptions{Dir: tempDir(t), Nodes: 1, BinDir: "/bin"}, "initdb"},
	} {
		l, err := Create(ctx, c.o)
		if err == nil {
			_ = l.Stop(ctx, Immediate)
			t.Errorf("%s: it was made", name)
		} else if name == "no PostgreSQL" && !strings.Contains(err.Error(), "/bin has no program") || name != "no PostgreSQL" && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something about %q", name, err, c.want)
		}
		if name != "half-made" {
			if _, err := os.Stat(filepath.Join(c.o.Dir, markerFile)); err == nil {
				t.Errorf("%s: the refused directory was touched", name)
			}
		}
	}
}

// An interrupted Create leaves no server behind, and its directory is known.
func TestCreateInterrupted(t *testing.T) {
	dir := tempDir(t)
	ctx, cancel := context.WithCancel(deadline(t))
	steps := 0
	_, err := Create(ctx, CreateOptions{Dir: dir, Nodes: 2, NoSync: true, Progress: func(string) {
		if steps++; steps == 2 { // db1 runs, db2 is to be copied
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrHalfMade) {
		t.Errorf("loading it: %v", err)
	}
	if _, err := Create(t.Context(), CreateOptions{Dir: dir, Nodes: 2}); !errors.Is(err, ErrHalfMade) {
		t.Errorf("making it again: %v", err)
	}
	if pids, err := processesIn(filepath.Join(dir, "db1", "data")); err != nil || len(pids) > 0 {
		t.Errorf("processes %v were left, %v", pids, err)
	}
	// A maker that was killed leaves its servers running.
	if err := os.WriteFile(filepath.Join(dir, "db1", "data", "postmaster.pid"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "pg_ctl stop -m immediate -D "+filepath.Join(dir, "db1", "data")) {
		t.Errorf("loading it with a server left: %v", err)
	}
}

// A directory too deep for a socket, with a space in its name, and no passwords.
func TestCreateDeepAndTrusting(t *testing.T) {
	ctx := deadline(t)
	dir := filepath.Join(tempDir(t), "it's a "+strings.Repeat("deep", 20))
	l := cluster(t, CreateOptions{Dir: dir, Nodes: 2, Auth: "trust"})
	if strings.HasPrefix(l.SocketDir, dir) {
		t.Errorf("sockets in %s: too long a path", l.SocketDir)
	}
	if err := os.WriteFile(l.Passfile(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, l.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var port int
	if err := conn.QueryRow(ctx, "select inet_server_port()").Scan(&port); err != nil || port != l.Nodes[0].Port {
		t.Errorf("clients are led to port %d, %v", port, err)
	}
}

// Over TCP nobody gets in without the password.
func TestPasswordIsAskedFor(t *testing.T) {
	ctx := deadline(t)
	l := cluster(t, CreateOptions{Nodes: 1})
	dsn := fmt.Sprintf("postgres://%s:guess@127.0.0.1:%d/postgres", Superuser, l.Nodes[0].Port)
	p := probes.New(probes.Config{DSN: dsn})
	defer p.Close()
	if f := p.Probe(ctx); f.SQLState != "28P01" {
		t.Errorf("with a guessed password: %q %v", f.State, f.Err)
	}
	if raw, err := os.ReadFile(filepath.Join(l.dir, layoutFile)); err != nil || strings.Contains(string(raw), l.Password(AppUser)) {
		t.Errorf("cluster.json holds a password (%v)", err)
	}
}

// A cluster with a node down keeps its ports: the next one begins a block later.
func TestPortsKeepApart(t *testing.T) {
	name := func(i int) string { return strconv.Itoa(i) }
	first, err := choosePorts(0, 3, name)
	if err != nil || (first-FirstPort)%portBlock != 0 {
		t.Fatalf("%d, %v", first, err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(first+2)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, n := range []int{1, 3, 12} {
		if next, err := choosePorts(0, n, name); err != nil || next < first+portBlock {
			t.Errorf("%d nodes beside port %d: %d, %v", n, first+2, next, err)
		}
	}
}

func TestFindBinDir(t *testing.T) {
	dir, version, err := FindBinDir()
	if err != nil || version < OldestVersion || version > NewestVersion {
		t.Fatalf("%s, %d, %v", dir, version, err)
	}
	old := tempDir(t)
	for _, p := range programs {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 12.4 (Debian 12.4-1)'\n"
		if err := os.WriteFile(filepath.Join(old, p), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if found, _, err := newest([]string{old, dir}); err != nil || found != dir {
		t.Errorf("newest of 12 and %d: %s, %v", version, found, err)
	}
	for _, dirs := range [][]string{{old}, {tempDir(t)}, nil} {
		if _, _, err := newest(dirs); err == nil || !strings.Contains(err.Error(), "Debian package postgresql") {
			t.Errorf("%v: %v", dirs, err)
		}
	}
	if _, _, err := newest([]string{old}); err == nil || !strings.Contains(err.Error(), "is PostgreSQL 12") {
		t.Errorf("12 is not refused by name: %v", err)
	}
	for text, want := range map[string]int{"postgres (PostgreSQL) 18beta1": 18, "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)": 15, "postgres 15": 0, "postgres (PostgreSQL) devel": 0} {
		if v, err := majorVersion(text); v != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", text, v, err, want)
		}
	}
}
