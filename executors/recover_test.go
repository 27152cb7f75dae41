package executors_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// failover kills the primary and promotes the standby; with diverge the old
// primary has WAL that the standby never got. More can be done before the kill.
func failover(t *testing.T, a, b solo, diverge bool, more ...func()) {
	t.Helper()
	stop := a.write()
	soloUntil(t, "rows arrive", func() bool { return b.text("select count(*) > 300 from t") == "true" })
	if diverge {
		if _, err := executors.FindPosition(within(t), nil, b.Postgres, detachInTime); err != nil {
			t.Fatal(err)
		}
		before := a.lsn("pg_current_wal_flush_lsn()")
		soloUntil(t, "more is written", func() bool { return a.lsn("pg_current_wal_flush_lsn()") > before+50000 })
	}
	for _, do := range more {
		do()
	}
	a.crash()
	stop()
	b.promote()
	settle(t, b, 2, a)
	b.exec("insert into t (v) select 'on timeline 2' from generate_series(1, 500)")
}

func TestRecoverByRewind(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	got := a.recoverFrom(b, executors.HowRewind, executors.RecoverOptions{})
	if got.Kept != "" {
		t.Errorf("a rewind has kept %s, expected nothing", got.Kept)
	}
	nothingLeft(t, a)
	// Being there already is the cheapest way.
	a.recoverFrom(b, executors.HowRunning, executors.RecoverOptions{})
}

// A rewind reads back to the last checkpoint of both histories: the crash
// recovery before it must not remove that WAL with the checkpoint at its end.
func TestRewindFarBack(t *testing.T) {
	a := newPrimary(t, "db1", "wal_keep_size = 0", "min_wal_size = 32MB", "checkpoint_timeout = 1h")
	b := standbyOf(t, a, "db2")
	a.exec("checkpoint")
	for range 4 {
		a.exec("insert into t (v) values ('a segment of its own')")
		a.exec("select pg_switch_wal()")
	}
	b.caughtUp(a)
	failover(t, a, b, true, func() {
		// As a checkpoint that the crash cut short would have left it: further on.
		a.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
	})
	a.recoverFrom(b, executors.HowRewind, executors.RecoverOptions{})
}

// The rest of a switched segment is empty, and need not have come to the standby
// that was promoted behind it: there it has what XLogFileCopy left, copies of
// the page on which the timeline began. Its WAL is the same for all that.
func TestRecoverBehindASwitchedSegment(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	a.exec("insert into t (v) values ('before')")
	size := a.lsn("(select setting::bigint from pg_settings where name = 'wal_segment_size') + '0/0'::pg_lsn")
	at := a.lsn("pg_switch_wal()")
	b.caughtUp(a)
	a.crash()
	b.promote()
	settle(t, b, 2, a)
	file := filepath.Join(b.DataDir, "pg_wal", fmt.Sprintf("%08X%08X%08X", 1, 0, uint64(at)/uint64(size)))
	wal, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page := (uint64(at)%uint64(size) + 8191) &^ 8191
	if bytes.Count(wal[page:], []byte{0}) != len(wal[page:]) {
		t.Fatalf("%s is not empty behind the switch: what is tested is not there", file)
	}
	for copied := wal[page-8192 : page]; page < uint64(size); page += 8192 {
		copy(wal[page:], copied)
	}
	if err := os.WriteFile(file, wal, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := executors.Recover(within(t), a.Postgres, a.upstream(b), executors.RecoverOptions{Decision: 4})
	if err != nil || got.How == executors.HowBaseBackup {
		t.Fatalf("%+v, %v; expected no base backup", got, err)
	}
	a.isStandbyOf(b)
}

// A rewind takes long, and an idle connection to the upstream is ended meanwhile.
func TestRecoverWithALostConnection(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	a.recoverFrom(b, executors.HowRewind, executors.RecoverOptions{Journal: func(step string) error {
		if step == "configure" {
			b.exec("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'interrex'")
		}
		return nil
	}})
}

// nothingLeft: no directory of the recovery beside the data directory.
func nothingLeft(t *testing.T, s solo, but ...string) {
	t.Helper()
	left, err := filepath.Glob(s.DataDir + ".*")
	if err != nil {
		t.Fatal(err)
	}
	inside, _ := filepath.Glob(s.DataDir + "/.[ib]*")
	if left = append(left, inside...); strings.Join(left, " ") != strings.Join(but, " ") {
		t.Errorf("left beside the data directory: %q, expected %q", left, but)
	}
}

// Its own settings stay, but for those with which a standby would promote itself
// at the first record that it receives.
func TestRecoverByStart(t *testing.T) {
	a := newPrimary(t, "db1", "recovery_target = 'immediate'", "recovery_target_action = 'promote'")
	b := standbyOf(t, a, "db2")
	second := filepath.Join(a.SocketDir, "second")
	if err := os.Mkdir(second, 0o700); err != nil {
		t.Fatal(err)
	}
	a.configure("unix_socket_directories = '" + a.SocketDir + ", " + second + "'")
	a.exec("insert into t (v) values ('x')")
	if _, err := executors.Demote(within(t), nil, a.Postgres); err != nil {
		t.Fatal(err)
	}
	b.promote()
	settle(t, b, 2, a)
	a.recoverFrom(b, executors.HowStart, executors.RecoverOptions{})
	nothingLeft(t, a)
	if got := a.text("current_setting('unix_socket_directories')"); !strings.Contains(got, second) {
		t.Errorf("its sockets are in %q, expected %s among them as before", got, second)
	}
}

// A standby that streams from a busy upstream is a moment ahead of what was read
// there before.
func TestRecoverOfABusyStandby(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	stop := a.write()
	soloUntil(t, "rows arrive", func() bool { return b.text("select count(*) > 300 from t") == "true" })
	for range 6 {
		got, err := executors.Recover(within(t), b.Postgres, b.upstream(a), executors.RecoverOptions{Decision: 7})
		if err != nil || got.How != executors.HowRunning {
			t.Fatalf("%+v, %v; expected that it is left running", got, err)
		}
	}
	stop()
}

// What cannot be read is copied anew.
func TestRecoverOfADamagedDirectory(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	for _, name := range []string{"global/pg_control", "pg_wal"} {
		if err := os.RemoveAll(filepath.Join(a.DataDir, name)); err != nil {
			t.Fatal(err)
		}
		got := a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{})
		if !strings.Contains(got.Why, name) {
			t.Errorf("without %s: because %s, expected it to be named", name, got.Why)
		}
		a.crash()
	}
}

