package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/adopt"
	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/lab"
)

// described is a cluster of several hosts, as the environment describes it on
// each of them in the same words: every agent runs on its node's own host. Its
// servers are made by Interrex (rules 107 and 917); the log holds what they
// have become.
type described struct {
	config.Config
	dir    string
	binDir string
}

const defaultPort = 5432

// describe checks what a cluster of several hosts takes beyond what the
// variables say one by one.
func describe(dir string, cfg config.Config) (described, error) {
	d := described{Config: cfg, dir: dir}
	for _, n := range cfg.Nodes {
		name := fmt.Sprintf("%sNODE_%d_", config.Prefix, n.ID)
		switch {
		case !n.Here():
			return d, usage("%sEXECUTOR=%q: in a cluster of several agents each runs on its node's own host: leave it out, or have one interrex up take these servers over", name, n.Executor)
		case n.Passfile == "":
			return d, usage("%sPASSFILE is not set; the nodes reach one another over the network and need a password file, in libpq's form, with a line for the role %s", name, n.User)
		}
	}
	return d, nil
}

// local adds what only a node's own host knows, and checks its passfile.
func (d described) local(node string) (described, error) {
	n := d.node(node)
	role := n.User
	if adopt.Password(n, role) == "" {
		if _, err := os.ReadFile(n.Passfile); err != nil {
			return d, fmt.Errorf("%sNODE_%d_PASSFILE: the password file cannot be read: %w", config.Prefix, n.ID, err)
		}
		return d, fmt.Errorf("%sNODE_%d_PASSFILE=%q has no line for the role %s at %s:%d: add HOST:PORT:*:%s:PASSWORD (an asterisk fits any)", config.Prefix, n.ID, n.Passfile, role, n.Host, d.port(n), role)
	}
	d.binDir = n.BinDirectory
	if d.binDir == "" {
		var err error
		if d.binDir, _, err = lab.FindBinDir(); err != nil {
			return d, err
		}
	}
	if err := os.MkdirAll(d.socketDir(), 0o700); err != nil {
		return d, fmt.Errorf("directory of PostgreSQL's socket: %w", err)
	}
	return d, nil
}

// Place: every agent runs on its node's own host.
func (d described) Place(string) string { return "" }

func (d described) port(n config.Node) int { return cmp.Or(n.Port, defaultPort) }

func (d described) socketDir() string { return filepath.Join(d.dir, "run") }

func (d described) node(name string) config.Node {
	for _, n := range d.Nodes {
		if n.Name == name {
			return n
		}
	}
	return config.Node{Name: name}
}

func (d described) Name() string     { return d.Cluster }
func (d described) Created() bool    { return true }
func (d described) Here(string) bool { return true }

func (d described) Members() []events.Member {
	var out []events.Member
	for _, n := range d.Nodes {
		n.Port = d.port(n)
		out = append(out, n.Member())
	}
	return out
}

// Postgres is the node as its own agent reaches it: over the socket, so that it
// goes on being watched when the network is cut.
func (d described) Postgres(name string) executors.Postgres {
	n := d.node(name)
	return executors.Postgres{
		Runner: local.New(), Node: n.Name, BinDir: d.binDir, DataDir: n.DataDirectory, Host: n.Host, Port: d.port(n),
		SocketDir: d.socketDir(), User: n.User, Password: adopt.Password(n, n.User), SSLMode: n.SSLMode,
		LogFile: filepath.Join(d.dir, "postgres.log"),
	}
}

func (d described) PeerDSN(name string) string {
	p := d.Postgres(name)
	p.SocketDir = ""
	return p.DSN("interrex-peer")
}

func (d described) Upstream(primary, standby string) executors.Upstream {
	n, own := d.node(primary), d.node(standby)
	return executors.Upstream{
		Node: primary, Host: n.Host, Port: d.port(n), User: own.User, Password: adopt.Password(own, own.User), SSLMode: n.SSLMode,
		Passfile: own.Passfile, Slot: events.SlotName(standby),
	}
}

// DSN is for clients; they add a passfile.
func (d described) DSN() string {
	hosts := make([]string, len(d.Nodes))
	for i, n := range d.Nodes {
		hosts[i] = net.JoinHostPort(n.Host, strconv.Itoa(d.port(n)))
	}
	q := url.Values{"target_session_attrs": {"read-write"}}
	return "postgres://" + lab.AppUser + "@" + strings.Join(hosts, ",") + "/" + lab.AppDatabase + "?" + q.Encode()
}

// newCluster says what the first server is made of: the role of the agents and
// standbys and, where the passfile has a password for it, the clients' role
// with their database.
func (d described) newCluster(node string) (executors.NewCluster, error) {
	n := d.node(node)
	me, err := user.Current()
	if err != nil {
		return executors.NewCluster{}, fmt.Errorf("the name of this account, for pg_ident.conf: %w", err)
	}
	roles := []string{lab.Superuser, n.User, lab.AppUser}
	sql := []string{"set password_encryption = 'scram-sha-256'"}
	if n.User != lab.Superuser {
		sql = append(sql, "create role "+quoteName(n.User)+" superuser login replication")
	}
	sql = append(sql, "alter role "+quoteName(n.User)+" password "+quoteText(adopt.Password(n, n.User)))
	if p := adopt.Password(n, lab.AppUser); p != "" {
		sql = append(sql, "create role "+lab.AppUser+" login password "+quoteText(p), "create database "+lab.AppDatabase+" owner "+lab.AppUser)
	}
	ident := "# Made by interrex.\n"
	for _, role := range roles {
		ident += fmt.Sprintf("interrex %q %q\n", me.Username, role)
	}
	settings := lab.Settings{Name: d.Cluster, Listen: "*", Port: d.port(n), SocketDir: d.socketDir(), Nodes: len(d.Nodes), SCRAM: true}
	return executors.NewCluster{
		Superuser: lab.Superuser, Configuration: settings.String(), Ident: ident, Statements: sql,
		HBA: "# Made by interrex: over the socket the account that runs PostgreSQL, over the network a password.\n" +
			"local  all          all  peer map=interrex\n" +
			"local  replication  all  peer map=interrex\n" +
			"host   all          all  all  scram-sha-256\n" +
			"host   replication  " + quoteName(n.User) + "  all  scram-sha-256\n",
	}, nil
}

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// partTopology is the cluster that an agent or a controller stands in: the one of
// the directory or, where that holds none, the one that the environment describes.
func (g *globals) partTopology() (topology, error) {
	t, err := loadTopology(g.dir)
	if err == nil || !errors.Is(err, lab.ErrNoCluster) || os.Getenv(config.Prefix+"NODE_0_DATA_DIRECTORY") == "" {
		return t, err
	}
	cfg, err := environment()
	if err != nil {
		return nil, err
	}
	return describe(g.dir, cfg)
}
