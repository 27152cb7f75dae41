package main

import (
	"strings"
	"testing"
	"time"
)

// TestJudgeLost: the demo must be able to fail. Only what was acknowledged just
// before a fault may be missing.
func TestJudgeLost(t *testing.T) {
	fault := time.Now()
	lost := func(at ...time.Duration) []lostRow {
		var out []lostRow
		for i, d := range at {
			out = append(out, lostRow{ID: int64(i), At: fault.Add(d)})
		}
		return out
	}
	for _, c := range []struct {
		name string
		r    clientReport
		want string
	}{
		{"all there", clientReport{Acknowledged: 10, Present: 10}, ""},
		{"just before the fault", clientReport{Acknowledged: 10, Present: 8, Lost: lost(-time.Second, -time.Millisecond)}, ""},
		{"long before", clientReport{Acknowledged: 10, Present: 9, Lost: lost(-3 * time.Second)}, "outside of the one history"},
		{"by the old primary, long after", clientReport{Acknowledged: 10, Present: 9, Lost: lost(3 * time.Second)}, "outside of the one history"},
		{"nothing was written", clientReport{}, "the sum is wrong"},
		{"the sum", clientReport{Acknowledged: 10, Present: 8, Lost: lost(0)}, "the sum is wrong"},
	} {
		err := judgeLost(c.r, []time.Time{fault})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
