package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
)

var update = flag.Bool("update", false, "write missing testdata/<kind>.json; existing ones are never changed: they are the contract")

// fresh decodes an empty body of a kind, to have a value of its type.
func fresh(t testing.TB, kind string) events.Data {
	t.Helper()
	d, err := events.Decode(kind, 1, "", "", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, unknown := d.(events.Unknown); unknown {
		t.Fatalf("kind %s is unknown", kind)
	}
	return d
}

// full returns data of a kind with every field set to something of its own.
func full(t testing.TB, kind string) events.Data {
	t.Helper()
	v := reflect.New(reflect.TypeOf(fresh(t, kind))).Elem()
	n := 0
	set(t, v, "", &n)
	return v.Interface().(events.Data)
}

func set(t testing.TB, v reflect.Value, name string, n *int) {
	t.Helper()
	*n++
	switch v.Interface().(type) {
	case events.Duration:
		v.SetInt(int64(time.Duration(*n) * 100 * time.Millisecond))
		return
	case events.LSN:
		v.SetUint(0x3_0000_0000 + uint64(*n))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			set(t, v.Field(i), strings.ToLower(v.Type().Field(i).Name), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		set(t, v.Elem(), name, n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			set(t, v.Index(i), name, n)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{name: "a", name + "2": "<b>"}))
	case reflect.String:
		v.SetString(name + "-" + string(rune('a'+*n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		t.Fatalf("field %s has kind %s: teach set() to fill it", name, v.Kind())
	}
}

// unset lists the fields that have their zero value.
func unset(v reflect.Value, path string) []string {
	var out []string
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			out = append(out, unset(v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
		return out
	case reflect.Pointer:
		if !v.IsNil() {
			return unset(v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, unset(v.Index(i), path)...)
		}
	}
	if v.IsZero() {
		out = append(out, path)
	}
	return out
}

// TestGolden: the samples in testdata are what this and every later release
// must read, and write again byte for byte. A kind that has gained fields has a
// second one, KIND-2.json, that sets them.
func TestGolden(t *testing.T) {
	for _, kind := range events.Kinds() {
		path := filepath.Join("testdata", kind+".json")
		if _, err := os.Stat(path); os.IsNotExist(err) && *update {
			writeGolden(t, path, full(t, kind))
		}
		missing := readGolden(t, kind, path)
		more, err := filepath.Glob(filepath.Join("testdata", kind+"-[2-9].json")) // for fields that came later
		if err != nil {
			t.Fatal(err)
		}
		for _, second := range more {
			there := readGolden(t, kind, second)
			missing = slices.DeleteFunc(missing, func(f string) bool { return !slices.Contains(there, f) })
		}
		if len(missing) > 0 {
			t.Errorf("%s does not set %v: add the new fields, by hand, to a second sample, %s-2.json", path, missing, kind)
		}
	}
	files, err := filepath.Glob("testdata/*[a-z].json")
	if err != nil || len(files) != len(events.Kinds()) {
		t.Errorf("testdata holds %d samples (%v), there are %d kinds: a kind is never removed", len(files), err, len(events.Kinds()))
	}
}

// readGolden checks one sample and returns the fields that it does not set.
func readGolden(t *testing.T, kind, path string) []string {
	t.Helper()
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%v; run go test ./events -update for a new kind", err)
		return nil
	}
	d, err := events.Decode(kind, 1, "", "", golden)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return nil
	}
	again, err := events.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, golden); err != nil {
		t.Fatal(err)
	}
	if got := string(again); got != want.String() {
		t.Errorf("%s was read and written again as\n%s\nwant\n%s", path, got, want.String())
	}
	return unset(reflect.ValueOf(d), kind)
}

func writeGolden(t *testing.T, path string, d events.Data) {
	t.Helper()
	body, err := events.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, body, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestKindsAreWellFormed(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	types := map[reflect.Type]string{}
	for _, kind := range events.Kinds() {
		if !word.MatchString(kind) || seen[kind] {
			t.Errorf("kind %q must be a unique kebab-case name", kind)
		}
		seen[kind] = true
		d := full(t, kind)
		if d.Kind() != kind {
			t.Errorf("kind %s decodes to a type that calls itself %s", kind, d.Kind())
		}
		if other, taken := types[reflect.TypeOf(d)]; taken {
			t.Errorf("%s and %s are the same type", kind, other)
		}
		types[reflect.TypeOf(d)] = kind
		if !isClass(d.Class()) {
			t.Errorf("kind %s has class %q, which is not in Classes", kind, d.Class())
		}
		if d.Key() == "" {
			t.Errorf("kind %s with all fields set has no key", kind)
		}
		if events.VersionOf(kind) < 1 {
			t.Errorf("kind %s has version %d", kind, events.VersionOf(kind))
		}
		if d.Class() == events.ClassDecision && kind != "decided" {
			t.Errorf("kind %s: leases rest on decided being the only kind of class decision", kind)
		}
	}
	if events.VersionOf("no-such-kind") != 0 {
		t.Error("an unknown kind has a version")
	}
}

func isClass(c events.Class) bool {
	for _, known := range events.Classes {
		if c == known {
			return true
		}
	}
	return false
}

func TestClassesAreUnique(t *testing.T) {
	seen := map[events.Class]bool{}
	for _, c := range events.Classes {
		if seen[c] || events.CheckName(string(c)) != nil {
			t.Errorf("class %q must be unique and one subject token", c)
		}
		seen[c] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d classes; adding one changes every stored stream", len(seen))
	}
}

func TestDecodeUnknown(t *testing.T) {
	for _, c := range []struct {
		kind    string
		version int
	}{{"from-the-future", 1}, {"", 0}, {"heartbeat", 2}, {"decided", 99}} {
		d, err := events.Decode(c.kind, c.version, events.ClassHealth, "db1", []byte("anything"))
		u, ok := d.(events.Unknown)
		if err != nil || !ok || u.Kind() != c.kind || u.Version != c.version || u.Class() != events.ClassHealth || u.Key() != "db1" || u.Reason == "" {
			t.Errorf("%s/v%d decoded to %+v, %v; want unknown with a reason", c.kind, c.version, d, err)
		}
	}
	for _, body := range []string{"", "{", "[]", `"x"`, `{"node":5}`, `{"lsn":"nonsense"}`} {
		if d, err := events.Decode("heartbeat", 1, "", "", []byte(body)); err == nil || !strings.Contains(err.Error(), "heartbeat") {
			t.Errorf("body %q decoded to %+v, %v; want an error that names the kind", body, d, err)
		}
	}
	if d, err := events.Decode("heartbeat", 1, "", "", []byte(`{"node":"a","new_field":[1]}`)); err != nil || d.(events.Heartbeat).Node != "a" {
		t.Errorf("a field from a later release: %+v, %v; want it skipped", d, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, kind := range events.Kinds() {
		body, err := events.Encode(full(f, kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, 1, string(body))
		f.Add(kind, 1, "null")
	}
	f.Add("", -1, "{")
	f.Fuzz(func(t *testing.T, kind string, version int, body string) {
		d, err := events.Decode(kind, version, events.ClassHealth, "db1", []byte(body))
		if (err == nil) == (d == nil) {
			t.Fatalf("got %+v and %v", d, err)
		}
		if err != nil {
			return
		}
		if d.Kind() != kind {
			t.Fatalf("%q decoded to a %q", kind, d.Kind())
		}
		if _, unknown := d.(events.Unknown); unknown {
			return
		}
		once, err := events.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		again, err := events.Decode(kind, version, d.Class(), d.Key(), once)
		if err != nil {
			t.Fatalf("cannot read what was written: %v: %s", err, once)
		}
		if twice, _ := events.Encode(again); !bytes.Equal(once, twice) {
			t.Fatalf("not stable:\n%s\n%s", once, twice)
		}
	})
}

func TestExportImport(t *testing.T) {
	for i, kind := range events.Kinds() {
		d := full(t, kind)
		body, err := events.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		e := events.Event{
			Seq: uint64(i + 1), ID: "id", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Source: "agent/db1",
			Version: 1, Cause: 3, Data: d, Body: body,
		}
		line, err := json.Marshal(events.Export(e))
		if err != nil {
			t.Fatal(err)
		}
		var s events.Stored
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatal(err)
		}
		got, err := s.Import()
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s came back from its export as\n%+v, %v; want\n%+v", kind, got, err, e)
		}
		if e.Kind() != kind || (events.Event{}).Kind() != "" {
			t.Errorf("Kind of %s is %q", kind, e.Kind())
		}
	}
	if _, err := (events.Stored{Kind: "heartbeat", Version: 1, Data: []byte("[]")}).Import(); err == nil {
		t.Error("a broken line was imported")
	}
}
