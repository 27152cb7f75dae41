package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileMemory keeps the head in a JSON file, replaced atomically and fsynced.
type FileMemory string

// Load returns the zero Head when there is no file yet.
func (f FileMemory) Load() (Head, error) {
	var h Head
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("controller: head of the log: %w", err)
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("controller: head of the log %s: %w; remove the file to accept the log as it is", f, err)
	}
	return h, nil
}

// Save replaces the file.
func (f FileMemory) Save(h Head) error {
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(string(f)), ".head-*")
	if err != nil {
		return fmt.Errorf("controller: head of the log: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), string(f))
	}
	if err != nil {
		return fmt.Errorf("controller: head of the log: %w", err)
	}
	return nil
}
