package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// findings collects everything that is wrong, so that it is all said at once.
type findings struct {
	errs  []error
	named map[string]bool // variables with a finding of their own
}

func (f *findings) say(format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf(format, args...))
}

// add reports a variable, its value and what would be right.
func (f *findings) add(variable, value, right string) {
	if f.named == nil {
		f.named = map[string]bool{}
	}
	f.named[variable] = true
	f.say("%s=%q: %s", variable, value, right)
}

func (f *findings) has(variable string) bool { return f.named[variable] }

func (f *findings) join() error { return errors.Join(f.errs...) }

// parse fills into by its env tags. env's parse errors name only the Go field;
// the tags lead back to the variable.
func parse(into any, prefix string, vars map[string]string, errs *findings) {
	err := env.ParseWithOptions(into, env.Options{Prefix: prefix, Environment: vars})
	if err == nil {
		return
	}
	var all env.AggregateError
	if !errors.As(err, &all) {
		errs.say("%s*: %w", prefix, err)
		return
	}
	t := reflect.TypeOf(into).Elem()
	for _, e := range all.Errors {
		var pe env.ParseError
		field, ok := reflect.StructField{}, errors.As(e, &pe)
		if ok {
			field, ok = t.FieldByName(pe.Name)
		}
		if !ok {
			errs.say("%s*: %w", prefix, e)
			continue
		}
		name := prefix + field.Tag.Get("env")
		errs.add(name, vars[name], "it must be "+field.Tag.Get("right"))
	}
}

// right returns what a table says of a variable's value.
func right(table any, tag string) string {
	for f := range reflect.TypeOf(table).Fields() {
		if f.Tag.Get("env") == tag {
			return "it must be " + f.Tag.Get("right")
		}
	}
	return "it is not known"
}

// knownNames is Variables by name.
var knownNames = func() map[string]bool {
	all := map[string]bool{}
	for _, v := range Variables() {
		all[v.Name] = true
	}
	return all
}()

// known reports whether a name, with <id> for a number, is in the table.
func known(name string) bool { return knownNames[name] }

// unknown reports variables that nothing reads: a misspelt one would otherwise
// be ignored. Their values are not shown: they may be anything.
func (f *findings) unknown(vars map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		id, field, isNode := splitNode(name)
		switch {
		case known(name):
		case isNode && known(nodePrefix("<id>")+field):
		case isNode:
			f.say("%s: there is no such variable; %s", name, didYouMean(name, nodeNames(fmt.Sprint(id))))
		case strings.HasPrefix(name, Prefix+"NODE_"):
			f.say("%s: there is no such variable; a node's variables look like %s, with a number from 0 to %d", name, nodePrefix("0")+"PORT", MaxNodes-1)
		default:
			f.say("%s: there is no such variable; %s", name, didYouMean(name, slices.Sorted(maps.Keys(knownNames))))
		}
	}
}

func nodeNames(id string) []string {
	var out []string
	for f := range reflect.TypeFor[nodeVariables]().Fields() {
		out = append(out, nodePrefix(id)+f.Tag.Get("env"))
	}
	return out
}

// didYouMean names the nearest of the names there are.
func didYouMean(name string, names []string) string {
	best := slices.MinFunc(names, func(a, b string) int { return distance(name, a) - distance(name, b) })
	return fmt.Sprintf("did you mean %s?", best)
}

// distance is the number of letters to insert, remove or replace to get from a
// to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
