package adopt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/config"
)

// facts is what a server says of itself, in one statement.
type facts struct {
	Version     int                `json:"version"` // server_version_num
	Text        string             `json:"text"`    // server_version
	Recovery    bool               `json:"recovery"`
	SystemID    string             `json:"system_id"`
	Superuser   bool               `json:"superuser"`
	Settings    map[string]setting `json:"settings"`
	Slots       []slot             `json:"slots"`
	Receiver    *receiver          `json:"receiver"`
	HBAErrors   []string           `json:"hba_errors"`
	Bytes       uint64             `json:"bytes"` // of all databases
	Tablespaces []string           `json:"tablespaces"`
}

type setting struct {
	Value   string `json:"value"`
	Source  string `json:"source"`
	File    string `json:"file"`
	Pending bool   `json:"pending"` // changed in the file, waits for a restart
}

type slot struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Active bool   `json:"active"`
}

type receiver struct {
	Status string `json:"status"`
	Host   string `json:"host"`
	Port   int    `json:"port"`
}

func (f facts) major() int { return f.Version / 10000 }

func (f facts) value(name string) string { return f.Settings[name].Value }

func (f facts) number(name string) int {
	n, err := strconv.Atoi(f.value(name))
	if err != nil {
		return 0
	}
	return n
}

// The statement works on 13 to 18. Only superusers may read pg_hba_file_rules
// and the sizes, so it begins with a guard that makes others fail by name.
const factsSQL = `select json_build_object(
 'version', current_setting('server_version_num')::int, 'text', current_setting('server_version'),
 'recovery', pg_is_in_recovery(), 'superuser', true,
 'system_id', (select system_identifier::text from pg_control_system()),
 'settings', (select json_object_agg(name, json_build_object('value', coalesce(setting, ''), 'source', source,
   'file', coalesce(sourcefile, ''), 'pending', pending_restart)) from pg_settings where name in (
   'config_file','hba_file','data_directory','wal_level','max_wal_senders','max_replication_slots','max_connections',
   'max_worker_processes','max_prepared_transactions','max_locks_per_transaction','wal_log_hints','data_checksums','fsync',
   'full_page_writes','synchronous_standby_names','primary_conninfo','primary_slot_name','recovery_target_timeline',
   'recovery_min_apply_delay','recovery_target','recovery_target_lsn','recovery_target_name','recovery_target_time','recovery_target_xid','promote_trigger_file','restore_command','shared_preload_libraries','hot_standby','listen_addresses','port')),
 'slots', coalesce((select json_agg(json_build_object('name', slot_name, 'type', slot_type, 'active', active) order by slot_name)
   from pg_replication_slots), '[]'),
 'receiver', (select json_build_object('status', status, 'host', coalesce(sender_host, ''), 'port', coalesce(sender_port, 0))
   from pg_stat_wal_receiver limit 1),
 'hba_errors', coalesce((select json_agg('line ' || line_number || ': ' || error order by line_number)
   from pg_hba_file_rules where error is not null), '[]'),
 'bytes', coalesce((select sum(pg_database_size(oid)) from pg_database where datallowconn), 0),
 'tablespaces', coalesce((select json_agg(spcname order by spcname) from pg_tablespace
   where spcname not in ('pg_default', 'pg_global')), '[]'))::text`

const superuserSQL = `select rolsuper from pg_roles where rolname = current_user`

// ask reads the facts the way that the agents will go: over TCP with the node's
// passfile, without one through the socket. Where TCP fails, which is a
// finding, the socket is tried as well, so that everything else can be said.
func ask(ctx context.Context, v *view) *facts {
	n := v.node
	if n.Passfile == "" {
		f, err := askSocket(ctx, v)
		if err != nil {
			v.found(Refuse, "connect", peerLine(n, "all"), Reload,
				"%s cannot connect through the socket as the owner of the data directory, which is the way without INTERREX_NODE_%d_PASSFILE: %v", n.User, n.ID, err)
			return nil
		}
		v.found(OK, "connect", "", AtOnce, "%s connects through the socket in %s, as the owner of the data directory", n.User, v.place.socket)
		return f
	}
	f, err := askTCP(ctx, n)
	if err == nil {
		v.found(OK, "connect", "", AtOnce, "%s connects to %s:%d", n.User, n.Host, n.Port)
		return f
	}
	fix, takes := connectFix(n, "all", err)
	v.found(Refuse, "connect", fix, takes, "%s cannot connect to %s:%d: %v", n.User, n.Host, n.Port, brief(err))
	refused := len(v.early) - 1
	f, err = askSocket(ctx, v)
	if err != nil {
		v.found(Refuse, "look", "", AtOnce, "without that nothing more can be said of this node (also tried through the socket: %v)", err)
		return nil
	}
	if hba := f.value("hba_file"); hba != "" { // now its place is known
		v.early[refused].Fix = strings.Replace(fix, "pg_hba.conf", hba, 1)
	}
	return f
}

