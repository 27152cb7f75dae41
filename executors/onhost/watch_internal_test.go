package onhost

import (
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// TestNoTimeLeft: an order whose end has passed leaves a moment, since none at all
// would be taken for endless.
func TestNoTimeLeft(t *testing.T) {
	now, err := bootClock()
	if err != nil {
		t.Fatal(err)
	}
	left, bounded := order{Until: instant{now.Boot, now.At - int64(time.Hour)}}.left()
	if !bounded || left <= 0 || left > time.Millisecond {
		t.Errorf("left %s, bounded %t; expected a moment", left, bounded)
	}
}

// TestGoneBeforeItSpoke: that a container had ended says nothing once it was
// started again and what runs there was heard of.
func TestGoneBeforeItSpoke(t *testing.T) {
	w := &watch{watchers: map[*executors.Watcher]func(){}}
	word := w.lastWord()
	w.heard(answer{Seen: &executors.Seen{Running: true}, Boot: "b", At: 1})
	w.goneSince(word)
	if !w.seen.Running {
		t.Error("what was heard of since counts as gone")
	}
	w.goneSince(w.lastWord())
	if w.seen.Running {
		t.Error("what ended with its container counts as running")
	}
}
