package natslog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockStore makes this process the only user of a store directory: two servers
// on one store would each append to their own idea of the log. The lock ends
// with the process, however it ends.
func lockStore(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("natslog: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("natslog: %s is locked: another server runs on this store; stop it, or choose another store directory", path)
	}
	return nil, fmt.Errorf("natslog: lock %s: %w", path, err)
}
