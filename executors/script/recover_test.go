package script_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors/script"
	"github.com/interrex-ha/interrex/lab"
)

// recovery is that of db2 from db1, with one of testdata's pairs of scripts.
func (w world) recovery() script.Recovery {
	return script.Recovery{
		FirstStage: "basebackup.sh", Primary: w.Postgres("db1"), Target: w.Postgres("db2"),
		PrimaryAs: w.as("db1"), TargetAs: w.as("db2"), Within: 60 * time.Second,
	}
}

func (w world) stop(node string) {
	w.t.Helper()
	if err := w.StopNode(within(w.t), node, lab.Fast); err != nil {
		w.t.Fatal(err)
	}
}

// streams: the node has a row that the primary writes now.
func (w world) streams(node string) {
	w.t.Helper()
	w.do("db1", "create table if not exists public.t (v text)")
	w.do("db1", "insert into public.t values ('after')")
	end := w.ask("db1", "pg_current_wal_flush_lsn()")
	until(w.t, node+" has what the primary wrote", func() bool { return w.ask(node, "pg_last_wal_replay_lsn() >= '"+end+"'") == "true" })
	if one, two := w.ask("db1", "select count(*) from public.t"), w.ask(node, "select count(*) from public.t"); one != two {
		w.t.Fatalf("%s has %s rows, the primary %s", node, two, one)
	}
}

// TestRecoverByScripts: scripts for PostgreSQL 12 and later bring a node back,
// with pgpool's arguments, and odd ones are refused before anything runs.
func TestRecoverByScripts(t *testing.T) {
	w := newWorld(t, 2)
	w.intoData("db1", "basebackup.sh", "testdata/adapted/basebackup.sh")
	w.intoData("db1", "pgpool_remote_start", "testdata/adapted/pgpool_remote_start")
	for name, c := range map[string]struct {
		change func(*script.Recovery)
		want   string
	}{
		"a target that runs":       {func(*script.Recovery) {}, "already running"},
		"a target that is primary": {func(r *script.Recovery) { r.Target.Port = r.PrimaryAs.Port }, "runs as a primary"},
		"a primary that is none":   {func(r *script.Recovery) { r.Primary.Port = r.TargetAs.Port }, "in recovery"},
		"another directory":        {func(r *script.Recovery) { r.TargetAs.DataDir = "/data" }, "would be told /data"},
		"the primary's directory":  {func(r *script.Recovery) { r.TargetAs, r.Target.DataDir = r.PrimaryAs, r.PrimaryAs.DataDir }, "the primary's data directory"},
		"by another name": {func(r *script.Recovery) {
			r.TargetAs.DataDir, r.Target.DataDir, r.Target.Port = r.PrimaryAs.DataDir, r.PrimaryAs.DataDir, 1
		}, "the primary's data directory"},
		"a directory of two words":  {func(r *script.Recovery) { r.TargetAs.DataDir = "/data dir" }, "node 1"},
		"a host that runs a shell":  {func(r *script.Recovery) { r.TargetAs.Host = "$(id)" }, "node 1"},
		"a host that is an option":  {func(r *script.Recovery) { r.TargetAs.Host = "-oProxyCommand=id" }, "node 1"},
		"no directory":              {func(r *script.Recovery) { r.TargetAs.DataDir = "" }, "node 1"},
		"the root":                  {func(r *script.Recovery) { r.TargetAs.DataDir = "/" }, "node 1"},
		"a script in a folder":      {func(r *script.Recovery) { r.FirstStage = "../x.sh" }, "without a slash"},
		"no script":                 {func(r *script.Recovery) { r.FirstStage = "" }, "there is none"},
		"a target with a bad login": {func(r *script.Recovery) { r.Target.User = "nobody_knows" }, "not certain that it is stopped"},
	} {
		r := w.recovery()
		c.change(&r)
		if got, err := script.Recover(within(t), r); err == nil || got.Verdict != script.Refused || len(got.Runs) != 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; expected a refusal about %q", name, got, err, c.want)
		}
	}
	w.streams("db2")
	frozen, err := w.FreezePostgres(within(t), "db2", true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := script.Recover(within(t), w.recovery())
	if err == nil || got.Verdict != script.Refused || len(got.Runs) != 0 || !strings.Contains(err.Error(), "not certain that it is stopped") {
		t.Errorf("a target that hangs: %+v, %v", got, err)
	}
	if err := frozen.Thaw(); err != nil {
		t.Fatal(err)
	}

	w.stop("db2")
	got, err = script.Recover(within(t), w.recovery())
	if err != nil || got.Verdict != script.Verified || len(got.Runs) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	one, two := w.as("db1"), w.as("db2")
	want := strings.Join([]string{one.DataDir, "localhost", two.DataDir, strconv.Itoa(one.Port), "1", strconv.Itoa(two.Port), "127.0.0.1"}, " ")
	if args := strings.Join(got.Runs[0].Args, " "); args != want {
		t.Errorf("the first stage got %s\nexpected %s", args, want)
	}
	if args := strings.Join(got.Runs[1].Args, " "); args != "localhost "+two.DataDir || got.Runs[1].Program != one.DataDir+"/pgpool_remote_start" {
		t.Errorf("%s got %s", got.Runs[1].Program, args)
	}
	if d := got.Detail(); !strings.Contains(d["stdout"], "node 1: copied") || d["exit"] != "0" || d["exit_2"] != "0" || d["verdict"] != "verified" {
		t.Errorf("for the log: %q", d)
	}
	w.streams("db2")

	// A first stage that starts the node by itself; it is not started twice.
	w.stop("db2")
	both := w.recovery()
	both.FirstStage = w.write("both.sh", "#!/bin/sh\n./basebackup.sh \"$@\" && ./pgpool_remote_start $2 $3")
	if got, err = script.Recover(within(t), both); err != nil || got.Verdict != script.Verified || len(got.Runs) != 1 {
		t.Fatalf("a first stage that starts it: %+v, %v", got, err)
	}
	w.streams("db2")

	// Its upstream is not ours: a standby, of nobody. The start fails afterwards,
	// so that not all of the time is waited for.
	w.stop("db2")
	astray := both
	astray.FirstStage = w.write("astray.sh", "#!/bin/sh\necho \"primary_conninfo = 'host=127.0.0.1 port=1'\" >>$3/postgresql.auto.conf")
	w.intoData("db1", "pgpool_remote_start", w.write("failing", "#!/bin/sh\npg_ctl -D $2 -w -l $2.log start >/dev/null; exit 7"))
	if got, err = script.Recover(within(t), astray); err == nil || got.Verdict != script.Failed || !strings.Contains(err.Error(), "does not stream") || !strings.Contains(err.Error(), "exit code 7") {
		t.Errorf("an upstream that is none: %+v, %v", got, err)
	}
}

