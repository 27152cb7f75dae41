package executors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// Follow leads a running standby to an upstream by a reload, without a restart.
// The password, if any, goes to the passfile (0600, atomically, other lines
// kept): the one that up names, else DATADIR/../interrex-<directory>.pass, else,
// where that may not be written, DATADIR/.interrex-upstream.pass. It returns when the reload was asked for; WaitStreaming tells whether it works.
// A primary is refused. Conn may be nil.
func Follow(ctx context.Context, conn *pgx.Conn, p Postgres, up Upstream) error {
	if e, ok := elsewhere(p); ok {
		_, err := act(ctx, e, Act{Do: "follow", Postgres: p, Upstream: up})
		return err
	}
	err := withConn(ctx, conn, p, func(conn *pgx.Conn) error {
		return follow(ctx, conn, p, up)
	})
	if err != nil {
		return fmt.Errorf("node %s: follow %s: %w", p.Node, up.Node, err)
	}
	return nil
}

func follow(ctx context.Context, conn *pgx.Conn, p Postgres, up Upstream) error {
	var recovering bool
	var target string
	err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery(), current_setting('recovery_target_timeline')").Scan(&recovering, &target)
	if err != nil {
		return err
	}
	if !recovering {
		return errors.New("it is not in recovery: only a standby can follow; recover it instead")
	}
	if up, err = providePassfile(ctx, p, up); err != nil {
		return err
	}
	settings := followSettings(p, up)
	if target == "latest" {
		settings = settings[:2]
	}
	for _, s := range settings {
		if err := alterSystem(ctx, conn, s.name, s.value); err != nil {
			return err
		}
	}
	if err := reloadConfiguration(ctx, conn); err != nil {
		return err
	}
	if target != "latest" {
		return fmt.Errorf("recovery_target_timeline is %q and was set to latest in postgresql.auto.conf: restart the standby, a reload does not change it", target)
	}
	return nil
}

// followSettings is what makes a standby follow; recovery_target_timeline, the
// only one that needs a restart, comes last.
func followSettings(p Postgres, up Upstream) []setting {
	return []setting{
		{"primary_slot_name", up.Slot},
		{"primary_conninfo", up.Conninfo(p.Node)},
		{"recovery_target_timeline", "latest"},
	}
}

// Streaming errors: WaitStreaming wraps one of them where the server's log
// names the cause.
var (
	// ErrDiverged: the standby's WAL goes on beyond the point where the
	// upstream's timeline begins; pg_rewind or a base backup is needed.
	ErrDiverged = errors.New("its WAL has left the upstream's history")
	// ErrWALGone: the upstream has removed WAL that the standby needs.
	ErrWALGone = errors.New("the upstream no longer has the WAL that it needs")
)

// WaitStreaming returns nil when the standby streams from the upstream: its
// receiver is connected to that host and port and was seen streaming by the
// same process twice, 25 ms apart, since a receiver that is about to be refused
// says "streaming" too. Otherwise it returns when ctx ends, or as soon as the
// server's log says why it cannot work; the error holds the log's last
// complaints. Conn may be nil.
func WaitStreaming(ctx context.Context, conn *pgx.Conn, p Postgres, up Upstream) error {
	if e, ok := elsewhere(p); ok {
		_, err := act(ctx, e, Act{Do: "wait-streaming", Postgres: p, Upstream: up})
		return err
	}
	return waitStreamingFrom(ctx, conn, p, up, logLength(p.ServerLog()))
}

// waitStreamingFrom reads the server's log from an earlier position on.
func waitStreamingFrom(ctx context.Context, conn *pgx.Conn, p Postgres, up Upstream, logFrom int64) error {
	err := withConn(ctx, conn, p, func(conn *pgx.Conn) error {
		return waitStreaming(ctx, conn, p, up, logFrom)
	})
	if err != nil {
		return fmt.Errorf("node %s: stream from %s at %s:%d: %w", p.Node, up.Node, up.Host, up.Port, err)
	}
	return nil
}

const streamingTwice = 25 * time.Millisecond

