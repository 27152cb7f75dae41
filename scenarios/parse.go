package scenarios

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// arg is one word of a step: name, or name=value. Value is JSON text when it
// begins with a quote, a brace or a bracket.
type arg struct {
	name, value string
	valued      bool
	column      int // of the word, from 1
}

// args are the words of a step after its first.
type args []arg

// stepError is an error at a place in a line.
type stepError struct {
	column int
	text   string
}

func (e stepError) Error() string { return fmt.Sprintf("column %d: %s", e.column, e.text) }

func wrong(column int, format string, a ...any) error {
	return stepError{column, fmt.Sprintf(format, a...)}
}

// words cuts a line at its spaces, but not inside JSON text.
func words(line string) (args, error) {
	var out args
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' {
			i++
			continue
		}
		end := i + strings.IndexAny(line[i:]+" ", " =")
		a := arg{name: line[i:end], column: i + 1}
		if end < len(line) && line[end] == '=' {
			value, err := valueAt(line, end+1)
			if err != nil {
				return nil, err
			}
			a.value, a.valued = value, true
			end += 1 + len(value)
		}
		if a.name == "" {
			return nil, wrong(i+1, "expected name=value before %q", line[i:])
		}
		out = append(out, a)
		i = end
	}
	return out, nil
}

// valueAt returns the value that begins at line[at]: JSON text whole, anything
// else up to the next space.
func valueAt(line string, at int) (string, error) {
	rest := line[at:]
	if rest == "" || !strings.ContainsRune(`"{[`, rune(rest[0])) {
		word, _, _ := strings.Cut(rest, " ")
		return word, nil
	}
	dec := json.NewDecoder(strings.NewReader(rest))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return "", wrong(at+1, "%q is not JSON text: %v", rest, err)
	}
	end := int(dec.InputOffset())
	if end < len(rest) && rest[end] != ' ' {
		return "", wrong(at+end+1, "a space must follow the JSON text, not %q", rest[end:])
	}
	return rest[:end], nil
}

// take removes the first word that has no value; what names it in the error.
func (a *args) take(after arg, what string) (string, error) {
	if len(*a) == 0 || (*a)[0].valued {
		return "", wrong(after.column, "%s needs %s", after.name, what)
	}
	w := (*a)[0].name
	*a = (*a)[1:]
	return w, nil
}

// pop removes an argument by name.
func (a *args) pop(name string) (string, bool) {
	for i, x := range *a {
		if x.name == name {
			*a = slices.Delete(slices.Clone(*a), i, i+1)
			return plain(x.value), true
		}
	}
	return "", false
}

// plain strips the quotes of a JSON string.
func plain(v string) string {
	var s string
	if strings.HasPrefix(v, `"`) && json.Unmarshal([]byte(v), &s) == nil {
		return s
	}
	return v
}

// fields lists the JSON names of a kind with their Go types, embedded ones
// included.
func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			for k, v := range fields(f.Type) {
				out[k] = v
			}
			continue
		}
		out[name] = f.Type
	}
	return out
}

var textual = reflect.TypeFor[encoding.TextUnmarshaler]()

// asJSON reads an argument as a value of the type.
func asJSON(t reflect.Type, a arg) (json.RawMessage, error) {
	raw := a.value
	switch {
	case !a.valued && t.Kind() == reflect.Bool:
		raw = "true"
	case !a.valued:
		return nil, wrong(a.column, "%s needs a value: %s=…", a.name, a.name)
	case strings.HasPrefix(raw, `"`), strings.HasPrefix(raw, "{"), strings.HasPrefix(raw, "["):
	case t.Kind() == reflect.String, reflect.PointerTo(t).Implements(textual):
		quoted, err := json.Marshal(raw)
		if err != nil {
			return nil, wrong(a.column, "%s=%s: %v", a.name, raw, err)
		}
		raw = string(quoted)
	}
	if err := json.Unmarshal([]byte(raw), reflect.New(t).Interface()); err != nil {
		return nil, wrong(a.column, "%s=%s is no %s: %v", a.name, a.value, t, err)
	}
	return json.RawMessage(raw), nil
}

// with returns d with the fields that the arguments name.
func with(d events.Data, a args) (events.Data, error) {
	body, err := patched(d, d.Kind(), a)
	if err != nil {
		return nil, err
	}
	return events.Decode(d.Kind(), events.VersionOf(d.Kind()), d.Class(), d.Key(), body)
}

// patched returns the JSON of v with the fields that the arguments name; what
// names v in the error.
func patched(v any, what string, a args) (json.RawMessage, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	known := fields(reflect.TypeOf(v))
	for _, x := range a {
		t, ok := known[x.name]
		if !ok {
			return nil, wrong(x.column, "unknown field %q; %s has: %s", x.name, what, strings.Join(sorted(known), " "))
		}
		if all[x.name], err = asJSON(t, x); err != nil {
			return nil, err
		}
	}
	return json.Marshal(all)
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