// TestTutorialRecovers: the tutorial's basebackup.sh and pgpool_remote_start, made
// for PostgreSQL 9.4, on a newer one.
func TestTutorialRecovers(t *testing.T) {
	w := newWorld(t, 2)
	w.do("db1", "create role repl replication login")
	w.do("db1", "checkpoint") // so that its pg_basebackup, which waits for one, is quick
	w.intoData("db1", "basebackup.sh", "testdata/tutorial/basebackup.sh")
	w.intoData("db1", "pgpool_remote_start", "testdata/tutorial/pgpool_remote_start")
	w.stop("db2")
	// The tutorial's $host is to be replaced by hand, and its psql knows port and
	// user by default.
	for name, value := range map[string]string{"host": "127.0.0.1", "PGHOST": "127.0.0.1", "PGPORT": strconv.Itoa(w.as("db1").Port), "PGUSER": "postgres"} {
		t.Setenv(name, value)
	}
	got, err := script.Recover(within(t), w.recovery())
	if err == nil || got.Verdict != script.Failed || len(got.Runs) != 1 || !strings.Contains(err.Error(), "not started") {
		t.Fatalf("as it is: %+v, %v", got, err)
	}
	version := w.ask("db1", "current_setting('server_version_num')::int / 10000")
	if v, err := strconv.Atoi(version); err != nil || v >= 15 && (!strings.Contains(got.Runs[0].Stderr, "pg_stop_backup") || got.Runs[0].Exit != 1) {
		t.Errorf("PostgreSQL %s: exit %d, %s", version, got.Runs[0].Exit, got.Runs[0].Stderr)
	}
	data := w.as("db2").DataDir
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		t.Errorf("its pg_basebackup has made no copy: %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "standby.signal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("standby.signal: %v; the tutorial knows none", err)
	}

	// Believed, that copy would be started, and it would take writes.
	believed := w.recovery()
	believed.FirstStage = w.write("believed.sh", "#!/bin/sh\nexit 0") // the copy is there
	if got, err = script.Recover(within(t), believed); err == nil || got.Verdict != script.NotDone || len(got.Runs) != 1 || !strings.Contains(err.Error(), "standby.signal") {
		t.Errorf("a first stage that ends well without a standby: %+v, %v", got, err)
	}
	believed.FirstStage = w.write("conf.sh", "#!/bin/sh\necho \"standby_mode = on\" >$3/recovery.conf")
	if got, err = script.Recover(within(t), believed); err == nil || got.Verdict != script.NotDone || !strings.Contains(err.Error(), "recovery.conf") {
		t.Errorf("with the recovery.conf of 9.4: %+v, %v", got, err)
	}

	// A start that takes the signal away again: seen as soon as it answers.
	w.intoData("db1", "adapted.sh", "testdata/adapted/basebackup.sh")
	w.intoData("db1", "pgpool_remote_start", w.write("readwrite", "#!/bin/sh\nrm $2/standby.signal && pg_ctl -D $2 -w -l $2.log start >/dev/null"))
	began := time.Now()
	believed.FirstStage = "adapted.sh"
	got, err = script.Recover(within(t), believed)
	if !errors.Is(err, script.ErrReadWrite) || got.Verdict != script.Unsafe || !strings.Contains(err.Error(), "stop it at once") {
		t.Errorf("two primaries: %+v, %v", got, err)
	}
	if took := time.Since(began); took > believed.Within/2 {
		t.Errorf("it was seen after %s", took)
	}
	w.stop("db2") // not by SIGKILL: a postmaster that nobody has reaped yet keeps its socket

	// The tutorial's pgpool_remote_start starts it, and fails to write its own
	// log: the effect counts.
	w.intoData("db1", "pgpool_remote_start", w.script("tutorial/pgpool_remote_start", "/var/log/pgpool", filepath.Join(w.dir, "absent")))
	got, err = script.Recover(within(t), believed)
	if err != nil || got.Verdict != script.Despite || got.Runs[1].Exit != 1 || got.Detail()["exit_2"] != "1" {
		t.Errorf("the tutorial's start: %+v, %v", got, err)
	}
	w.streams("db2")

	// A start that hangs is ended; nothing answers, and that is no success.
	w.stop("db2")
	w.intoData("db1", "pgpool_remote_start", w.write("hang", "#!/bin/sh\nsleep 600"))
	believed.Within = 500 * time.Millisecond
	got, err = script.Recover(within(t), believed)
	if err == nil || got.Verdict != script.Failed || got.Runs[1].Exit != -1 || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("a start that hangs: %+v, %v", got, err)
	}
}

