// Package config turns the environment into typed values. The environment says
// where things are (INTERREX_DIR, INTERREX_NODE_0_HOST, …); how the cluster
// behaves is the policy in the log, and INTERREX_POLICY_* only fills the first
// one of a new log.
//
// Load reports everything that is wrong at once, each by the name of its
// variable. It looks at nothing but the variables that it is given: whether a
// directory or a server exists is for package adopt.
package config

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/config/pgpool"
	"github.com/interrex-ha/interrex/events"
)

// Prefix begins the name of every variable.
const Prefix = "INTERREX_"

// MaxNodes bounds the nodes of a cluster; ids run from 0 to MaxNodes-1.
const MaxNodes = 32

// DefaultCluster is the name of a cluster that was given none.
const DefaultCluster = "main"

// Config is what the environment says.
type Config struct {
	Dir           string // INTERREX_DIR as it stands; empty when not set: see Dir
	Cluster       string // DefaultCluster when not set
	Nodes         []Node // by id, without gaps; empty when no INTERREX_NODE_ variable is set
	SSHConfig     string // of the ssh client; empty: ~/.ssh/config
	API           API
	Log           Log
	Bootstrap     string // INTERREX_BOOTSTRAP: one of Nodes, or empty
	LogUnsafeSync bool   // an external log that acknowledges before fsync is accepted
	Scripts       Scripts

	// Policy is events.DefaultPolicy with the INTERREX_POLICY_ variables put in;
	// it passes Policy.Check. PolicySet names its fields that a variable set, by
	// their JSON names and in the policy's order: a log that holds another value
	// for one of them is a contradiction, for the other fields it is not.
	Policy    events.Policy
	PolicySet []string
}

// Scripts are a pgpool user's own, used in place of our executors where given.
type Scripts struct {
	Failover       pgpool.Command // failover_command; zero: none
	FailoverWithin time.Duration  // for the script and until its effect is seen
	FirstStage     string         // recovery_1st_stage_command: see pgpool.CheckScript; empty: none
	RecoveryWithin time.Duration  // from pgpool_remote_start until the standby streams
}

// API is where the HTTP API listens and whom it trusts. Empty strings were not
// given; files are absolute paths.
type API struct {
	Listen    string
	TokenFile string
	CertFile  string
	KeyFile   string
}

// Node is one PostgreSQL as the environment describes it. Empty strings and a
// Port of 0 were not given: adopt.Discover finds them out.
type Node struct {
	ID            int    // pgpool's backend id
	Name          string // never empty: see nodeVariables.Name
	Host          string // "127.0.0.1" when not given
	Port          int
	DataDirectory string // absolute and clean
	ConfigFile    string
	BinDirectory  string
	Service       string // init unit, for example postgresql@15-main
	User          string
	Passfile      string
	SSLMode       string
	Weight        float64 // pgpool's: 0 or more
	Priority      int

	Executor  string // where its commands run: ExecutorLocal (or empty, the same), ExecutorSSH or ExecutorDocker
	SSHHost   string // address or alias; Host when empty
	SSHUser   string // the login, the owner of the data directory; empty: what ssh's configuration says
	SSHPort   int    // 0: what ssh's configuration says
	SSHKey    string // file; empty: ssh's configuration, its agent
	SSHConfig string // file; empty: ~/.ssh/config
	Container string

	ContainerUser string // whom commands in the container run as; empty: postgres
}

// The executors that a node may have.
const (
	ExecutorLocal  = "local"
	ExecutorSSH    = "ssh"
	ExecutorDocker = "docker"
)

// Here reports whether the node's agent runs on the node's own host.
func (n Node) Here() bool { return n.Executor == "" || n.Executor == ExecutorLocal }

// Place names the host or container that the node is reached in, for messages
// and to tell one place from another: "ssh postgres@pg-a:22", "container db1";
// empty for this host.
func (n Node) Place() string {
	switch n.Executor {
	case ExecutorSSH:
		s := "ssh "
		if n.SSHUser != "" {
			s += n.SSHUser + "@"
		}
		s += cmp.Or(n.SSHHost, n.Host)
		if n.SSHPort != 0 {
			s += ":" + strconv.Itoa(n.SSHPort)
		}
		return s
	case ExecutorDocker:
		return "container " + n.Container
	}
	return ""
}

// Member is the node as the log names it. Port and DataDirectory must be known.
func (n Node) Member() events.Member {
	return events.Member{
		ID: n.ID, Name: n.Name, Host: n.Host, Port: n.Port, DataDir: n.DataDirectory,
		Weight: int(n.Weight*1000 + 0.5), Priority: n.Priority,
	}
}

