package adopt

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/config"
)

func takenPair(dir string) Taken {
	node := func(id int, name, data string) config.Node {
		return config.Node{ID: id, Name: name, Host: "127.0.0.1", Port: 5432 + id, DataDirectory: data, ConfigFile: data + "/postgresql.conf", User: "postgres", Weight: 1}
	}
	return Taken{
		Cluster: "shop", SystemID: "42", Dir: dir, Sockets: map[string]string{"db1": "/sockets"},
		Nodes: []config.Node{node(0, "db1", "/data/0"), node(1, "db2", "/data/1")},
	}
}

// TestPassword reads passfiles as libpq does (fe-connect.c, passwordFromFile).
func TestPassword(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"plain", "127.0.0.1:5432:*:postgres:sesame", "sesame"},
		{"escaped colon and backslash", `127.0.0.1:5432:*:postgres:se\:sa\\me`, `se:sa\me`},
		{"a fifth colon ends it", "127.0.0.1:5432:*:postgres:sesame:more", "sesame"},
		{"a backslash at the end stands for itself", `127.0.0.1:5432:*:postgres:sesame\`, `sesame\`},
		{"escaped user", `127.0.0.1:5432:*:post\gres:sesame`, "sesame"},
		{"wildcards", "*:*:*:*:sesame", "sesame"},
		{"an escaped asterisk is a name", `127.0.0.1:5432:*:\*:wrong` + "\n*:*:*:*:sesame", "sesame"},
		{"the first that fits", "127.0.0.1:5433:*:postgres:no\n127.0.0.1:5432:*:other:no\n127.0.0.1:5432:*:postgres:sesame\n*:*:*:*:no", "sesame"},
		{"a comment", "#127.0.0.1:5432:*:postgres:no\n*:*:*:*:sesame", "sesame"},
		{"none that fits", "10.0.0.1:5432:*:postgres:no\nshort:line", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := takenPair("").Nodes[0]
			n.Passfile = write(t, filepath.Join(t.TempDir(), "pgpass"), c.file+"\n")
			if got := password(n, "postgres"); got != c.want {
				t.Errorf("password %q, want %q", got, c.want)
			}
		})
	}
	if got := password(config.Node{Passfile: "/nowhere"}, "postgres"); got != "" {
		t.Errorf("password %q of a file that is not there", got)
	}
}

// TestAgrees: a directory serves the cluster that it was made for.
func TestAgrees(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(cluster *string, nodes []config.Node) []config.Node
		want   string // part of the error, empty for none
	}{
		{"the same", func(_ *string, n []config.Node) []config.Node { return n }, ""},
		{"ports left open", func(_ *string, n []config.Node) []config.Node { n[0].Port, n[1].Port = 0, 0; return n }, ""},
		{"another passfile", func(_ *string, n []config.Node) []config.Node { n[0].Passfile = "/x"; return n }, ""},
		{"another cluster", func(c *string, n []config.Node) []config.Node { *c = "other"; return n }, `INTERREX_CLUSTER says "other"`},
		{"fewer nodes", func(_ *string, n []config.Node) []config.Node { return n[:1] }, "describe 1"},
		{"another port", func(_ *string, n []config.Node) []config.Node { n[1].Port = 7; return n }, `INTERREX_NODE_1_PORT="7"`},
		{"another directory", func(_ *string, n []config.Node) []config.Node { n[1].DataDirectory = "/x"; return n }, `INTERREX_NODE_1_DATA_DIRECTORY="/x"`},
		{"another name", func(_ *string, n []config.Node) []config.Node { n[0].Name = "x"; return n }, `INTERREX_NODE_0_NAME="x"`},
		{"another host", func(_ *string, n []config.Node) []config.Node { n[0].Host = "::1"; return n }, `INTERREX_NODE_0_HOST="::1"`},
		{"another weight", func(_ *string, n []config.Node) []config.Node { n[0].Weight = 2; return n }, `INTERREX_NODE_0_WEIGHT="2"`},
		{"another priority", func(_ *string, n []config.Node) []config.Node { n[0].Priority = 2; return n }, `INTERREX_NODE_0_PRIORITY="2"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			taken, cluster := takenPair("/dir"), "shop"
			err := taken.Agrees(cluster, c.change(&cluster, takenPair("").Nodes))
			if cluster != "shop" {
				err = taken.Agrees(cluster, takenPair("").Nodes)
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestWith: how nodes are reached may be said anew; what was found out stays.
func TestWith(t *testing.T) {
	taken := takenPair("/dir")
	given := takenPair("").Nodes
	given[0].Passfile, given[0].User, given[0].ConfigFile, given[0].Port = "/pass", "boss", "", 0
	got := taken.With(given)
	want := taken.Nodes[0]
	want.Passfile, want.User = "/pass", "boss"
	if got.Nodes[0] != want {
		t.Errorf("got  %+v\nwant %+v", got.Nodes[0], want)
	}
	if taken.Nodes[0].User != "postgres" {
		t.Error("With has changed what it was asked of")
	}
}

// TestWays: without a passfile everything goes through the socket, of a server
// that is down too; with one nothing writes a password anywhere.
func TestWays(t *testing.T) {
	taken := takenPair("/dir")
	if p := taken.Postgres("db1"); p.SocketDir != "/sockets" || p.LogFile != "/dir/db1/postgres.log" || p.ConfigFile != "" {
		t.Errorf("got socket %q, log %q, configuration %q", p.SocketDir, p.LogFile, p.ConfigFile)
	}
	if u := taken.Upstream("db1", "db2"); u.Host != "/sockets" || u.Slot != "interrex_db2" || u.Passfile != "" {
		t.Errorf("got %+v", u)
	}
	passfile := write(t, filepath.Join(t.TempDir(), "pgpass"), "*:*:*:*:sesame\n")
	taken.Nodes[0].Passfile = passfile
	if p := taken.Postgres("db1"); p.SocketDir != "" || p.Password != "sesame" {
		t.Errorf("got socket %q, password %q", p.SocketDir, p.Password)
	}
	if u := taken.Upstream("db1", "db2"); u.Host != "127.0.0.1" || u.Password != "" || u.Passfile != passfile {
		t.Errorf("got %+v: a password would be written into the user's own file", u)
	}
}
