package executors_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/executors"
)

func TestReadControl(t *testing.T) {
	s := newSolo(t)
	c, err := executors.ReadControl(t.Context(), s.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Clean() || c.State != "shut down" || c.Timeline != 1 || c.LastTimeline() != 1 || c.Segment != 1<<20 ||
		c.Checkpoint == 0 || c.Redo != c.Checkpoint || c.Checksums || c.WALHints || c.Version < 13 {
		t.Errorf("a fresh directory gives %+v", c)
	}
	s.up(false)
	if id := s.text("(pg_control_system()).system_identifier"); id != c.SystemID {
		t.Errorf("system identifier %q, PostgreSQL says %q", c.SystemID, id)
	}
	s.exec("checkpoint")
	c, err = executors.ReadControl(t.Context(), s.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	if c.Clean() || c.State != "in production" || c.Checkpoint.String() != s.text("(pg_control_checkpoint()).checkpoint_lsn") {
		t.Errorf("a running server gives %+v", c)
	}
}

func TestReadControlSaysWhatIsWrong(t *testing.T) {
	s := newSolo(t)
	file := filepath.Join(s.DataDir, "global", "pg_control")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := executors.ReadControl(t.Context(), s.Postgres); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged pg_control gives %+v, %v; expected an error that says so", c, err)
	}
	s.DataDir = t.TempDir()
	if _, err := executors.ReadControl(t.Context(), s.Postgres); err == nil || !strings.Contains(err.Error(), s.DataDir) || !strings.Contains(err.Error(), "db1") {
		t.Errorf("an empty directory gives %v, expected an error that names node and directory", err)
	}
}

func TestParseControlNamesMissingLines(t *testing.T) {
	_, err := executors.ParseControl("Database cluster state: in production\n")
	if err == nil || !strings.Contains(err.Error(), "Database system identifier") || !strings.Contains(err.Error(), "Bytes per WAL segment") {
		t.Errorf("got %v, expected an error that names every missing line", err)
	}
}
