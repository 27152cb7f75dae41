package executors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/internal/sqldial"
)

// ApplicationName is that of every connection that an executor opens. Sessions
// with it are not ended by Promote and FindPosition.
const ApplicationName = "interrex"

const connectTimeout = 2 * time.Second

// sessionSettings make a connection independent of what ALTER ROLE, ALTER
// DATABASE or postgresql.conf set for ordinary clients: a superuser that looks
// up functions in a schema which others may write to would run their code, and
// a commit that waits for a dead standby would hang.
var sessionSettings = map[string]string{
	"search_path":                         "pg_catalog",
	"default_transaction_read_only":       "off",
	"default_transaction_isolation":       "read committed",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"synchronous_commit":                  "local",
	"standard_conforming_strings":         "on",
	"client_encoding":                     "UTF8",
	"DateStyle":                           "ISO",
}

// Connect opens a connection to the node's own PostgreSQL within 2 s, or less
// when ctx ends before. It speaks the simple protocol, so that one statement is
// one round trip. Errors never hold the password.
func Connect(ctx context.Context, p Postgres) (*pgx.Conn, error) {
	conn, err := connect(ctx, p.DSN(ApplicationName))
	if err != nil {
		return nil, fmt.Errorf("node %s: connect to PostgreSQL: %w", p.Node, err)
	}
	return conn, nil
}

func connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.ConnectTimeout = connectTimeout
	config.DialFunc = sqldial.New().DialContext
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	for name, value := range sessionSettings {
		config.RuntimeParams[name] = value
	}
	return pgx.ConnectConfig(ctx, config)
}

// closeConn ends a session without waiting for a server that hangs.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // the socket is closed in any case
}

// withConn calls f with conn, or with a connection of its own when conn is nil
// or was lost.
func withConn(ctx context.Context, conn *pgx.Conn, p Postgres, f func(*pgx.Conn) error) error {
	if conn != nil && !conn.IsClosed() {
		return f(conn)
	}
	own, err := Connect(ctx, p)
	if err != nil {
		return err
	}
	defer closeConn(own)
	return f(own)
}

// sqlState returns the code of a server's error, empty for any other error.
func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

const (
	stateDuplicateObject = "42710"
	stateNotPrerequisite = "55000" // for example: recovery is not in progress
)

// quoteLiteral quotes a value for SQL whatever standard_conforming_strings is.
func quoteLiteral(v string) string {
	quoted := "'" + strings.ReplaceAll(v, "'", "''") + "'"
	if strings.Contains(v, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// alterSystem writes one setting to postgresql.auto.conf; it takes effect with
// reloadConfiguration. It works on a standby too.
func alterSystem(ctx context.Context, conn *pgx.Conn, name, value string) error {
	_, err := conn.Exec(ctx, "ALTER SYSTEM SET "+name+" = "+quoteLiteral(value))
	if err != nil {
		return fmt.Errorf("ALTER SYSTEM SET %s: %w", name, err)
	}
	return nil
}

// reloadConfiguration signals the postmaster; it returns before anything has
// taken effect.
func reloadConfiguration(ctx context.Context, conn *pgx.Conn) error {
	var sent bool
	if err := conn.QueryRow(ctx, "SELECT pg_reload_conf()").Scan(&sent); err != nil {
		return fmt.Errorf("reload the configuration: %w", err)
	}
	if !sent {
		return errors.New("reload the configuration: the postmaster could not be signalled; see the server's log")
	}
	return nil
}

// await calls check at once and then every interval until it is done, fails or
// ctx ends; then it returns ctx's cause.
func await(ctx context.Context, every time.Duration, check func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		done, err := check()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
