package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFloor(t *testing.T) {
	ctx := deadline(t)
	dir := filepath.Join(tempDir(t), "floor")
	loads := 0
	r, err := Floor(ctx, FloorOptions{Dir: dir, Runs: 1, Progress: func(s string) { t.Log(s) },
		Load: func(ctx context.Context, l *Layout) (func() error, error) {
			if err := l.InitPgbench(ctx, 1); err != nil {
				return nil, err
			}
			load := StartPgbench(ctx, l.BinDir, l.DSN(), 1)
			conn, err := l.connect(ctx, l.Nodes[0], Superuser, AppDatabase)
			if err != nil {
				return nil, err
			}
			defer conn.Close(ctx)
			err = poll(ctx, pollEvery, func() bool {
				return conn.QueryRow(ctx, "select count(*) from pgbench_history").Scan(&loads) == nil && loads > 0
			})
			return load.Stop, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Crash) != 1 || len(r.Switch) != 1 || loads == 0 {
		t.Fatalf("%+v, %d transactions of load", r, loads)
	}
	for _, d := range append(r.Crash, r.Switch...) {
		if d <= 0 || d > 20*time.Second {
			t.Errorf("an outage of %s", d)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the throwaway pair is still there: %v", err)
	}
}
