package events_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/events"
)

func TestLSN(t *testing.T) {
	for s, want := range map[string]events.LSN{
		"0/0": 0, "0/3000060": 0x3000060, "16/B374D848": 0x16_B374D848, "FFFFFFFF/FFFFFFFF": math.MaxUint64, "a/b": 0xA_0000000B,
	} {
		if got, err := events.ParseLSN(s); err != nil || got != want {
			t.Errorf("ParseLSN(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "/", "0/", "/0", "x/0", "0/x", "1/2/3", "100000000/0", "0/100000000", "-1/0", "0/ 1", "+1/0", "0x1/0"} {
		if got, err := events.ParseLSN(s); err == nil || !strings.Contains(err.Error(), "0/3000060") {
			t.Errorf("ParseLSN(%q) = %s, %v; want an error that shows what is expected", s, got, err)
		}
	}
	if got := events.LSN(0x16_B374D848).String(); got != "16/B374D848" {
		t.Errorf("String is %q, want PostgreSQL's 16/B374D848", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		l := events.LSN(rapid.Uint64().Draw(t, "lsn"))
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != strings.ToUpper(string(b)) {
			t.Fatalf("%s is not PostgreSQL's notation", b)
		}
		var again events.LSN
		if err := json.Unmarshal(b, &again); err != nil || again != l {
			t.Fatalf("%s came back as %s, %v", l, again, err)
		}
	})
	known := events.LSN(5)
	if err := known.UnmarshalText(nil); err != nil || known != 0 {
		t.Errorf("an empty text gives %s, %v; want unknown", known, err)
	}
}

func TestBehind(t *testing.T) {
	for _, c := range []struct {
		l, end events.LSN
		want   uint64
	}{{0, 0, 0}, {5, 5, 0}, {4, 5, 1}, {5, 4, 0}, {0, math.MaxUint64, math.MaxUint64}} {
		if got := c.l.Behind(c.end); got != c.want {
			t.Errorf("%s.Behind(%s) = %d, want %d", c.l, c.end, got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := events.Duration(rapid.Int64().Draw(t, "ns"))
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again events.Duration
		if err := json.Unmarshal(b, &again); err != nil || again != d || again.D() != time.Duration(d) {
			t.Fatalf("%s came back as %s, %v", d, again, err)
		}
	})
	if b, _ := json.Marshal(events.Duration(1500 * time.Millisecond)); string(b) != `"1.5s"` {
		t.Errorf("1.5 s is written %s", b)
	}
	for _, s := range []string{"", "5", "5 s", "x", "1e3s"} {
		var d events.Duration
		if err := d.UnmarshalText([]byte(s)); err == nil || !strings.Contains(err.Error(), "500ms") {
			t.Errorf("%q was read as %s, %v; want an error that shows what is expected", s, d, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"a", "0", "db1", "db-1", "db_1", "1-_", strings.Repeat("x", 32)} {
		if err := events.CheckName(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for s, says := range map[string]string{
		"": "empty", "-a": `'-'`, "_a": `'_'`, "A": `'A'`, "a.b": `'.'`, "a b": `' '`, "a*": `'*'`, "a>": `'>'`, "a/b": `'/'`, "ä": `'ä'`,
		"a\n": `'\n'`, "a\x00": `'\x00'`, "\xff": "not allowed", strings.Repeat("x", 33): "longer than 32",
	} {
		if err := events.CheckName(s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want an error with %s", s, err, says)
		}
	}
	if got := events.SlotName("db-1_a"); got != "interrex_db_1_a" {
		t.Errorf("slot of db-1_a is %q", got)
	}
}

func TestDigestCoversEverything(t *testing.T) {
	base := func() events.Event {
		return events.Event{
			Seq: 7, ID: "id", Time: time.Unix(1, 2).UTC(), Source: "agent/db1", Version: 1, Cause: 3,
			Data: events.Heartbeat{Node: "db1"}, Body: []byte(`{"node":"db1"}`),
		}
	}
	var start events.Digest
	want := start.Next(base())
	if again := start.Next(base()); again != want || want == start || len(want.String()) != 64 {
		t.Fatalf("the digest is not a function of its input: %s, %s", want, again)
	}
	seen := map[events.Digest]string{want: "unchanged"}
	for name, change := range map[string]func(*events.Event){
		"seq":       func(e *events.Event) { e.Seq++ },
		"id":        func(e *events.Event) { e.ID = "other" },
		"time":      func(e *events.Event) { e.Time = e.Time.Add(1) },
		"source":    func(e *events.Event) { e.Source = "agent/db2" },
		"kind":      func(e *events.Event) { e.Data = events.AgentStopped{Node: "db1"} },
		"version":   func(e *events.Event) { e.Version++ },
		"cause":     func(e *events.Event) { e.Cause = 0 },
		"body":      func(e *events.Event) { e.Body = []byte(`{"node":"db2"}`) },
		"space":     func(e *events.Event) { e.Body = []byte(`{"node": "db1"}`) },
		"boundary":  func(e *events.Event) { e.ID, e.Source = "idagent", "/db1" },
		"boundary2": func(e *events.Event) { e.ID, e.Source = "", "idagent/db1" },
		"big": func(e *events.Event) {
			e.Body = []byte(`{"node":"db1","x":"` + strings.Repeat("y", 5000) + `"}`)
		},
	} {
		e := base()
		change(&e)
		got := start.Next(e)
		if other, taken := seen[got]; taken {
			t.Errorf("%s: the digest is the same as %s", name, other)
		}
		seen[got] = name
	}
	if want.Next(base()) == start.Next(base()) {
		t.Error("the digest does not cover what came before")
	}
	unknown := base()
	unknown.Data = events.Unknown{KindName: "heartbeat", Version: 9, Reason: "whatever this program says of it"}
	if start.Next(unknown) != want {
		t.Error("the digest depends on what this program understands of a body")
	}
}
