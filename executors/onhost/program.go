package onhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// program is this program's copy on the other host. Its name holds the digest of
// its content: copies of several versions stand beside each other, and one that
// was cut off half way is not taken for a whole one.
type program struct {
	file string

	mu     sync.Mutex
	digest string
	path   string // there; empty: not known to be there
}

// findCopy prints the path of the copy, and its digest when it is there.
const findCopy = `d=${XDG_CACHE_HOME:-$HOME/.cache}/interrex
umask 077
mkdir -p "$d" || exit
printf '%s\n' "$d/interrex-$1"
if [ -x "$d/interrex-$1" ]; then sha256sum "$d/interrex-$1"; fi`

// copyWithin bounds the copying: some 20 MB, also over a slow line.
const copyWithin = 5 * time.Minute

// provide makes sure that the copy is there and returns its path.
func (p *program) provide(ctx context.Context, r executors.Runner) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path != "" {
		return p.path, nil
	}
	content, err := p.load()
	if err != nil {
		return "", err
	}
	out, err := r.Run(ctx, executors.Command{
		Path: "sh", Args: []string{"-c", findCopy, "sh", p.digest[:16]}, Timeout: 30 * time.Second,
	})
	if err != nil {
		return "", fmt.Errorf("look for interrex's copy: %w", err)
	}
	path, sum, _ := strings.Cut(strings.TrimSpace(string(out.Stdout)), "\n")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("look for interrex's copy: the login's home directory is %q, expected an absolute path", path)
	}
	if !strings.HasPrefix(sum, p.digest) {
		limited, cancel := context.WithTimeout(ctx, copyWithin)
		defer cancel()
		if err := r.WriteFile(limited, path, content, 0o700); err != nil {
			return "", fmt.Errorf("copy interrex there: %w", err)
		}
	}
	p.path = path
	return path, nil
}

// load reads the program's file. It is not kept: it is needed once.
func (p *program) load() ([]byte, error) {
	content, err := os.ReadFile(p.file)
	if err != nil {
		return nil, fmt.Errorf("read this program, to copy it: %w", err)
	}
	sum := sha256.Sum256(content)
	p.digest = hex.EncodeToString(sum[:])
	return content, nil
}

// forget has the copy looked for again.
func (p *program) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path = ""
}