// TestOtherUpstream: a standby that streams, of the same system identifier, from
// another server than the primary. Its start fails once it streams, so that not
// all of the time is waited for.
func TestOtherUpstream(t *testing.T) {
	w := newWorld(t, 3)
	w.stop("db2")
	w.stop("db3")
	// db3 comes back as a second primary, on the same timeline: a copy gone astray.
	if err := os.Remove(filepath.Join(w.as("db3").DataDir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(within(t), "db3"); err != nil {
		t.Fatal(err)
	}
	r := w.recovery()
	r.FirstStage = w.write("other.sh", "#!/bin/sh\ntrue")
	w.write(filepath.Join(w.as("db1").DataDir, "pgpool_remote_start"), "#!/bin/sh\necho \"primary_conninfo = 'host=127.0.0.1 port="+
		strconv.Itoa(w.as("db3").Port)+" user=replicator'\nprimary_slot_name = ''\" >>$2/postgresql.auto.conf; pg_ctl -D $2 -w -l $2.log start >/dev/null\n"+
		"until psql -h 127.0.0.1 -U postgres -p "+strconv.Itoa(w.as("db2").Port)+" -tAc 'select status from pg_stat_wal_receiver' postgres | grep -q streaming; do sleep 0.1; done; exit 1")
	got, err := script.Recover(within(t), r)
	if err == nil || got.Verdict != script.Failed || !strings.Contains(err.Error(), "what db1 writes does not arrive") {
		t.Errorf("%+v, %v", got, err)
	}
}
