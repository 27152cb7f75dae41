package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ReadFile returns the whole file.
func (Runner) ReadFile(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("local: read %s: %w", path, context.Cause(ctx))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	return b, nil
}

// Stat describes the file that path leads to, symbolic links followed.
func (Runner) Stat(ctx context.Context, path string) (fs.FileInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("local: stat %s: %w", path, context.Cause(ctx))
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	return info, nil
}

// WriteFile writes path so that after a crash it holds either what it held
// before or all of data, and after a nil return data for sure. The mode is
// exactly mode, whatever the umask. A symbolic link is replaced by a file.
func (Runner) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("local: write %s: %w", path, context.Cause(ctx))
	}
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, "."+filepath.Base(path)+".interrex-"+rand.Text()[:8])
	err := writeNew(temp, data, mode)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // what is left is harmless: nobody reads this name
		return fmt.Errorf("local: write %s: %w", path, err)
	}
	return syncDir(dir)
}

func writeNew(temp string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Remove removes one file, durably; it never removes a directory.
func (Runner) Remove(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("local: remove %s: %w", path, context.Cause(ctx))
	}
	err := syscall.Unlink(path) // os.Remove would take an empty directory too
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("local: remove %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// Rename renames a file or directory within one file system; a file that stands
// at to is replaced.
func (Runner) Rename(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("local: rename %s: %w", from, context.Cause(ctx))
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("local: %w", err)
	}
	err := syncDir(filepath.Dir(to))
	if filepath.Dir(from) != filepath.Dir(to) {
		err = errors.Join(err, syncDir(filepath.Dir(from)))
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("local: sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("local: sync directory %s: %w", dir, err)
	}
	return nil
}
