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

	turn chan struct{} // holds one token: who provides it may wait for the network
	read sync.Once     // of digest

	mu     sync.Mutex
	digest string
	err    error
	path   string // there; empty: not known to be there
}

func newProgram(file string) *program { return &program{file: file, turn: make(chan struct{}, 1)} }

// findCopy prints the path of the copy, and its digest when it is there.
const findCopy = `d=${XDG_CACHE_HOME:-$HOME/.cache}/interrex
umask 077
mkdir -p "$d" || exit
printf '%s\n' "$d/interrex-$1"
if [ -x "$d/interrex-$1" ]; then sha256sum "$d/interrex-$1"; fi`

// findWithin bounds the look for a copy.
const findWithin = 30 * time.Second

// copyWithin bounds the copying: some 20 MB, also over a slow line.
const copyWithin = 5 * time.Minute

// provide makes sure that the copy is there and returns its path. Whoever waits
// for another one's copying waits no longer than ctx.
func (p *program) provide(ctx context.Context, r executors.Runner) (string, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return "", fmt.Errorf("wait for interrex's copy: %w", context.Cause(ctx))
	}
	defer func() { <-p.turn }()
	if path := p.known(); path != "" {
		return path, nil
	}
	p.read.Do(p.hash)
	if p.err != nil {
		return "", p.err
	}
	out, err := r.Run(ctx, executors.Command{
		Path: "sh", Args: []string{"-c", findCopy, "sh", p.digest[:16]}, Timeout: findWithin,
	})
	if err != nil {
		return "", fmt.Errorf("look for interrex's copy: %w", err)
	}
	path, sum, _ := strings.Cut(strings.TrimSpace(string(out.Stdout)), "\n")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("look for interrex's copy: the login's home directory is %q, expected an absolute path", path)
	}
	if !strings.HasPrefix(sum, p.digest) {
		if err := p.copy(ctx, r, path); err != nil {
			return "", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path = path
	return path, nil
}

func (p *program) copy(ctx context.Context, r executors.Runner, path string) error {
	content, err := os.ReadFile(p.file)
	if err != nil {
		return fmt.Errorf("read this program, to copy it: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, copyWithin)
	defer cancel()
	if err := r.WriteFile(limited, path, content, 0o700); err != nil {
		return fmt.Errorf("copy interrex there: %w", err)
	}
	return nil
}

// hash reads the program's file once; the file of a running program stays.
func (p *program) hash() {
	content, err := os.ReadFile(p.file)
	if err != nil {
		p.err = fmt.Errorf("read this program, to copy it: %w", err)
		return
	}
	sum := sha256.Sum256(content)
	p.digest = hex.EncodeToString(sum[:])
}

func (p *program) known() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.path
}

// forget has the copy looked for again.
func (p *program) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path = ""
}
