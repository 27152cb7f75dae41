package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// The tables below are the one place where a variable is named: env reads the
// values by them, errors say by "right" what would be right, and
// docs/configuration.md shows "about".

type generalVariables struct {
	Dir           string `env:"DIR" right:"a directory" default:"/var/lib/interrex as root, else $XDG_STATE_HOME/interrex or ~/.local/state/interrex" about:"Where the log, keys and journals of this host are kept. The flag --dir goes before it."`
	Cluster       string `env:"CLUSTER" envDefault:"main" right:"a name" about:"Name of the cluster: a-z, 0-9, _ and -, at most 32 characters. Part of the stream's name."`
	SSHConfig     string `env:"SSH_CONFIG" right:"an absolute path" default:"~/.ssh/config" about:"Configuration file of the ssh client for nodes with EXECUTOR=ssh: aliases, ProxyJump, IdentityFile, UserKnownHostsFile. ssh: -F."`
	LogURL        string `env:"LOG_URL" right:"nats://HOST:PORT, or tls://HOST:PORT" default:"what the process that serves the log writes into DIR/log.json" about:"Where the log is served, for agents, controllers and commands on other hosts."`
	LogKeyFile    string `env:"LOG_KEY_FILE" right:"an absolute path" default:"the key of the role in LOG_KEYS" about:"The one key to use for the log: an agent's host needs the agents' key only. Mode 0600."`
	LogKeys       string `env:"LOG_KEYS" right:"an absolute path" default:"DIR/keys" about:"Directory of the log's keys, one for each role, mode 0700. Whoever serves the log makes them when they are missing."`
	LogListen     string `env:"LOG_LISTEN" right:"HOST:PORT, or :PORT for every address" default:"127.0.0.1, and a free port" about:"Where interrex controller --serve-log listens. Keys never cross the network, but without LOG_TLS_CERT everything else does in the clear and can be altered on its way: only in a network that nobody else is in."`
	LogTLSCert    string `env:"LOG_TLS_CERT" right:"an absolute path" default:"no TLS" about:"Certificate (PEM, with its chain) of the log's server; clients then need LOG_URL=tls://…"`
	LogTLSKey     string `env:"LOG_TLS_KEY" right:"an absolute path" default:"required with LOG_TLS_CERT" about:"Its private key."`
	LogTLSCA      string `env:"LOG_TLS_CA" right:"an absolute path" default:"the system's authorities" about:"Certificate of the authority that clients of the log trust. Counts with LOG_URL=tls://…"`
	Bootstrap     string `env:"BOOTSTRAP" right:"the name of a node" default:"none: the servers exist already" about:"For interrex controller --serve-log with INTERREX_NODE_ variables: the one node that is made from nothing when every node is empty. Written into a new log; the log is asked from then on, and an empty directory never begins a second cluster."`
	APIListen     string `env:"API_LISTEN" right:"HOST:PORT" default:"127.0.0.1:8008 for interrex api; interrex up has no API unless this is set" about:"Where the HTTP API listens, of interrex api and inside interrex up. The flags --listen and --api go before it. Anything but a loopback address needs a token."`
	APITokenFile  string `env:"API_TOKEN_FILE" right:"an absolute path" default:"none: loopback only" about:"File with the token that the HTTP API asks for (Authorization: Bearer), one line of at least 16 characters, mode 0600, readable for the account that interrex runs as. Health checks and metrics need none."`
	APICertFile   string `env:"API_CERT_FILE" right:"an absolute path" default:"none: plain HTTP" about:"Certificate of the HTTP API, PEM, with what lies between it and its authority. Together with API_KEY_FILE."`
	APIKeyFile    string `env:"API_KEY_FILE" right:"an absolute path" default:"none: plain HTTP" about:"Private key of that certificate, PEM."`
	LogUnsafeSync bool   `env:"LOG_UNSAFE_SYNC" envDefault:"false" right:"true or false" about:"No effect in this release, whose log is embedded. Accept an external NATS server that acknowledges before it has written to disk. A power cut can then take back decisions: for tests only."`
}

