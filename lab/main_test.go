package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/internal/unroot"
)

func TestMain(m *testing.M) { unroot.Main(m) }

// deadline is generous: it bounds what hangs, it measures nothing.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// cluster makes a cluster that ends with the test.
func cluster(t *testing.T, o CreateOptions) *Layout {
	t.Helper()
	if o.Dir == "" {
		o.Dir = tempDir(t)
	}
	o.NoSync = true
	l, err := Create(deadline(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range l.Nodes {
			// The end of a test's own context must not keep servers alive.
			if err := l.KillAll(context.Background(), n.Name); err != nil {
				t.Error(err)
			}
		}
		if l.SocketDir != filepath.Join(l.dir, "run") {
			os.RemoveAll(l.SocketDir)
		}
	})
	return l
}

// tempDir is short, unlike t.TempDir: it may hold sockets.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "l")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
