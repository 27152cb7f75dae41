package adopt

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// Taken is a cluster that was taken over, as interrex up keeps it: the nodes
// with everything that was found out about them. It holds no password; those
// stay in the passfiles that the nodes name.
type Taken struct {
	Cluster  string            `json:"cluster"`
	SystemID string            `json:"system_id"`
	Nodes    []config.Node     `json:"nodes"`
	Sockets  map[string]string `json:"sockets"` // by node: the directory of its Unix socket, as it was when it ran
	Logs     map[string]string `json:"logs"`    // by node of another host: the file that a server started there writes to

	Dir   string `json:"-"` // where this is kept: the directory of interrex up
	Hosts *Hosts `json:"-"` // how the nodes are reached; nil where all are here
}

// Take is the cluster of a report, to be kept in dir. It changes nothing.
func (r Report) Take(cluster, dir string) Taken {
	return Taken{Cluster: cluster, SystemID: r.systemID, Nodes: r.Nodes, Sockets: r.sockets, Logs: r.logs, Dir: dir, Hosts: r.hosts}
}

// Agrees returns nil when the environment still describes the cluster that was
// taken over. What the environment leaves open is as it was; user, passfile,
// SSL mode and the places of programs may be given anew: With puts them in.
func (t Taken) Agrees(cluster string, nodes []config.Node) error {
	if cluster != t.Cluster {
		return fmt.Errorf("%s holds the cluster %q, and INTERREX_CLUSTER says %q: use another --dir, or correct it", t.Dir, t.Cluster, cluster)
	}
	if len(nodes) != len(t.Nodes) {
		return fmt.Errorf("%s holds a cluster of %d nodes, and the INTERREX_NODE_ variables describe %d: nodes cannot be added or taken away in this release; release it (interrex up --release) and take it over anew with another --dir", t.Dir, len(t.Nodes), len(nodes))
	}
	for i, n := range nodes {
		had := t.Nodes[i]
		if n.Port == 0 {
			n.Port = had.Port
		}
		for _, c := range []struct{ field, was, is string }{
			{"NAME", had.Name, n.Name}, {"HOST", had.Host, n.Host}, {"PORT", strconv.Itoa(had.Port), strconv.Itoa(n.Port)},
			{"DATA_DIRECTORY", had.DataDirectory, n.DataDirectory}, {"WEIGHT", fmt.Sprint(had.Weight), fmt.Sprint(n.Weight)},
			{"PRIORITY", strconv.Itoa(had.Priority), strconv.Itoa(n.Priority)},
			{"EXECUTOR", cmp.Or(had.Executor, config.ExecutorLocal), cmp.Or(n.Executor, config.ExecutorLocal)},
			{"CONTAINER", had.Container, n.Container},
		} {
			if c.was != c.is {
				return fmt.Errorf("INTERREX_NODE_%d_%s=%q: %s holds a cluster in which it is %q: use another --dir, or correct it", n.ID, c.field, c.is, t.Dir, c.was)
			}
		}
	}
	return nil
}

// With returns the cluster with what the environment says now of how its nodes
// are reached; nodes must be those that Agrees was asked about.
func (t Taken) With(nodes []config.Node) Taken {
	t.Nodes = slices.Clone(t.Nodes)
	for i, n := range nodes {
		had := &t.Nodes[i]
		had.User, had.Passfile, had.SSLMode = n.User, n.Passfile, n.SSLMode
		had.BinDirectory = cmp.Or(n.BinDirectory, had.BinDirectory)
		had.ConfigFile = cmp.Or(n.ConfigFile, had.ConfigFile)
		had.Service = cmp.Or(n.Service, had.Service)
		had.SSHHost, had.SSHUser, had.SSHPort, had.SSHKey, had.SSHConfig, had.ContainerUser = n.SSHHost, n.SSHUser, n.SSHPort, n.SSHKey, n.SSHConfig, n.ContainerUser
	}
	return t
}

// Name is the cluster's name.
func (t Taken) Name() string { return t.Cluster }

// Created is false: Interrex did not make these servers, and never stops them
// because a part of it ends in order.
func (t Taken) Created() bool { return false }

// Place says where the commands of the node named run, empty for this host.
func (t Taken) Place(node string) string { return t.node(node).Place() }

// Members are the nodes as the log names them.
func (t Taken) Members() []events.Member {
	var out []events.Member
	for _, n := range t.Nodes {
		out = append(out, n.Member())
	}
	return out
}

func (t Taken) node(name string) config.Node {
	for _, n := range t.Nodes {
		if n.Name == name {
			return n
		}
	}
	return config.Node{Name: name}
}

// Postgres is the node as its agent's executors reach it: over the Unix socket
// when it is of this host and names no passfile (peer authentication of the
// servers' owner), else over TCP.
func (t Taken) Postgres(name string) executors.Postgres {
	n := t.node(name)
	p := executors.Postgres{
		Runner: t.runner(n), Node: n.Name, BinDir: n.BinDirectory, DataDir: n.DataDirectory, ConfigFile: outside(n),
		Host: n.Host, Port: n.Port, User: userOf(n), Password: password(n, userOf(n)), LogFile: t.serverLog(n), SSLMode: n.SSLMode,
	}
	if n.Passfile == "" && n.Here() {
		p.SocketDir = t.socketDir(n)
	}
	return p
}

