package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

// TestEveryPolicyFieldCanBeSet fails when the policy gains a field that the
// environment cannot reach, or that the documentation does not explain.
func TestEveryPolicyFieldCanBeSet(t *testing.T) {
	for i, field := range PolicyFields() {
		p := events.DefaultPolicy()
		var value string
		switch v := reflect.ValueOf(p).Field(i); v.Interface().(type) {
		case events.Duration:
			value = "1234ms"
		case string:
			value = "word"
		default:
			value = "77"
		}
		if err := SetPolicy(&p, field, value); err != nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		if got := DiffPolicy(events.DefaultPolicy(), p); !slices.Equal(got, []string{field}) {
			t.Errorf("setting %s changed %q", field, got)
		}
		if policyAbout[field] == "" {
			t.Errorf("%s has no meaning in policyAbout", field)
		}
	}
	if len(policyAbout) != len(PolicyFields()) {
		t.Errorf("policyAbout explains %d fields, the policy has %d", len(policyAbout), len(PolicyFields()))
	}
}

func TestSetPolicyRefuses(t *testing.T) {
	for _, c := range []struct{ field, value, want string }{
		{"leese", "3s", "did you mean lease?"},
		{"lease", "", "it must be a duration"},
		{"lease", "3", "it must be a duration"},
		{"drift_ppm", "1.5", "it must be a whole number"},
		{"max_lag", "-1", "it must be a number of bytes"},
		{"max_lag", "16777216TB", "it must be a number of bytes"},
		{"max_lag", "MB", "it must be a number of bytes"},
	} {
		p := events.DefaultPolicy()
		err := SetPolicy(&p, c.field, c.value)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: got %v, want %q", c.field, c.value, err, c.want)
		}
		if p != events.DefaultPolicy() {
			t.Errorf("%s=%q changed the policy", c.field, c.value)
		}
	}
}

func TestBytes(t *testing.T) {
	for value, want := range map[string]uint64{"0": 0, "16777216": 16 << 20, "512kB": 512 << 10, "16MB": 16 << 20, "1GiB": 1 << 30, "2 TB": 2 << 40} {
		p := events.DefaultPolicy()
		if err := SetPolicy(&p, "max_lag", value); err != nil || p.MaxLag != want {
			t.Errorf("%q: %d, %v; want %d", value, p.MaxLag, err, want)
		}
	}
}

func TestContradicts(t *testing.T) {
	c, err := Load([]string{"INTERREX_POLICY_LEASE=5s", "INTERREX_POLICY_HANG=4s"})
	if err != nil {
		t.Fatal(err)
	}
	log := events.DefaultPolicy()
	log.Hang, log.StartTimeout = c.Policy.Hang, events.Duration(time.Hour) // start_timeout was changed in the log, no variable speaks of it
	err = c.Contradicts(log)
	if err == nil || strings.Count(err.Error(), "\n") != 0 {
		t.Fatalf("want one contradiction, got %v", err)
	}
	for _, part := range []string{"INTERREX_POLICY_LEASE=5s", "lease=3s", "policy set lease=5s"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
	if err := c.Contradicts(c.Policy); err != nil {
		t.Errorf("the same policy: %v", err)
	}
}

// TestTableIsComplete: every variable has a type, a meaning and a row in the
// page, and every row can be read back by Load.
func TestTableIsComplete(t *testing.T) {
	page := Markdown()
	seen := map[string]bool{}
	for _, v := range Variables() {
		if v.Type == "" || v.Meaning == "" || seen[v.Name] {
			t.Errorf("%s: type %q, meaning %q, there before: %v", v.Name, v.Type, v.Meaning, seen[v.Name])
		}
		seen[v.Name] = true
		if strings.Count(page, fmt.Sprintf("| `%s` |", v.Name)) != 1 {
			t.Errorf("%s stands not once in the page", v.Name)
		}
		var f findings
		f.unknown(map[string]string{strings.Replace(v.Name, "<id>", "0", 1): "x"})
		if err := f.join(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"INTERREX_DIR", "INTERREX_CLUSTER", "INTERREX_LOG_UNSAFE_SYNC", "INTERREX_NODE_<id>_DATA_DIRECTORY", "INTERREX_POLICY_LEASE"} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("INTERREX_NODE_0_PORT", "5432")
	f.Add("INTERREX_NODE_-1_PORT", "")
	f.Add("INTERREX_POLICY_MAX_LAG", "9999999999999999999TB")
	f.Add("INTERREX_NODE_99999999999999999999_HOST", "h")
	f.Fuzz(func(t *testing.T, name, value string) {
		c, err := Load([]string{name + "=" + value, "INTERREX_NODE_0_DATA_DIRECTORY=/a"})
		if err == nil && c.Policy.Check() != nil {
			t.Errorf("%s=%q was accepted with a policy that breaks its inequalities", name, value)
		}
	})
}