type nodeVariables struct {
	Name          string  `env:"NAME" right:"a name" default:"HOST when that is a valid name no other node has, else db1 for node 0, db2 for node 1, …" about:"Name in the log and in every command: a-z, 0-9, _ and -, at most 32 characters."`
	Host          string  `env:"HOST" envDefault:"127.0.0.1" right:"a host name or address, without a port" about:"Where clients and standbys reach this PostgreSQL. pgpool: backend_hostname."`
	Port          int     `env:"PORT" right:"a number from 1 to 65535" default:"that of the running server, else of its configuration" about:"pgpool: backend_port."`
	DataDirectory string  `env:"DATA_DIRECTORY" right:"an absolute path" default:"required" about:"The data directory. pgpool: backend_data_directory."`
	ConfigFile    string  `env:"CONFIG_FILE" right:"an absolute path" default:"what the running server says, else Debian's place, else DATA_DIRECTORY/postgresql.conf" about:"postgresql.conf, where it is not in the data directory."`
	BinDirectory  string  `env:"BIN_DIRECTORY" right:"an absolute path" default:"that of the running server, else by the version of the data directory" about:"Where pg_ctl, pg_rewind and the others are."`
	Service       string  `env:"SERVICE" right:"the name of a unit" default:"postgresql@VERSION-NAME for a cluster of Debian's tools, else none" about:"Unit of the init system that starts this PostgreSQL. Interrex wants its autostart to be off."`
	User          string  `env:"USER" envDefault:"postgres" right:"a role" about:"Superuser of Interrex' own connections and of replication."`
	Passfile      string  `env:"PASSFILE" right:"an absolute path" default:"none: connections go through the Unix socket, as the owner of the data directory (peer)" about:"Password file in libpq's form, mode 0600, readable for the server's user: with it connections go over TCP. Passwords themselves stand in no variable."`
	SSLMode       string  `env:"SSLMODE" envDefault:"prefer" right:"disable, allow, prefer, require, verify-ca or verify-full" about:"libpq's sslmode."`
	Executor      string  `env:"EXECUTOR" envDefault:"local" right:"local, ssh or docker" about:"Where the node's commands run: on this host, on another one over ssh, in a container through the Docker Engine of this host. With ssh and docker the agent runs here and cannot stop a PostgreSQL that it is cut off from: such a node's silence is never taken for the end of its lease, and a failover then waits for a proof of death or for an operator."`
	SSHHost       string  `env:"SSH_HOST" right:"a host name, address, or alias of ssh's configuration" default:"HOST" about:"For EXECUTOR=ssh: where to log in. ~/.ssh/config is read: aliases, ProxyJump, keys. The host's key must stand in known_hosts."`
	SSHUser       string  `env:"SSH_USER" right:"an account of that host" default:"what ~/.ssh/config says, else the own name" about:"For EXECUTOR=ssh: the login. It must own the data directory: postgres."`
	SSHPort       int     `env:"SSH_PORT" right:"a number from 1 to 65535" default:"what ~/.ssh/config says, else 22" about:"For EXECUTOR=ssh."`
	SSHKey        string  `env:"SSH_KEY" right:"an absolute path" default:"what ~/.ssh/config says, ssh's agent, and the usual files" about:"For EXECUTOR=ssh: file of the private key."`
	Container     string  `env:"CONTAINER" right:"the name or id of a container" default:"required with EXECUTOR=docker" about:"For EXECUTOR=docker. PostgreSQL must not be the container's first process: the container has to outlive it."`
	ContainerUser string  `env:"CONTAINER_USER" right:"an account of the container" default:"postgres" about:"For EXECUTOR=docker: whom commands run as. It must own the data directory."`
	Weight        float64 `env:"WEIGHT" envDefault:"1" right:"a number from 0 to 1000000" about:"Share of reads, shown to clients and poolers. pgpool: backend_weight."`
	Priority      int     `env:"PRIORITY" envDefault:"0" right:"a whole number from -1000000 to 1000000" about:"Of two candidates with the same WAL the higher one is promoted."`
}

