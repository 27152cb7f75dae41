package executors

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// Postgres is one node's PostgreSQL as the executors reach it.
type Postgres struct {
	Runner     Runner `json:"-"`
	Node       string
	BinDir     string // for example /usr/lib/postgresql/15/bin
	DataDir    string
	ConfigFile string // postgresql.conf; empty means DataDir/postgresql.conf
	HBAFile    string // empty means what the configuration says
	Host       string // for TCP
	Port       int
	SocketDir  string // when set, the agent connects here
	User       string // superuser of the agent's connections
	Password   string
	Database   string // "postgres" when empty
	SSLMode    string // libpq's, for TCP; "prefer" when empty
	LogFile    string // of the server when Interrex starts it; empty: DataDir/../postgres.log
	StopWithin time.Duration
}

// Upstream is how a standby reaches the primary that it shall follow.
type Upstream struct {
	Node     string // the primary's name
	Host     string
	Port     int
	User     string // replication role
	Password string // written to a passfile, never to a command line
	SSLMode  string // libpq's, for TCP; "prefer" when empty
	Passfile string // file that primary_conninfo names; owned by the server's user, 0600
	Slot     string // events.SlotName of the standby
}

// Configuration returns the path of postgresql.conf.
func (p Postgres) Configuration() string {
	if p.ConfigFile != "" {
		return p.ConfigFile
	}
	return filepath.Join(p.DataDir, "postgresql.conf")
}

// Bin returns the path of one of PostgreSQL's programs.
func (p Postgres) Bin(name string) string { return filepath.Join(p.BinDir, name) }

// ServerLog is the file that a server started by Interrex writes to.
func (p Postgres) ServerLog() string {
	if p.LogFile != "" {
		return p.LogFile
	}
	return filepath.Join(filepath.Dir(p.DataDir), "postgres.log")
}

// DSN is the connection string of the agent's own connections. It holds the
// password: never log it.
func (p Postgres) DSN(application string) string {
	host := p.SocketDir
	if host == "" {
		host = p.Host
	}
	return p.dsnTo(host, p.Port, p.SSLMode, url.Values{"application_name": {application}})
}

// dsnTo is how the node's user reaches a server, this node's or another's.
func (p Postgres) dsnTo(host string, port int, sslMode string, q url.Values) string {
	db := p.Database
	if db == "" {
		db = "postgres"
	}
	u := url.URL{Scheme: "postgres", Path: "/" + db, User: url.User(p.User)}
	if p.Password != "" {
		u.User = url.UserPassword(p.User, p.Password)
	}
	q.Set("connect_timeout", "2")
	if strings.HasPrefix(host, "/") {
		q.Set("host", host)
		q.Set("port", strconv.Itoa(port))
	} else {
		u.Host = net.JoinHostPort(host, strconv.Itoa(port))
		if sslMode == "" {
			sslMode = "prefer"
		}
		q.Set("sslmode", sslMode)
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // a plus means itself to libpq and pgx
	return u.String()
}

// Conninfo is the value of primary_conninfo for the standby named.
func (u Upstream) Conninfo(standby string) string {
	s := fmt.Sprintf("host=%s port=%d user=%s application_name=%s connect_timeout=5 keepalives_idle=5 keepalives_interval=2 keepalives_count=3",
		quoteConninfo(u.Host), u.Port, quoteConninfo(u.User), quoteConninfo(standby))
	if u.SSLMode != "" && !strings.HasPrefix(u.Host, "/") {
		s += " sslmode=" + quoteConninfo(u.SSLMode)
	}
	if u.Passfile != "" {
		s += " passfile=" + quoteConninfo(u.Passfile)
	}
	return s
}

// quoteConninfo quotes a value by the rules of libpq's connection strings
// (PostgreSQL documentation, 34.1.1.1).
func quoteConninfo(v string) string {
	out := make([]byte, 0, len(v)+2)
	out = append(out, '\'')
	for i := range len(v) {
		if v[i] == '\'' || v[i] == '\\' {
			out = append(out, '\\')
		}
		out = append(out, v[i])
	}
	return string(append(out, '\''))
}

// Progress receives what a long action is doing; done and total are bytes, 0
// when they are not known.
type Progress func(step string, done, total uint64)

// Control is what pg_controldata says of a data directory that may be stopped.
type Control struct {
	State      string // "shut down", "in production", "in archive recovery", …
	SystemID   string
	Timeline   uint32 // of the latest checkpoint
	Checkpoint events.LSN
	Redo       events.LSN
	MinRecover events.LSN // minimum recovery ending location
	// MinTimeline is the timeline of MinRecover, 0 when there is none. A server
	// that was just promoted has it ahead of Timeline until its first checkpoint.
	MinTimeline uint32
	Checksums   bool
	WALHints    bool
	Segment     uint32 // bytes per WAL segment
	Version     int    // major version, from PG_VERSION
}

// Clean reports whether the server was shut down in order.
func (c Control) Clean() bool {
	return c.State == "shut down" || c.State == "shut down in recovery"
}