// Load reads the variables of environ, in the form of os.Environ; of a name
// that stands there twice the last counts. An empty value is the same as none.
// The error joins every finding, one per line, each with the variable's name,
// its value and what would be right; Config is of use only without an error.
func Load(environ []string) (Config, error) {
	vars := ours(environ)
	var errs findings
	errs.unknown(vars)
	c := Config{Dir: vars[Prefix+"DIR"]}
	c.general(vars, &errs)
	c.scripts(vars, &errs)
	c.nodes(vars, &errs)
	c.policy(vars, &errs)
	c.bootstrap(&errs)
	return c, errs.join()
}

// ours returns the variables that begin with Prefix and are not empty.
func ours(environ []string) map[string]string {
	vars := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, Prefix) {
			continue
		}
		delete(vars, name)
		if value != "" {
			vars[name] = value
		}
	}
	return vars
}

func (c *Config) general(vars map[string]string, errs *findings) {
	var g generalVariables
	parse(&g, Prefix, vars, errs)
	c.Cluster, c.LogUnsafeSync, c.SSHConfig = g.Cluster, g.LogUnsafeSync, clean(g.SSHConfig)
	if g.SSHConfig != "" && !filepath.IsAbs(g.SSHConfig) {
		errs.add(Prefix+"SSH_CONFIG", g.SSHConfig, right(g, "SSH_CONFIG")+": it begins with /")
	}
	c.Log, c.Bootstrap = g.log(errs), g.Bootstrap
	c.api(g, errs)
	if err := events.CheckName(c.Cluster); err != nil {
		errs.add(Prefix+"CLUSTER", c.Cluster, err.Error())
	}
}

func (c *Config) scripts(vars map[string]string, errs *findings) {
	var v scriptVariables
	parse(&v, Prefix, vars, errs)
	c.Scripts = Scripts{FailoverWithin: v.FailoverWithin, FirstStage: v.FirstStage, RecoveryWithin: v.RecoveryWithin}
	if v.Failover != "" {
		command, err := pgpool.ParseCommand(v.Failover)
		if err != nil {
			errs.add(Prefix+"FAILOVER_COMMAND", v.Failover, err.Error())
		}
		c.Scripts.Failover = command
	}
	if err := pgpool.CheckScript(v.FirstStage); err != nil {
		errs.add(Prefix+"RECOVERY_1ST_STAGE_COMMAND", v.FirstStage, err.Error())
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"SEARCH_PRIMARY_NODE_TIMEOUT", v.FailoverWithin}, {"RECOVERY_TIMEOUT", v.RecoveryWithin}} {
		if d.d <= 0 && !errs.has(Prefix+d.name) {
			errs.add(Prefix+d.name, d.d.String(), "it must be more than 0")
		}
	}
}

func (c *Config) api(g generalVariables, errs *findings) {
	c.API = API{g.APIListen, clean(g.APITokenFile), clean(g.APICertFile), clean(g.APIKeyFile)}
	if _, _, err := net.SplitHostPort(g.APIListen); g.APIListen != "" && err != nil {
		errs.add(Prefix+"API_LISTEN", g.APIListen, right(g, "API_LISTEN")+", like 127.0.0.1:8008")
	}
	for _, f := range []struct{ name, value string }{{"API_TOKEN_FILE", g.APITokenFile}, {"API_CERT_FILE", g.APICertFile}, {"API_KEY_FILE", g.APIKeyFile}} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			errs.add(Prefix+f.name, f.value, right(g, f.name)+": it begins with /")
		}
	}
}

// Dir is the directory that holds the log, keys and journals: what the flag
// says, else INTERREX_DIR, else /var/lib/interrex as root, else
// $XDG_STATE_HOME/interrex, else ~/.local/state/interrex. It is made absolute
// and not created. Without any of these, for a user without a home, it lies in
// the temporary directory under the user's number.
func Dir(flag string, getenv func(string) string) string {
	return dirFor(flag, getenv, os.Geteuid())
}

func dirFor(flag string, getenv func(string) string, uid int) string {
	state, home := getenv("XDG_STATE_HOME"), getenv("HOME")
	dir := flag
	if dir == "" {
		dir = getenv(Prefix + "DIR")
	}
	switch {
	case dir != "":
	case uid == 0:
		dir = "/var/lib/interrex"
	case filepath.IsAbs(state): // a relative one is void by the XDG specification
		dir = filepath.Join(state, "interrex")
	case home != "":
		dir = filepath.Join(home, ".local", "state", "interrex")
	default:
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("interrex-%d", uid))
	}
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return filepath.Clean(dir)
}
