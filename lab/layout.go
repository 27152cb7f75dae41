package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// The roles of a cluster made by Create, and the clients' database.
const (
	Superuser       = "postgres"   // for people
	AgentUser       = "interrex"   // superuser of the agents' connections
	ReplicationUser = "replicator" // standbys stream as this role
	AppUser         = "app"        // clients; owns AppDatabase
	AppDatabase     = "app"
)

// Names inside a cluster's directory.
const (
	layoutFile   = "cluster.json"
	passwordFile = "pgpass"
	markerFile   = "half-made" // stands while Create works
)

// loopback is where all servers of a lab listen.
const loopback = "127.0.0.1"

// ErrNoCluster says that a directory holds no cluster made by Create.
var ErrNoCluster = errors.New("there is no cluster made by interrex")

// ErrHalfMade says that Create was interrupted in a directory.
var ErrHalfMade = errors.New("the making of the cluster was interrupted")

// Layout says where the parts of a cluster are. It is DIR/cluster.json.
type Layout struct {
	Cluster   string `json:"cluster"`
	BinDir    string `json:"bin_directory"`
	Version   int    `json:"version"` // PostgreSQL's major version
	SocketDir string `json:"socket_directory"`
	Auth      string `json:"auth"` // of TCP connections: "scram" or "trust"
	Nodes     []Node `json:"nodes"`

	dir       string
	passwords map[string]string // by role
}

// Node is one PostgreSQL of the cluster.
type Node struct {
	ID      int    `json:"id"` // pgpool backend id, its place in Layout.Nodes
	Name    string `json:"name"`
	Host    string `json:"host"`
	Port    int    `json:"port"`
	DataDir string `json:"data_directory"`
	LogFile string `json:"log_file"`
}

// Load reads the layout of a directory made by Create. The error wraps
// ErrNoCluster or ErrHalfMade when it is that.
func Load(dir string) (*Layout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("lab: directory %q: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, markerFile)); err == nil {
		return nil, halfMade(dir)
	}
	raw, err := os.ReadFile(filepath.Join(dir, layoutFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab: %s: %w (no file %s)", dir, ErrNoCluster, layoutFile)
	}
	if err != nil {
		return nil, fmt.Errorf("lab: read the cluster's layout: %w", err)
	}
	l := &Layout{dir: dir}
	if err := json.Unmarshal(raw, l); err != nil {
		return nil, fmt.Errorf("lab: %s is not a cluster's layout: %w", filepath.Join(dir, layoutFile), err)
	}
	if err := l.readPasswords(); err != nil {
		return nil, err
	}
	return l, nil
}

// halfMade says what to do; servers may be left when the maker was killed.
func halfMade(dir string) error {
	stop := ""
	pids, err := filepath.Glob(filepath.Join(dir, "*", "data", "postmaster.pid"))
	if err == nil {
		for _, p := range pids {
			stop += "pg_ctl stop -m immediate -D " + filepath.Dir(p) + "; "
		}
	}
	return fmt.Errorf("lab: %s: %w; remove it (%srm -r %s) and try again; no server of it has ever held data of yours", dir, ErrHalfMade, stop, dir)
}

// Dir is the cluster's directory.
func (l *Layout) Dir() string { return l.dir }

// Passfile is the file in libpq's format with the passwords of all roles.
func (l *Layout) Passfile() string { return filepath.Join(l.dir, passwordFile) }

// Password returns the password of one of the roles.
func (l *Layout) Password(role string) string { return l.passwords[role] }

// Node returns the node of a name.
func (l *Layout) Node(name string) (Node, error) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("lab: cluster %s has no node %q; it has %s", l.Cluster, name, strings.Join(l.names(), ", "))
}

// NodeAt returns the name of the node that listens on a port, "" when none does.
func (l *Layout) NodeAt(port int) string {
	for _, n := range l.Nodes {
		if n.Port == port {
			return n.Name
		}
	}
	return ""
}

func (l *Layout) names() []string {
	var names []string
	for _, n := range l.Nodes {
		names = append(names, n.Name)
	}
	return names
}