func TestRecoverByBaseBackup(t *testing.T) {
	a := newPrimary(t, "db1", "wal_log_hints = off")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	// As root might own it; a copy that the server owns must not be readable by a
	// group, or it does not start.
	key := filepath.Join(a.DataDir, "server.key")
	if err := os.WriteFile(key, []byte("secret"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := executors.Recover(within(t), a.Postgres, a.upstream(b), executors.RecoverOptions{How: "rewind", Decision: 8}); err == nil || !strings.Contains(err.Error(), "wal_log_hints") {
		t.Fatalf("a rewind that is impossible: %v, expected an error that says so", err)
	}
	steps := map[string]uint64{}
	got := a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{Decision: 9, Progress: func(step string, done, total uint64) { steps[step] = max(steps[step], total) }})
	if steps["basebackup"] < 1<<20 {
		t.Errorf("progress told of a base backup of %d bytes, expected some MiB", steps["basebackup"])
	}
	if got.Kept != a.DataDir+".before-9" {
		t.Errorf("kept %q, expected the old directory as before-9", got.Kept)
	}
	nothingLeft(t, a, got.Kept)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its key: %v, %v; expected it kept, with the mode 0600", info, err)
	}
	// Even what was kept can only be started read-only.
	if _, err := os.Stat(filepath.Join(got.Kept, "standby.signal")); err != nil {
		t.Error(err)
	}
	removed, bytes, err := executors.Clean(within(t), a.Postgres)
	if err != nil || len(removed) != 1 || removed[0] != got.Kept || bytes < 1<<20 {
		t.Errorf("clean removed %q, %d bytes, %v; expected %s", removed, bytes, err, got.Kept)
	}
	nothingLeft(t, a)
	a.isStandbyOf(b)
}

// A node without a data directory, and without a configuration of its own.
func TestRecoverFromNothing(t *testing.T) {
	a := newPrimary(t, "db1")
	b := newSolo(t)
	b.Node = "db2"
	b.Port = portOfNothing
	if err := os.RemoveAll(b.DataDir); err != nil {
		t.Fatal(err)
	}
	b.recoverFrom(a, executors.HowBaseBackup, executors.RecoverOptions{})
	nothingLeft(t, b)
}