func waitStreaming(ctx context.Context, conn *pgx.Conn, p Postgres, up Upstream, logFrom int64) error {
	var seen int
	var since, logRead time.Time
	var last string
	err := await(ctx, 5*time.Millisecond, func() (bool, error) {
		var pid, port int
		var status, host string
		err := conn.QueryRow(ctx, `SELECT coalesce(max(pid), 0), coalesce(max(status), 'no receiver'), coalesce(max(sender_host), ''), coalesce(max(sender_port), 0)
			FROM pg_stat_wal_receiver`).Scan(&pid, &status, &host, &port)
		if err != nil && (sqlState(err) == "" || conn.IsClosed()) {
			return false, err
		}
		last = fmt.Sprintf("receiver: %s %s:%d", status, host, port)
		if status != "streaming" || host != up.Host || port != up.Port || pid != seen {
			seen, since = 0, time.Now()
			if status == "streaming" && host == up.Host && port == up.Port {
				seen = pid
			}
		} else if time.Since(since) >= streamingTwice {
			return true, nil
		}
		if time.Since(logRead) < 100*time.Millisecond {
			return false, nil
		}
		logRead = time.Now()
		return false, hopeless(complaints(ctx, p, logFrom))
	})
	if err == nil {
		return nil
	}
	said := complaints(context.WithoutCancel(ctx), p, logFrom)
	if len(said) == 0 {
		return fmt.Errorf("%w; %s", err, last)
	}
	return fmt.Errorf("%w; %s; the server's log says: %s", err, last, strings.Join(said[max(0, len(said)-3):], " | "))
}

// hopeless finds causes that waiting does not cure.
func hopeless(lines []string) error {
	for _, l := range lines {
		switch {
		case strings.Contains(l, "before current recovery point") || strings.Contains(l, "is not in this server's history") ||
			strings.Contains(l, "is ahead of the WAL flush position"):
			return ErrDiverged
		case strings.Contains(l, "has already been removed"):
			return ErrWALGone
		}
	}
	return nil
}

// complaints returns the lines of the server's log from a position on that
// speak of trouble. A log that cannot be read has none.
func complaints(ctx context.Context, p Postgres, from int64) []string {
	out, err := p.Runner.Run(ctx, Command{
		Path: "tail", Args: []string{"-c", "+" + strconv.FormatInt(from+1, 10), p.ServerLog()}, Timeout: time.Second, Keep: 16 << 10,
	})
	if err != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(out.Stdout)) {
		for _, word := range []string{"FATAL:", "ERROR:", "PANIC:", "forked off", "could not"} {
			if strings.Contains(line, word) {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines
}

// providePassfile returns up with the passfile that its password is in.
func providePassfile(ctx context.Context, p Postgres, up Upstream) (Upstream, error) {
	if up.Password == "" {
		return up, nil
	}
	if up.Passfile == "" {
		up.Passfile = filepath.Join(filepath.Dir(p.DataDir), "interrex-"+filepath.Base(p.DataDir)+".pass")
		if unix.Access(filepath.Dir(p.DataDir), unix.W_OK) != nil {
			up.Passfile = filepath.Join(p.DataDir, ".interrex-upstream.pass")
		}
	}
	if err := fitsPassfile(up); err != nil {
		return up, err
	}
	old, err := p.Runner.ReadFile(ctx, up.Passfile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return up, fmt.Errorf("read the passfile: %w", err)
	}
	merged, changed := mergePassfile(old, up)
	if !changed {
		return up, nil
	}
	if err := p.Runner.WriteFile(ctx, up.Passfile, merged, 0o600); err != nil {
		return up, fmt.Errorf("write the passfile: %w", err)
	}
	return up, nil
}

// fitsPassfile refuses what would be two lines there.
func fitsPassfile(up Upstream) error {
	if strings.ContainsAny(up.Host+up.User+up.Password, "\r\n") {
		return fmt.Errorf("the host, the user %q or its password holds a line break, which a passfile cannot; change it", up.User)
	}
	return nil
}

// mergePassfile puts the upstream's line first, because libpq takes the first
// that fits, and removes older lines for the same server and user. A file that
// begins to fit with the right password already is left alone.
func mergePassfile(old []byte, up Upstream) ([]byte, bool) {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace
	key := escape(up.Host) + ":" + strconv.Itoa(up.Port) + ":*:" + escape(up.User) + ":"
	want := key + escape(up.Password)
	anyone := false // a line with other wildcards could come first and fit
	out := []byte(want + "\n")
	for line := range bytes.Lines(old) {
		text := strings.TrimRight(string(line), "\r\n")
		if text == want && !anyone {
			return nil, false
		}
		if strings.HasPrefix(text, "*:") || strings.Contains(text, ":*:*:") || strings.HasPrefix(text, key) && text != want {
			anyone = true
		}
		if text != "" && !strings.HasPrefix(text, key) {
			out = append(append(out, text...), '\n')
		}
	}
	return out, true
}
