package events_test

import (
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/interrex-ha/interrex/events"
)

func ms(n int64) events.Duration { return events.Duration(time.Duration(n) * time.Millisecond) }

func TestDefaultPolicy(t *testing.T) {
	p := events.DefaultPolicy()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	if got := p.SurvivesOutage(); got != 1800*time.Millisecond {
		t.Errorf("the default survives an outage of %s, DESIGN says 1.8s", got)
	}
}

func TestPolicyCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*events.Policy)
		says   []string
	}{
		"mode":                {func(p *events.Policy) { p.Durability = "quorum" }, []string{`durability="quorum"`, "async"}},
		"too little left":     {func(p *events.Policy) { p.Lease, p.Grace = ms(2199), ms(1500) }, []string{"lease=2.199s", "at least 1s"}},
		"grace below renew":   {func(p *events.Policy) { p.Grace = ms(999) }, []string{"grace=999ms", "renew=500ms"}},
		"grace equals lease":  {func(p *events.Policy) { p.Grace = ms(3000) }, []string{"grace=3s", "lease=3s"}},
		"hang below probe":    {func(p *events.Policy) { p.Hang = ms(999) }, []string{"hang=999ms", "probe_timeout=500ms"}},
		"silence below beat":  {func(p *events.Policy) { p.NodeSilence = ms(1999) }, []string{"node_silence=1.999s", "heartbeat=1s"}},
		"drift too small":     {func(p *events.Policy) { p.DriftPPM = 99 }, []string{"drift_ppm=99"}},
		"drift too large":     {func(p *events.Policy) { p.DriftPPM = 100_001 }, []string{"drift_ppm=100001"}},
		"negative drift":      {func(p *events.Policy) { p.DriftPPM = -1000 }, []string{"drift_ppm=-1000"}},
		"two faults together": {func(p *events.Policy) { p.Lease, p.Hang = 0, ms(-1) }, []string{"lease=0s", "hang=-1ms"}},
	} {
		p := events.DefaultPolicy()
		c.change(&p)
		err := p.Check()
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v; want an error with %s", name, err, says)
			}
		}
	}
	edge := events.DefaultPolicy()
	edge.Lease, edge.Grace, edge.Hang, edge.NodeSilence, edge.DriftPPM = ms(2200), ms(1000), ms(1000), ms(2000), 100
	if err := edge.Check(); err != nil {
		t.Errorf("everything just allowed: %v", err)
	}
}

// TestEveryDurationIsChecked: a duration field that Check forgets would let a
// zero or endless wait through.
func TestEveryDurationIsChecked(t *testing.T) {
	v := reflect.ValueOf(events.DefaultPolicy())
	for i := range v.NumField() {
		if v.Field(i).Type() != reflect.TypeFor[events.Duration]() {
			continue
		}
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		for _, bad := range []int64{0, -1, int64(24*time.Hour) + 1} {
			p := events.DefaultPolicy()
			reflect.ValueOf(&p).Elem().Field(i).SetInt(bad)
			if err := p.Check(); err == nil || !strings.Contains(err.Error(), name+"=") {
				t.Errorf("%s=%s: %v; want an error that names it", name, time.Duration(bad), err)
			}
		}
	}
}

// TestExpiryWait: never shorter than L(1+rho)/(1-rho), computed exactly, and at
// most a nanosecond longer.
func TestExpiryWait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := events.Policy{
			Lease:    events.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "lease")),
			DriftPPM: rapid.Int64Range(100, 100_000).Draw(t, "ppm"),
		}
		exact := new(big.Rat).SetFrac64(1_000_000+p.DriftPPM, 1_000_000-p.DriftPPM)
		exact.Mul(exact, new(big.Rat).SetInt64(int64(p.Lease)))
		got := new(big.Rat).SetInt64(int64(p.ExpiryWait()))
		if got.Cmp(exact) < 0 {
			t.Fatalf("lease %s, %d ppm: wait %s is shorter than %s ns", p.Lease, p.DriftPPM, p.ExpiryWait(), exact.FloatString(3))
		}
		if got.Cmp(exact.Add(exact, big.NewRat(1, 1))) >= 0 {
			t.Fatalf("lease %s, %d ppm: wait %s is more than 1 ns too long", p.Lease, p.DriftPPM, p.ExpiryWait())
		}
	})
}

func TestPolicyHash(t *testing.T) {
	base := events.DefaultPolicy()
	seen := map[string]string{base.Hash(): "default"}
	if len(base.Hash()) != 16 || base.Hash() != events.DefaultPolicy().Hash() {
		t.Fatalf("hash %q", base.Hash())
	}
	v := reflect.ValueOf(base)
	for i := range v.NumField() {
		p := base
		switch f := reflect.ValueOf(&p).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("other")
		case reflect.Int64:
			f.SetInt(f.Int() + 1)
		case reflect.Uint64:
			f.SetUint(f.Uint() + 1)
		default:
			t.Fatalf("field %s: unexpected kind", v.Type().Field(i).Name)
		}
		if other, taken := seen[p.Hash()]; taken {
			t.Errorf("changing %s gives the hash of %s", v.Type().Field(i).Name, other)
		}
		seen[p.Hash()] = v.Type().Field(i).Name
	}
	b, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	var again events.Policy
	if err := json.Unmarshal(b, &again); err != nil || again != base {
		t.Errorf("the policy came back as %+v, %v", again, err)
	}
}