func TestRecoverRefuses(t *testing.T) {
	a := newPrimary(t, "db1")
	b := newPrimary(t, "db2")
	_, err := executors.Recover(within(t), b.Postgres, b.upstream(a), executors.RecoverOptions{})
	if !errors.Is(err, executors.ErrIsPrimary) || b.text("pg_is_in_recovery()") != "false" {
		t.Errorf("of a running primary: %v, expected a refusal", err)
	}
	if _, err := executors.Recover(within(t), b.Postgres, b.upstream(a), executors.RecoverOptions{How: "magic"}); err == nil || !strings.Contains(err.Error(), "magic") {
		t.Errorf("by an unknown way: %v", err)
	}
	b.crash()
	other := b
	other.DataDir = filepath.Join(t.TempDir(), "other")
	soloRun(t, filepath.Join(b.BinDir, "initdb"), "-D", other.DataDir, "-U", "postgres", "-A", "trust", "--no-sync")
	before := soloRun(t, "find", filepath.Dir(other.DataDir), "-printf", "%p %T@ %s\n")
	_, err = executors.Recover(within(t), other.Postgres, b.upstream(a), executors.RecoverOptions{How: "basebackup"})
	mine, e1 := executors.ReadControl(within(t), other.Postgres)
	theirs, e2 := executors.ReadControl(within(t), a.Postgres)
	if e1 != nil || e2 != nil || !errors.Is(err, executors.ErrOtherCluster) || !strings.Contains(err.Error(), mine.SystemID) || !strings.Contains(err.Error(), theirs.SystemID) {
		t.Errorf("of another cluster: %v, expected a refusal that names %s and %s", err, mine.SystemID, theirs.SystemID)
	}
	if after := soloRun(t, "find", filepath.Dir(other.DataDir), "-printf", "%p %T@ %s\n"); after != before {
		t.Errorf("something was touched:\n%s\nwas\n%s", after, before)
	}
}

// Both nodes took timeline 2 by themselves, at the same position even: the
// numbers are all equal, and pg_rewind would find nothing to do.
func TestForkOnTheSameTimeline(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	c := standbyOf(t, a, "db3")
	if _, err := executors.Demote(within(t), nil, a.Postgres); err != nil {
		t.Fatal(err)
	}
	b.promote()
	c.promote()
	settle(t, b, 2, c)
	b.exec("insert into t (v) select 'b' from generate_series(1, 1000)")
	c.exec("insert into t (v) values ('c')")
	if x, y := b.text("pg_read_file('pg_wal/00000002.history')"), c.text("pg_read_file('pg_wal/00000002.history')"); x != y {
		t.Fatalf("the histories differ, %q and %q: this is not the case that the test is for", x, y)
	}
	c.crash()
	got := c.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{})
	if !strings.Contains(got.Why, "forked unseen") {
		t.Errorf("because %s, expected the fork to be named", got.Why)
	}
}

// A running standby that follows the wrong one of two forks is not fooled
// either.
func TestRunningStandbyOfAFork(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	c := standbyOf(t, a, "db3")
	b.promote()
	a.exec("insert into t (v) select 'a' from generate_series(1, 100)")
	c.caughtUp(a)
	settle(t, b, 2, c)
	c.recoverFrom(b, executors.HowRewind, executors.RecoverOptions{})
}

// As if the data directory were a mount point: nothing beside it is touched.
func TestRecoverInsideAMountPoint(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	for _, how := range []string{executors.HowRewind, executors.HowBaseBackup} {
		got, err := executors.RecoverInside(within(t), a.Postgres, a.upstream(b), executors.RecoverOptions{How: how, Decision: 5})
		if err != nil || got.How != how {
			t.Fatalf("%+v, %v; expected %s", got, err, how)
		}
		a.isStandbyOf(b)
		if how == executors.HowRewind {
			nothingLeft(t, a)
		} else {
			nothingLeft(t, a, a.DataDir+"/.before-5")
		}
	}
}

