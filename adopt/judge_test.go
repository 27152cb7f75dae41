package adopt

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/config"
)

// pair is a primary and a standby with which nothing is wrong.
func pair() []view {
	node := func(id int, recovery bool) view {
		name, port, dir := fmt.Sprintf("db%d", id+1), 5432+id, fmt.Sprintf("/data/%d", id)
		f := &facts{
			Version: 150018, Text: "15.18", Recovery: recovery, SystemID: "42", Superuser: true, Bytes: 1 << 20,
			Settings: map[string]setting{
				"data_directory": {Value: dir}, "config_file": {Value: dir + "/postgresql.conf"}, "hba_file": {Value: dir + "/pg_hba.conf"},
				"wal_level": {Value: "replica"}, "max_wal_senders": {Value: "10"}, "max_replication_slots": {Value: "10"},
				"max_connections": {Value: "100"}, "data_checksums": {Value: "on"}, "fsync": {Value: "on"}, "full_page_writes": {Value: "on"},
				"hot_standby": {Value: "on"}, "recovery_target_timeline": {Value: "latest"}, "recovery_min_apply_delay": {Value: "0"},
				"port": {Value: fmt.Sprint(port)},
			},
		}
		if recovery {
			f.Receiver = &receiver{Status: "streaming", Host: "127.0.0.1", Port: 5432}
		}
		return view{
			node: config.Node{ID: id, Name: name, Host: "127.0.0.1", Port: port, DataDirectory: dir, ConfigFile: dir + "/postgresql.conf", User: "postgres"},
			here: true, facts: f, place: place{version: 15, pid: 1, free: 1 << 30}, boot: boot{how: "start.conf says manual"},
		}
	}
	return []view{node(0, false), node(1, true)}
}

func set(v *view, name, value string) {
	s := v.facts.Settings[name]
	s.Value = value
	v.facts.Settings[name] = s
}

func TestNothingWrong(t *testing.T) {
	good := pair()
	set(&good[1], "primary_slot_name", "interrex_db2") // from an earlier taking over
	r := judge(good)
	for _, f := range r.Findings {
		if f.Level != OK {
			t.Errorf("unexpected: %+v", f)
		}
	}
	if r.Primary != "db1" {
		t.Errorf("primary %q, want db1", r.Primary)
	}
}

