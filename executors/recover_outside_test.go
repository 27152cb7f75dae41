package executors_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/executors"
)

// The WAL directory and a tablespace lie elsewhere, before and after.
func TestBaseBackupKeepsWhatLiesOutside(t *testing.T) {
	a := newPrimary(t, "db1", "wal_log_hints = off", "allow_in_place_tablespaces = on")
	b := standbyOf(t, a, "db2")
	a.exec("create tablespace inplace location ''")
	failover(t, a, b, true)
	space := filepath.Join(b.SocketDir, "space=1")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	b.exec("create tablespace outer_one location '" + space + "'")
	b.exec("create table u tablespace outer_one as select * from t")
	wal := filepath.Join(a.SocketDir, "wal")
	if err := os.Rename(filepath.Join(a.DataDir, "pg_wal"), wal); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(wal, filepath.Join(a.DataDir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{Decision: 11})
	if to, err := os.Readlink(filepath.Join(a.DataDir, "pg_wal")); err != nil || to != wal+".interrex-11" {
		t.Errorf("pg_wal leads to %q, %v; expected %s.interrex-11", to, err, wal)
	}
	if x, y := a.text("select count(*) from u"), b.text("select count(*) from u"); x != y {
		t.Errorf("%s rows in the tablespace, expected %s", x, y)
	}
	a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{How: "basebackup", Decision: 12})
	if _, _, err := executors.Clean(within(t), a.Postgres); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(wal + "*")
	spaces, _ := filepath.Glob(space + "*")
	if len(left) != 1 || left[0] != wal+".interrex-12" || len(spaces) != 2 {
		t.Errorf("left %q and %q, expected the WAL directory of 12, the upstream's tablespace and that of 12", left, spaces)
	}
	a.isStandbyOf(b)
}

// Links that are not absolute, and that lead where nothing can be made beside.
func TestBaseBackupOverOddLinks(t *testing.T) {
	a := newPrimary(t, "db1", "wal_log_hints = off")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	disk := filepath.Join(a.SocketDir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	wal := filepath.Join(disk, "wal")
	if err := os.Rename(filepath.Join(a.DataDir, "pg_wal"), wal); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../disk/wal", filepath.Join(a.DataDir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	leadsTo := func(want string) {
		t.Helper()
		if to, err := os.Readlink(filepath.Join(a.DataDir, "pg_wal")); err != nil || to != want {
			t.Errorf("pg_wal leads to %q, %v; expected %s", to, err, want)
		}
	}
	a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{Decision: 11})
	leadsTo(wal + ".interrex-11")
	if _, _, err := executors.Clean(within(t), a.Postgres); err != nil || exists(wal) {
		t.Errorf("the old WAL is still there after clean, %v", err)
	}
	if err := os.Rename(wal+".interrex-11", wal); err != nil {
		t.Fatal(err)
	}
	a.crash()
	soloRun(t, "ln", "-sfn", wal, filepath.Join(a.DataDir, "pg_wal"))
	if err := os.Chmod(disk, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(disk, 0o700)
	for _, d := range []uint64{12, 13} { // in the old one, then beside what is there
		a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{How: "basebackup", Decision: d})
		leadsTo(fmt.Sprintf("%s/pg.interrex-%d", wal, d))
	}
	if _, _, err := executors.Clean(within(t), a.Postgres); err != nil {
		t.Fatal(err)
	}
	a.isStandbyOf(b)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// The upstream has a tablespace that the node lacks, on the same host: pg_rewind
// would write into the upstream's own directory, and a copy with a link to it
// must not take it along when it is removed.
func TestTheUpstreamsTablespaceIsNotTouched(t *testing.T) {
	a := newPrimary(t, "db1")
	b := standbyOf(t, a, "db2")
	failover(t, a, b, true)
	space := filepath.Join(b.SocketDir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	b.exec("create tablespace sp location '" + space + "'")
	b.exec("create table u tablespace sp as select * from t")
	got := a.recoverFrom(b, executors.HowBaseBackup, executors.RecoverOptions{})
	if !strings.Contains(got.Why, "tablespace") {
		t.Errorf("because %s, expected the tablespace to be named", got.Why)
	}
	// As after a rewind by hand, or a CREATE TABLESPACE that was replayed.
	if err := os.Symlink(space, filepath.Join(got.Kept, "pg_tblspc", "4711")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := executors.Clean(within(t), a.Postgres); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(space); err != nil || len(left) == 0 {
		t.Errorf("the upstream's tablespace holds %v, %v: the copy's removal took it along", left, err)
	}
}
