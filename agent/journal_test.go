package agent

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm/journal"
)

func TestJournalFile(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, "db1")
	if err != nil {
		t.Fatal(err)
	}
	m := journal.Mark{Decision: 7, Action: events.ActPromote}
	want := j.state.Observe(9, "id", 3).Intend(m, 3).Hold(3)
	if err := j.save(want); err != nil {
		t.Fatal(err)
	}
	again, err := openJournal(dir, "db1")
	if err != nil || !reflect.DeepEqual(again.state, want) || !reflect.DeepEqual(j.state, want) {
		t.Errorf("read back %+v (%v), kept %+v; expected %+v", again.state, err, j.state, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the directory holds %v (%v)", left, err)
	}
}

// TestJournalThatCannotBeWritten: what is not on disk is not the state.
func TestJournalThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, "db1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "journal.json"), 0o700); err != nil { // cannot be replaced by a file
		t.Fatal(err)
	}
	if err := j.save(j.state.Hold(3)); err == nil || j.state.Held != 0 {
		t.Errorf("saved (%v), the state holds term %d", err, j.state.Held)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".journal-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestForeignJournals: one that is damaged, and one of another node, are errors
// that name the file.
func TestForeignJournals(t *testing.T) {
	for name, c := range map[string]struct{ body, says string }{
		"damaged":      {`{"node":"db1","se`, "damaged"},
		"empty":        {``, "damaged"},
		"another node": {`{"node":"db2"}`, `belongs to node "db2"`},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "journal.json")
		if err := os.WriteFile(path, []byte(c.body), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openJournal(dir, "db1")
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; expected %q and the file's name", name, err, c.says)
		}
	}
}
