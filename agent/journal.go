package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/interrex-ha/interrex/fsm/journal"
)

// journalFile keeps journal.State on disk. Save returns only when it is
// durable: an intent is written before it is acted on.
type journalFile struct {
	path  string
	state journal.State
}

func openJournal(dir, node string) (*journalFile, error) {
	j := &journalFile{path: filepath.Join(dir, "journal.json"), state: journal.State{Node: node}}
	b, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("agent %s: journal: %w", node, err)
	}
	if err := json.Unmarshal(b, &j.state); err != nil {
		return nil, fmt.Errorf("agent %s: journal %s is damaged: %w; move it away only when you know that no order was under way", node, j.path, err)
	}
	if j.state.Node != node {
		return nil, fmt.Errorf("agent %s: %s belongs to node %q: two nodes share one directory", node, j.path, j.state.Node)
	}
	return j, nil
}

// save writes s to disk and, only then, makes it the state.
func (j *journalFile) save(s journal.State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("agent %s: journal: %w", s.Node, err)
	}
	f, err := os.CreateTemp(filepath.Dir(j.path), ".journal-*")
	if err != nil {
		return fmt.Errorf("agent %s: journal: %w", s.Node, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return fmt.Errorf("agent %s: journal: %w", s.Node, err)
	}
	j.state = s
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