func (t Taken) runner(n config.Node) executors.Runner {
	if n.Here() {
		return local.New()
	}
	return t.Hosts.Runner(n)
}

// debianLogs is where pg_ctlcluster writes.
const debianLogs = "/var/log/postgresql"

// debianLog is Debian's file for a cluster of its own that may be written here,
// "" when there is none.
func debianLog(n config.Node) string {
	version, name, ok := debian(n.ConfigFile)
	if !ok {
		return ""
	}
	file := filepath.Join(debianLogs, "postgresql-"+version+"-"+name+".log")
	if unix.Access(file, unix.W_OK) == nil || !exists(file) && unix.Access(debianLogs, unix.W_OK) == nil {
		return file
	}
	return ""
}

// serverLog is the file that a server started by Interrex writes to: Debian's
// own where it may be written, so that people find what they look for, else one
// beside the agent's files, or on another host one of the data directory's own
// name beside it.
func (t Taken) serverLog(n config.Node) string {
	if !n.Here() {
		return cmp.Or(t.Logs[n.Name], n.DataDirectory+".log")
	}
	return cmp.Or(debianLog(n), filepath.Join(t.Dir, n.Name, "postgres.log"))
}

// outside is the configuration file when it does not lie in the data directory.
func outside(n config.Node) string {
	if filepath.Dir(n.ConfigFile) == n.DataDirectory {
		return ""
	}
	return n.ConfigFile
}

func userOf(n config.Node) string {
	if n.User == "" {
		return "postgres"
	}
	return n.User
}

// socketDir is where the node's Unix socket is: what its postmaster wrote, else
// where it was when the node was taken over, else Debian's.
func (t Taken) socketDir(n config.Node) string {
	if p, err := thisHost().inspect(n.DataDirectory); err == nil && p.socket != "" {
		return p.socket
	}
	return cmp.Or(t.Sockets[n.Name], "/var/run/postgresql")
}

// Password looks a role up in the node's passfile, "" when it is not there.
func Password(n config.Node, user string) string { return password(n, user) }

// password looks the user up in the node's passfile (libpq's format, PostgreSQL
// documentation 34.16), "" when it is not there.
func password(n config.Node, user string) string {
	f, err := os.Open(n.Passfile)
	if err != nil {
		return ""
	}
	defer f.Close()
	want := []string{n.Host, strconv.Itoa(n.Port), "", user}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		if fields := passfileFields(sc.Text()); len(fields) == 5 && matches(fields, want) {
			return fields[4].text
		}
	}
	return ""
}

// passfileField is a field without its escapes; any says that it was a lone,
// unescaped asterisk, which fits everything.
type passfileField struct {
	text string
	any  bool
}

// passfileFields takes a line apart at its colons; a backslash makes the next
// character an ordinary one. As in libpq the password ends at a fifth colon.
func passfileFields(line string) []passfileField {
	var out []passfileField
	var field strings.Builder
	began := 0
	end := func(i int) {
		out = append(out, passfileField{field.String(), line[began:i] == "*"})
		field.Reset()
		began = i + 1
	}
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			i++
			field.WriteByte(line[i])
		case line[i] == ':':
			if end(i); len(out) == 5 {
				return out
			}
		default:
			field.WriteByte(line[i])
		}
	}
	end(len(line))
	return out
}

func matches(fields []passfileField, want []string) bool {
	for i, w := range want {
		if w != "" && !fields[i].any && fields[i].text != w {
			return false
		}
	}
	return true
}

// PeerDSN is how the agents of other nodes probe the node.
func (t Taken) PeerDSN(name string) string { return t.Postgres(name).DSN("interrex-peer") }

// Upstream is how the standby named follows the primary named. On this host it
// holds no password: that stands in the passfile already, which is not ours to
// write. A standby of another host gets a passfile of its own there.
func (t Taken) Upstream(primary, standby string) executors.Upstream {
	n := t.node(primary)
	if !t.node(standby).Here() {
		return executors.Upstream{
			Node: primary, Host: n.Host, Port: n.Port, User: userOf(n), Password: password(n, userOf(n)), Slot: events.SlotName(standby), SSLMode: n.SSLMode,
		}
	}
	u := executors.Upstream{Node: primary, Host: n.Host, Port: n.Port, User: userOf(n), Passfile: n.Passfile, Slot: events.SlotName(standby), SSLMode: n.SSLMode}
	if n.Passfile == "" && n.Here() {
		u.Host = t.socketDir(n)
	}
	return u
}

// DSN is the multi-host URI for clients; they add their own user and database.
func (t Taken) DSN() string {
	hosts := make([]string, len(t.Nodes))
	for i, n := range t.Nodes {
		hosts[i] = net.JoinHostPort(n.Host, strconv.Itoa(n.Port))
	}
	q := url.Values{"target_session_attrs": {"read-write"}}
	return "postgres://" + strings.Join(hosts, ",") + "/postgres?" + q.Encode()
}