// peerLine is the line of pg_hba.conf that lets the owner of the data directory
// in through the socket.
func peerLine(n config.Node, database string) string {
	return fmt.Sprintf("the line \"local %s %s peer\" in pg_hba.conf", database, n.User)
}

func askTCP(ctx context.Context, n config.Node) (*facts, error) {
	conn, err := pgx.Connect(ctx, conninfo(n))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var super bool
	if err := conn.QueryRow(ctx, superuserSQL).Scan(&super); err != nil {
		return nil, err
	}
	if !super {
		return &facts{Text: conn.PgConn().ParameterStatus("server_version")}, nil
	}
	var text string
	if err := conn.QueryRow(ctx, factsSQL).Scan(&text); err != nil {
		return nil, err
	}
	return decode(text)
}

func decode(text string) (*facts, error) {
	f := &facts{}
	if err := json.Unmarshal([]byte(text), f); err != nil {
		return nil, fmt.Errorf("reading what the server says of itself: %w", err)
	}
	return f, nil
}

// askSocket reads the facts through the socket.
func askSocket(ctx context.Context, v *view) (*facts, error) {
	super, err := psql(ctx, v, "", superuserSQL)
	if err != nil {
		return nil, err
	}
	if super != "t" {
		return &facts{}, nil
	}
	text, err := psql(ctx, v, "", factsSQL)
	if err != nil {
		return nil, err
	}
	return decode(text)
}

// psql runs one statement through the socket as the owner of the data
// directory, whom Debian's pg_hba.conf lets in by peer. More is added to the
// connection string.
func psql(ctx context.Context, v *view, more, statement string) (string, error) {
	if v.place.socket == "" {
		return "", errors.New("the server has no socket")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	where := fmt.Sprintf("host='%s' port=%d user='%s' dbname=postgres application_name=interrex-plan %s",
		escape(v.place.socket), v.place.port, escape(v.node.User), more)
	cmd := exec.CommandContext(ctx, filepath.Join(v.node.BinDirectory, "psql"), "-XAtqw", "-d", where, "-c", statement)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", append(os.Environ(), "LC_ALL=C"), time.Second
	if os.Geteuid() == 0 && v.place.owner != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(v.place.owner)}
	}
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			return "", errors.New(strings.ReplaceAll(strings.TrimSpace(string(exit.Stderr)), "\n", " "))
		}
		return "", fmt.Errorf("running psql: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// credential is an account with its own group; where the group is not known,
// the one of the same number.
func credential(uid uint32) *syscall.Credential {
	c := &syscall.Credential{Uid: uid, Gid: uid}
	if u, err := osuser.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		if gid, err := strconv.ParseUint(u.Gid, 10, 32); err == nil {
			c.Gid = uint32(gid)
		}
	}
	return c
}

// tryReplication opens a replication connection, as a standby on this host will.
func tryReplication(ctx context.Context, v *view) error {
	if v.node.Passfile == "" {
		_, err := psql(ctx, v, "replication=true", "IDENTIFY_SYSTEM")
		return err
	}
	return tryReplicationTCP(ctx, v.node)
}

func tryReplicationTCP(ctx context.Context, n config.Node) error {
	conn, err := pgconn.Connect(ctx, conninfo(n)+" replication=true")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	return err
}

// escape readies a value for single quotes in a connection string.
func escape(s string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) }

// conninfo is the way over TCP, with the node's passfile.
func conninfo(n config.Node) string {
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname=postgres sslmode=%s passfile='%s' connect_timeout=3 application_name=interrex-plan",
		escape(n.Host), n.Port, escape(n.User), n.SSLMode, escape(n.Passfile))
}

// connectFix names what to change so that a connection works. Database is what
// stands in that column of pg_hba.conf.
func connectFix(n config.Node, database string, err error) (string, When) {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("listen_addresses = '%s' in %s", n.Host, n.ConfigFile), Restart
	case !errors.As(err, &pg):
		return "", AtOnce
	case pg.Code == "28P01" || strings.Contains(pg.Message, "password"):
		return fmt.Sprintf("the line %s:%d:*:%s:PASSWORD in %s, with mode 0600", n.Host, n.Port, n.User, n.Passfile), AtOnce
	case pg.Code == "28000":
		return fmt.Sprintf("the line \"host %s %s %s scram-sha-256\" in pg_hba.conf", database, n.User, sourceOf(n.Host)), Reload
	}
	return "", AtOnce
}

// sourceOf is the address column of pg_hba.conf for connections from this host.
func sourceOf(hostname string) string {
	switch {
	case hostname == "127.0.0.1" || hostname == "localhost":
		return "127.0.0.1/32"
	case strings.Contains(hostname, ":"):
		return hostname + "/128"
	case strings.Trim(hostname, "0123456789.") == "":
		return hostname + "/32"
	}
	return hostname // PostgreSQL resolves names in this column
}

// brief is the server's own words, without the address that pgx puts before.
func brief(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "connection refused"
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}