// TestFindings spoils the good pair by one thing each; exactly that is found.
func TestFindings(t *testing.T) {
	passfile := write(t, filepath.Join(t.TempDir(), "pgpass"), "")
	for _, c := range []struct {
		name  string
		spoil func(all []view)
		want  string // level check node: part of the message -> fix, takes
	}{
		{"old version", func(a []view) { a[0].facts.Version, a[1].facts.Version = 120022, 120022 }, "refuse version db1: versions 13 to 18 | refuse version db2: versions 13 to 18"},
		{"two versions", func(a []view) { a[1].facts.Version = 160002 }, "refuse version : 15: db1; 16: db2"},
		{"two primaries", func(a []view) { a[1].facts.Recovery = false }, "refuse primary : db1, db2 all take writes"},
		{"no primary", func(a []view) { a[0].facts.Recovery = true; a[0].facts.Receiver = a[1].facts.Receiver }, "refuse primary : no node takes writes"},
		{"a silent node", func(a []view) { a[0].facts = nil }, "refuse primary : 1 nodes could not be looked at"},
		{"another system", func(a []view) { a[1].facts.SystemID = "43" }, "refuse system : 42: db1; 43: db2"},
		{"one address", func(a []view) { a[1].node.Port = 5432 }, "refuse address : db1 and db2"},
		{"another directory", func(a []view) { set(&a[0], "data_directory", "/else") }, "refuse directory db1: works in /else -> INTERREX_NODE_0_PORT"},
		{"no superuser", func(a []view) { a[1].facts = &facts{} }, `refuse role db2: no superuser -> ALTER ROLE "postgres" SUPERUSER;`},
		{"autostart", func(a []view) { a[0].boot = boot{auto: true, how: "x says auto", fix: "echo manual > x"} }, "refuse autostart db1: x says auto -> echo manual > x"},
		{"no unit known", func(a []view) { a[0].boot = boot{} }, "warn autostart db1: INTERREX_NODE_0_SERVICE"},
		{"no replication", func(a []view) {
			a[0].node.Passfile = passfile
			a[0].replicas = &pgconn.PgError{Code: "28000", Message: "no pg_hba.conf entry for replication connection"}
		}, `refuse hba db1: could not replicate -> "host replication postgres 127.0.0.1/32 scram-sha-256" in /data/0/pg_hba.conf, reload`},
		{"no replication through the socket", func(a []view) { a[0].replicas = errors.New("psql: FATAL: no entry") }, `refuse hba db1: no entry -> "local replication postgres peer" in /data/0/pg_hba.conf, reload`},
		{"no replication right", func(a []view) {
			a[0].node.Passfile = passfile
			a[0].replicas = &pgconn.PgError{Code: "42501", Message: "x"}
		}, `refuse hba db1: could not -> ALTER ROLE "postgres" REPLICATION;`},
		{"a broken pg_hba.conf", func(a []view) { a[0].facts.HBAErrors = []string{"line 9: x"} }, "refuse hba db1: line 9: x -> /data/0/pg_hba.conf, reload"},
		{"not streaming", func(a []view) { a[1].facts.Receiver = nil }, "warn streaming db2: does not stream"},
		{"streams from elsewhere", func(a []view) { a[1].facts.Receiver.Port = 7 }, "warn streaming db2: from 127.0.0.1:7"},
		{"conninfo on the command line", func(a []view) {
			a[1].facts.Settings["primary_conninfo"] = setting{Value: "x", Source: "command line"}
		}, "refuse conninfo db2: command line -> remove -c primary_conninfo=… from what starts the server, restart"},
		{"a fixed timeline", func(a []view) { set(&a[1], "recovery_target_timeline", "3") }, "refuse timeline db2: '3' -> recovery_target_timeline = 'latest', restart"},
		{"a standby that promotes itself", func(a []view) { set(&a[1], "promote_trigger_file", "/run/promote") }, "refuse recovery_target db2: without a decision -> promote_trigger_file = '' in /data/1/postgresql.conf, restart"},
		{"a primary that was restored", func(a []view) { set(&a[0], "recovery_target_time", "2026-01-01") }, "warn recovery_target db1: makes it void -> recovery_target_time = '' in /data/0/postgresql.conf, reload"},
		{"delayed", func(a []view) { set(&a[1], "recovery_min_apply_delay", "5000") }, "warn delay db2: 5000 ms -> recovery_min_apply_delay = 0 in /data/1/postgresql.conf, reload"},
		{"no hot standby", func(a []view) { set(&a[1], "hot_standby", "off") }, "refuse hot_standby db2: cannot be probed -> hot_standby = on, restart"},
		{"minimal WAL", func(a []view) { set(&a[0], "wal_level", "minimal") }, "refuse wal_level db1: minimal -> wal_level = replica in /data/0/postgresql.conf, restart"},
		{"too few senders", func(a []view) { set(&a[0], "max_wal_senders", "3"); set(&a[1], "max_wal_senders", "3") }, "refuse room db1: at least 4 -> max_wal_senders = 10 in /data/0/postgresql.conf, restart | refuse room db2: at least 4"},
		{"too few slots", func(a []view) { set(&a[1], "max_replication_slots", "3") }, "refuse room db2: max_replication_slots is 3"},
		{"smaller limits", func(a []view) { set(&a[1], "max_connections", "50") }, "refuse limits db2: 50 here and 100 at db1 -> max_connections = 100, restart"},
		{"no rewind", func(a []view) { set(&a[0], "data_checksums", "off") }, "warn rewind db1: base backup only -> wal_log_hints = on in /data/0/postgresql.conf, restart"},
		{"no fsync", func(a []view) { set(&a[0], "fsync", "off") }, "refuse fsync db1: is off -> fsync = on in, reload"},
		{"torn pages", func(a []view) { set(&a[0], "full_page_writes", "off") }, "refuse full_page_writes db1: torn -> full_page_writes = on, reload"},
		{"pending", func(a []view) { a[0].facts.Settings["fsync"] = setting{Value: "on", Pending: true} }, "warn pending db1: fsync was changed"},
		{"synchronous", func(a []view) { set(&a[0], "synchronous_standby_names", "*") }, "warn synchronous db1: '*' is left as it is"},
		{"synchronous by name", func(a []view) { set(&a[0], "synchronous_standby_names", `FIRST 1 (x, "DB2")`) }, "warn synchronous db1: is left as it is"},
		{"synchronous with another's name", func(a []view) { set(&a[0], "synchronous_standby_names", "ANY 1 (standby1)") }, "refuse synchronous db1: every write would wait for ever -> synchronous_standby_names = '*', reload"},
		{"synchronous with another's name, on a standby", func(a []view) { set(&a[1], "synchronous_standby_names", "standby1") }, "warn synchronous db2: is left as it is"},
		{"a slot of its own", func(a []view) { set(&a[1], "primary_slot_name", "mine") }, "warn slots db2: uses the slot mine now and will use interrex_db2 -> SELECT pg_drop_replication_slot('mine');"},
		{"repmgr", func(a []view) { set(&a[0], "shared_preload_libraries", "pg_stat_statements, repmgr") }, "refuse manager db1: repmgr -> take repmgr out, restart"},
		{"a mount point", func(a []view) { a[0].place.mount = true }, "warn places db1: mount point"},
		{"WAL elsewhere", func(a []view) { a[0].place.walLink = true }, "warn places db1: pg_wal"},
		{"tablespaces", func(a []view) { a[0].facts.Tablespaces = []string{"fast"} }, "warn places db1: fast"},
		{"a logical slot", func(a []view) { a[0].facts.Slots = []slot{{Name: "cdc", Type: "logical", Active: true}} }, "warn slots db1: cdc does not survive"},
		{"an idle slot", func(a []view) { a[0].facts.Slots = []slot{{Name: "old", Type: "physical"}} }, "warn slots db1: nobody uses -> SELECT pg_drop_replication_slot('old');"},
		{"a full disk", func(a []view) { a[0].place.free = 1 << 10 }, "warn disk db1: 1 kB free"},
		{"an unreadable passfile", func(a []view) { a[0].node.Passfile = "/no/such/file" }, "refuse passfile db1: cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := pair()
			c.spoil(all)
			for i := range all {
				if v := &all[i]; v.facts != nil && v.facts.Settings != nil {
					for _, check := range ownChecks {
						check(v)
					}
				}
			}
			checkFindings(t, judge(all).Findings, strings.Split(c.want, " | "))
		})
	}
}