// Over TCP, with a password that the replication role and the agent's user need.
func TestRecoverWithPasswords(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	port := freePort(t)
	b.exec("create role replicator replication login password 'r:e\\pl'")
	b.exec("create role agent superuser login password 'agent''s'")
	soloRun(t, "sh", "-c", "printf 'local all postgres trust\\nhost all agent 127.0.0.1/32 scram-sha-256\\nhost replication replicator 127.0.0.1/32 scram-sha-256\\n' > \"$1\"", "sh", filepath.Join(b.DataDir, "pg_hba.conf"))
	b.configure("listen_addresses = '127.0.0.1'", "port = "+port)
	if err := executors.Stop(within(t), b.Postgres, "fast"); err != nil {
		t.Fatal(err)
	}
	b.Port = atoi(t, port)
	b.up(false)
	up := executors.Upstream{Node: "db2", Host: "127.0.0.1", Port: b.Port, User: "replicator", Password: `r:e\pl`, Slot: events.SlotName("db1")}
	p, overheard := a.overheard("pg_rewind", "pg_basebackup")
	p.User, p.Password = "agent", "agent's"
	for _, how := range []string{executors.HowRewind, executors.HowBaseBackup} {
		got, err := executors.Recover(within(t), p, up, executors.RecoverOptions{How: how, Decision: 3})
		if err != nil || got.How != how {
			t.Fatalf("%+v, %v; expected %s", got, err, how)
		}
		a.isStandbyOf(b)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(a.DataDir), "*admin*")); len(left) > 0 {
		t.Errorf("the agent's password is left in %q", left)
	}
	for _, file := range []string{overheard, a.ServerLog(), b.ServerLog()} {
		text, err := os.ReadFile(file)
		if err != nil || len(text) == 0 || strings.Contains(string(text), up.Password) || strings.Contains(string(text), p.Password) {
			t.Errorf("%s, %v: expected something without a password:\n%s", file, err, text)
		}
	}
}

// overheard is the node with programs that note what a process list and their
// environment show, and the file in which they do.
func (s solo) overheard(programs ...string) (executors.Postgres, string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "overheard")
	p := s.Postgres
	for _, name := range programs {
		p = solo{p, s.t}.withProgram(name, fmt.Sprintf(`{ printf '%%s\n' "$@"; env; } >> '%s'; exec '%s' "$@"`, file, s.Bin(name)))
	}
	return p, file
}

// withProgram is the node with one of PostgreSQL's programs replaced.
func (s solo) withProgram(name, script string) executors.Postgres {
	s.t.Helper()
	bin := filepath.Join(s.t.TempDir(), "bin")
	soloRun(s.t, "sh", "-c", `mkdir "$2" && ln -s "$1"/* "$2" && rm "$2/$3" && printf '#!/bin/sh\n%s\n' "$4" > "$2/$3" && chmod 755 "$2/$3"`, "sh", s.BinDir, bin, name, script)
	p := s.Postgres
	p.BinDir = bin
	return p
}

// A disk that fills up: the old directory stays, the partial copy goes.
func TestBaseBackupThatFails(t *testing.T) {
	a := newPrimary(t, "db1", "wal_log_hints = off")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	p := a.withProgram("pg_basebackup", `echo part > "$2/part"; echo "could not write: No space left on device" >&2; exit 1`)
	_, err := executors.Recover(within(t), p, a.upstream(b), executors.RecoverOptions{Decision: 4})
	if err == nil || !strings.Contains(err.Error(), "No space left") || !strings.Contains(err.Error(), "bytes free") {
		t.Fatalf("%v, expected an error that tells of the disk and of bytes", err)
	}
	nothingLeft(t, a)
	a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{Decision: 5})
}

// A rewind that fails half way leaves a damaged directory: it is copied anew,
// with the node's own configuration, which the rewind may have overwritten.
func TestRewindThatFails(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	p := a.withProgram("pg_rewind", `echo "port = 1" > "${1#*=}/postgresql.conf"; exit 1`)
	got, err := executors.Recover(within(t), p, a.upstream(b), executors.RecoverOptions{Decision: 4})
	if err != nil || got.How != executors.HowBaseBackup || !strings.Contains(got.Why, "rewind failed") {
		t.Fatalf("%+v, %v; expected a base backup because the rewind failed", got, err)
	}
	a.isStandbyOf(b)
	nothingLeft(t, a, a.DataDir+".before-4")
	if _, err := os.Stat(filepath.Join(got.Kept, "standby.signal")); err != nil {
		t.Errorf("the damaged directory that was kept can be started read-write: %v", err)
	}
}

// Pg_rewind that sees no difference is not believed.
func TestRewindThatFindsNothing(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	p := a.withProgram("pg_rewind", `echo "pg_rewind: no rewind required" >&2`)
	got, err := executors.Recover(within(t), p, a.upstream(b), executors.RecoverOptions{Decision: 4})
	if err != nil || got.How != executors.HowBaseBackup {
		t.Fatalf("%+v, %v; expected a base backup", got, err)
	}
	a.isStandbyOf(b)
}