// Postgres is the node as the executors reach it: on this host, over its Unix
// socket, as AgentUser. A name that the cluster does not have gives a value
// that reaches nothing.
func (l *Layout) Postgres(name string) executors.Postgres {
	n, err := l.Node(name)
	if err != nil {
		return executors.Postgres{Node: name, Runner: local.New()}
	}
	return executors.Postgres{
		Runner:    local.New(),
		Node:      n.Name,
		BinDir:    l.BinDir,
		DataDir:   n.DataDir,
		Host:      n.Host,
		Port:      n.Port,
		SocketDir: l.SocketDir,
		User:      AgentUser,
		Password:  l.passwords[AgentUser],
		LogFile:   n.LogFile,
	}
}

// PeerDSN is how the agent of another node reaches the node named: over the
// socket, as AgentUser. TCP would do as well, but each kept connection has a
// port of its own, and the kernel takes it from the range in which the servers
// listen: one that is down could then not come back.
func (l *Layout) PeerDSN(name string) string {
	return l.Postgres(name).DSN("interrex-peer")
}

// Upstream is how the standby named follows the primary named; over the socket,
// for the reason given at PeerDSN.
func (l *Layout) Upstream(primary, standby string) executors.Upstream {
	u := executors.Upstream{
		Node:     primary,
		User:     ReplicationUser,
		Password: l.passwords[ReplicationUser],
		Passfile: l.Passfile(),
		Slot:     events.SlotName(standby),
	}
	if n, err := l.Node(primary); err == nil {
		u.Host, u.Port = l.SocketDir, n.Port
	}
	return u
}

// DSN is the connection string for clients, for libpq and pgx alike: all nodes,
// the one that takes writes is chosen. The password is in the passfile that it
// names.
func (l *Layout) DSN() string {
	return l.uri(AppUser, AppDatabase, l.Nodes, url.Values{"target_session_attrs": {"read-write"}})
}

// ReaderDSN is like DSN, but prefers a standby.
func (l *Layout) ReaderDSN() string {
	return l.uri(AppUser, AppDatabase, l.Nodes, url.Values{"target_session_attrs": {"prefer-standby"}})
}

// NodeDSN is the connection string for clients of one node, whatever its role.
func (l *Layout) NodeDSN(name string) string {
	n, err := l.Node(name)
	if err != nil {
		return ""
	}
	return l.uri(AppUser, AppDatabase, []Node{n}, url.Values{})
}

// uri writes a connection URI by hand where url.URL would not: it takes one
// host only.
func (l *Layout) uri(user, database string, nodes []Node, q url.Values) string {
	hosts := make([]string, len(nodes))
	for i, n := range nodes {
		hosts[i] = n.Host + ":" + strconv.Itoa(n.Port)
	}
	q.Set("sslmode", "disable") // the servers of a lab have no certificate
	q.Set("passfile", l.Passfile())
	// libpq reads a plus sign in a query as itself, not as a space.
	return "postgres://" + url.PathEscape(user) + "@" + strings.Join(hosts, ",") + "/" + url.PathEscape(database) +
		"?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

// save writes cluster.json.
func (l *Layout) save() error {
	raw, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("lab: write the cluster's layout: %w", err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, layoutFile), append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("lab: write the cluster's layout: %w", err)
	}
	return nil
}

// savePasswords writes the passfile: each role at each node.
func (l *Layout) savePasswords() error {
	var b strings.Builder
	for _, n := range l.Nodes {
		for _, role := range []string{Superuser, AgentUser, ReplicationUser, AppUser} {
			fmt.Fprintf(&b, "%s:%d:*:%s:%s\n", n.Host, n.Port, role, l.passwords[role])
		}
	}
	if err := os.WriteFile(l.Passfile(), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("lab: write the passwords: %w", err)
	}
	return nil
}

func (l *Layout) readPasswords() error {
	raw, err := os.ReadFile(l.Passfile())
	if err != nil {
		return fmt.Errorf("lab: read the passwords of the cluster: %w", err)
	}
	l.passwords = map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Split(strings.TrimRight(line, "\n"), ":"); len(f) == 5 {
			l.passwords[f[3]] = f[4]
		}
	}
	return nil
}