func checkFindings(t *testing.T, findings []Finding, want []string) {
	t.Helper()
	findings = slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Level == OK })
	if len(findings) != len(want) {
		t.Fatalf("%d findings, want %d: %+v", len(findings), len(want), findings)
	}
	for i, w := range want {
		f := findings[i]
		head, rest, _ := strings.Cut(w, ":")
		message, fix, _ := strings.Cut(rest, " -> ")
		fix, takes, _ := strings.Cut(fix, ", ")
		if got := fmt.Sprintf("%s %s %s", f.Level, f.Check, f.Node); got != head {
			t.Errorf("got %q, want %q", got, head)
		}
		if !strings.Contains(f.Message, strings.TrimSpace(message)) {
			t.Errorf("message %q lacks %q", f.Message, message)
		}
		if fix != "" && (!strings.Contains(f.Fix, fix) || string(f.Takes) != takes) {
			t.Errorf("fix %q, %q; want %q, %q", f.Fix, f.Takes, fix, takes)
		}
	}
}

func TestReportText(t *testing.T) {
	all := pair()
	all[0].boot = boot{auto: true, how: "start.conf says auto", fix: "echo manual > start.conf"}
	r := judge(all)
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"db1  127.0.0.1:5432  /data/0\n", "refuse  autostart", "change: echo manual > start.conf\n", "1 finding stands in the way"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "would create") {
		t.Error("a refused plan lists what would be created")
	}
	r = judge(pair())
	r.Creates, r.Back = creates(r.Nodes, r.Primary)
	b.Reset()
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"slot interrex_db2 for db2", "/data/1/postgresql.auto.conf", "interrex up --release", "DROP SCHEMA interrex"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	raw, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(raw), `"check":"primary"`) {
		t.Errorf("JSON: %v %s", err, raw)
	}
}