type scriptVariables struct {
	Failover       string        `env:"FAILOVER_COMMAND" right:"a command line with pgpool's placeholders" default:"none: Interrex promotes by itself" about:"Run to promote the candidate, for example \u0060/etc/pgpool-II/failover.sh %d %h %p %D %m %H %M %P %r %R %N %S\u0060. The candidate stands in %m, %H, %r and %R; whether it was promoted is looked up, not believed. No shell reads the line: quotes and backslashes work, $, >, ; and the like are refused. pgpool: failover_command."`
	FailoverWithin time.Duration `env:"SEARCH_PRIMARY_NODE_TIMEOUT" envDefault:"30s" right:"a duration with its unit, like 500ms or 3s" about:"Time for the failover script and until its effect is seen; then it is ended. Keep it below the policy's start_timeout. pgpool: search_primary_node_timeout."`
	FirstStage     string        `env:"RECOVERY_1ST_STAGE_COMMAND" right:"a file name or an absolute path" default:"none: Interrex recovers by itself" about:"Script that copies the primary to the node that is recovered, with pgpool's seven arguments; run on the primary's host, followed by pgpool_remote_start of the primary's data directory. Whether the node streams is looked up, not believed. pgpool: recovery_1st_stage_command."`
	RecoveryWithin time.Duration `env:"RECOVERY_TIMEOUT" envDefault:"90s" right:"a duration with its unit, like 500ms or 3s" about:"Time for pgpool_remote_start and until the recovered node streams. pgpool: recovery_timeout."`
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// policyAbout says what each field of the policy is for, by its JSON name.
var policyAbout = map[string]string{
	"durability":    "What a failover may lose. `async` is the only mode of this rule set.",
	"lease":         "How long one acknowledged renewal lets the primary take writes.",
	"renew":         "Time between renewals of the lease.",
	"stop_budget":   "Time that killing every process of a PostgreSQL takes.",
	"margin":        "Scheduling noise on top of the stop budget.",
	"drift_ppm":     "Bound on the rate error of the monotonic clocks, in millionths.",
	"grace":         "Silence of the primary before it is suspect.",
	"heartbeat":     "Time between two signs of life of a standby's agent.",
	"probe_every":   "Time between two probes.",
	"probe_timeout": "Time after which a probe without an answer has failed.",
	"hang":          "A PostgreSQL silent to its own agent for so long is stopped.",
	"stop_grace":    "Wait for the same node after a clean stop by hand.",
	"start_timeout": "Time that a primary may take to start again. Patroni: primary_start_timeout.",
	"max_lag":       "WAL that an automatic failover may lose, in bytes; kB, MB and GB are multiples of 1024 as in PostgreSQL.",
	"node_silence":  "A standby's agent silent for so long: status 3, down.",
	"position_wait": "How long an election waits for slow standbys.",
	"settle_wait":   "How long the others may take to follow a new primary.",
	"switch_wait":   "How long a switchover may take to stop the primary and to catch up.",
}

// Variable is one row of the table of all variables.
type Variable struct {
	Name    string // with <id> for a node's number
	Type    string // what a value looks like
	Default string // empty: none
	Meaning string
}

// Variables returns every variable there is, in the order of the documentation.
func Variables() []Variable {
	out := rows(reflect.TypeFor[generalVariables](), Prefix)
	out = append(out, rows(reflect.TypeFor[nodeVariables](), nodePrefix("<id>"))...)
	out = append(out, rows(reflect.TypeFor[scriptVariables](), Prefix)...)
	return append(out, policyRows()...)
}

func rows(t reflect.Type, prefix string) []Variable {
	var out []Variable
	for f := range t.Fields() {
		v := Variable{
			Name: prefix + f.Tag.Get("env"), Type: f.Tag.Get("right"),
			Default: f.Tag.Get("envDefault"), Meaning: f.Tag.Get("about"),
		}
		if v.Default == "" {
			v.Default = f.Tag.Get("default")
		}
		out = append(out, v)
	}
	return out
}

func policyRows() []Variable {
	var out []Variable
	p := reflect.ValueOf(events.DefaultPolicy())
	for i, f := range reflect.VisibleFields(p.Type()) {
		field := f.Tag.Get("json")
		out = append(out, Variable{
			Name: policyVariable(field), Type: policyRight(f.Type),
			Default: fmt.Sprint(p.Field(i).Interface()), Meaning: policyAbout[field],
		})
	}
	return out
}

// policyRight says what a value of a policy field looks like.
func policyRight(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[events.Duration]():
		return "a duration with its unit, like 500ms or 3s"
	case t == reflect.TypeFor[uint64]():
		return "a number of bytes, like 16777216 or 16MB"
	case t.Kind() == reflect.String:
		return "a word"
	default:
		return "a whole number"
	}
}

func policyVariable(field string) string { return Prefix + "POLICY_" + strings.ToUpper(field) }

func nodePrefix(id string) string { return Prefix + "NODE_" + id + "_" }

// Markdown is docs/configuration.md: the table of all variables, by chapter.
func Markdown() string {
	var b strings.Builder
	b.WriteString(markdownHead)
	all := Variables()
	for _, ch := range []struct{ title, text, prefix string }{
		{"General", "", ""},
		{"Nodes", markdownNodes, nodePrefix("<id>")},
		{"Scripts of a pgpool user", markdownScripts, scriptsChapter},
		{"First policy of a new log", markdownPolicy, Prefix + "POLICY_"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n%s| variable | value | default | meaning |\n|---|---|---|---|\n", ch.title, ch.text)
		for _, v := range all {
			if chapter(v.Name) == ch.prefix {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", v.Name, cell(v.Type), cell(v.Default), cell(v.Meaning))
			}
		}
	}
	return b.String()
}

// scriptsChapter stands for a prefix: these variables have pgpool's names, and
// no prefix of their own.
const scriptsChapter = "scripts"

func chapter(name string) string {
	for _, v := range rows(reflect.TypeFor[scriptVariables](), Prefix) {
		if v.Name == name {
			return scriptsChapter
		}
	}
	for _, p := range []string{nodePrefix("<id>"), Prefix + "POLICY_"} {
		if strings.HasPrefix(name, p) {
			return p
		}
	}
	return ""
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

const markdownHead = `# Configuration

*Generated from the table in config/variables.go by ` + "`go tool task generate`" + `; do not edit.*

The environment says where things are. How the cluster behaves is its policy, which lives in the log: ` + "`interrex policy`" + ` prints it, ` + "`interrex policy set`" + ` changes it.
An empty value is the same as none. Everything that is wrong is reported at once: values of the wrong form, missing numbers, and names that do not exist (with the nearest one that does).
`

const markdownNodes = "In pgpool's shape: `INTERREX_NODE_0_DATA_DIRECTORY`, `INTERREX_NODE_1_DATA_DIRECTORY`, …; `<id>` is pgpool's backend id. Numbers begin at 0 and have no gaps.\n\n"

const markdownScripts = "They replace Interrex' own promotion and recovery. What they did is looked up by SQL: an exit status proves nothing.\n\n"

const markdownPolicy = "Only the first policy event of a new log is filled from these. Where a log exists, a variable that differs from it is an error that names both: remove the variable, or change the log with `interrex policy set`.\n\n"
