package controller

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/memlog"
	"github.com/interrex-ha/interrex/fsm"
)

// kept is a Memory in memory.
type kept struct {
	mu   sync.Mutex
	head Head
}

func (k *kept) Load() (Head, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.head, nil
}

func (k *kept) Save(h Head) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.head = h
	return nil
}

func remembering(m Memory) func(*Controller) { return func(c *Controller) { c.Memory = m } }

// TestRemembersDecisions: the head that is kept is a place of this log.
func TestRemembersDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, k := memlog.New(), &kept{}
		r := begin(t, log, "c1", remembering(k))
		tell(t, log, found(3)...)
		serve(t, log, r)
		h, _ := k.Load()
		s := fsm.Initial()
		for _, e := range all(t, log) {
			var err error
			if s, err = fsm.Fold(s, e); err != nil {
				t.Fatal(err)
			}
			if e.Seq == h.Seq {
				break
			}
		}
		if h.Seq < r.now().LastDecision || h.Digest != s.Digest.String() || h.Term != 1 {
			t.Errorf("remembered %+v; the last decision is %d, and the digest there %s", h, r.now().LastDecision, s.Digest)
		}
		if err := begin(t, log, "c2", remembering(k)).stop(); errors.Is(err, ErrRegressed) {
			t.Errorf("the same log is said to have regressed: %v", err)
		}
	})
}

// TestLogThatWentBackwards: a log that ends before what was seen, or has another
// event there, is not decided on.
func TestLogThatWentBackwards(t *testing.T) {
	for name, head := range map[string]Head{
		"ends too early": {Seq: 100, Digest: "00", Term: 3},
		"another event":  {Seq: 5, Digest: "00", Term: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := memlog.New()
				tell(t, log, found(3)...)
				r := begin(t, log, "c1", remembering(&kept{head: head}))
				if err := <-r.ended; !errors.Is(err, ErrRegressed) {
					t.Errorf("Run: %v; expected ErrRegressed", err)
				}
				if d := of[events.DeadlineReached](all(t, log)); len(d) > 1 {
					t.Errorf("it appended %d times to a log that went backwards", len(d))
				}
				if d := of[events.Decided](all(t, log)); len(d) > 0 {
					t.Errorf("it decided on a log that went backwards: rule %d", d[0].Rule)
				}
			})
		})
	}
}

// TestStaleTail: a replica of the log that shows an older tail for a moment is
// no regressed log (TRIED 18): nothing is decided until the rest is there.
func TestStaleTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := hook()
		tell(t, log, found(3)...)
		es := all(t, log)
		s := fsm.Initial()
		for _, e := range es {
			var err error
			if s, err = fsm.Fold(s, e); err != nil {
				t.Fatal(err)
			}
		}
		log.onLast = func(seq uint64) uint64 { return seq - 4 }
		r := begin(t, log, "c1", remembering(&kept{head: Head{Seq: s.Seq, Digest: s.Digest.String()}}))
		until(t, "it decides", func() bool { return r.now().Primary == "db1" })
	})
}

func TestFileMemory(t *testing.T) {
	dir := t.TempDir()
	f := FileMemory(filepath.Join(dir, "head.json"))
	if h, err := f.Load(); err != nil || h != (Head{}) {
		t.Fatalf("without a file: %+v, %v", h, err)
	}
	want := Head{Seq: 7, Digest: "abc", Term: 2}
	for range 3 {
		if err := f.Save(want); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := f.Load(); err != nil || h != want {
		t.Errorf("%+v, %v; expected %+v", h, err, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the directory holds %v, expected the head only (%v)", left, err)
	}
	if err := FileMemory(filepath.Join(dir, "no", "head.json")).Save(want); err == nil {
		t.Error("a head in a directory that does not exist was saved")
	}
	// A target that cannot be replaced: the error is told, nothing is left behind.
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := FileMemory(blocked).Save(want); err == nil {
		t.Error("a head was saved over a directory")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".head-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamagedMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "head.json")
	if err := os.WriteFile(path, []byte(`{"seq":7,"di`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := FileMemory(path).Load()
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file") {
		t.Fatalf("a damaged head: %v; expected its name and what to do", err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := begin(t, memlog.New(), "c1", remembering(FileMemory(path)))
		if got := <-r.ended; got == nil || got.Error() != err.Error() {
			t.Errorf("Run: %v; expected %v", got, err)
		}
		time.Sleep(time.Second)
	})
}
