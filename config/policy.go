package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"

	"github.com/interrex-ha/interrex/events"
)

// PolicyFields returns the JSON names of the policy's fields, in their order.
func PolicyFields() []string {
	var out []string
	for f := range reflect.TypeFor[events.Policy]().Fields() {
		out = append(out, f.Tag.Get("json"))
	}
	return out
}

// SetPolicy sets one field of p by its JSON name, in the notation of the
// environment ("3s", "16MB"), and leaves p alone on an error. It does not check
// the inequalities between fields: Policy.Check does, once all are set.
func SetPolicy(p *events.Policy, field, value string) error {
	i := slices.Index(PolicyFields(), field)
	if i < 0 {
		return fmt.Errorf("policy: there is no %q; %s", field, didYouMean(field, PolicyFields()))
	}
	q := *p
	err := env.ParseWithOptions(&q, env.Options{
		TagName:     "json", // the policy's own names are the table
		Environment: map[string]string{field: value},
		FuncMap:     map[reflect.Type]env.ParserFunc{reflect.TypeFor[uint64](): parseBytes},
	})
	if err != nil || value == "" {
		return fmt.Errorf("policy: %s=%q: it must be %s", field, value, policyRight(reflect.TypeFor[events.Policy]().Field(i).Type))
	}
	*p = q
	return nil
}

// DiffPolicy names every field in which two policies differ, in their order.
func DiffPolicy(a, b events.Policy) []string {
	var out []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i, field := range PolicyFields() {
		if !va.Field(i).Equal(vb.Field(i)) {
			out = append(out, field)
		}
	}
	return out
}

// Contradicts returns an error that names every variable that wants another
// value than the policy in the log has, with both values; nil when none does.
func (c Config) Contradicts(inLog events.Policy) error {
	var errs []error
	want, has := reflect.ValueOf(c.Policy), reflect.ValueOf(inLog)
	differ := DiffPolicy(c.Policy, inLog)
	for i, field := range PolicyFields() {
		if !slices.Contains(c.PolicySet, field) || !slices.Contains(differ, field) {
			continue
		}
		errs = append(errs, fmt.Errorf("%s=%v, but the policy in the log says %s=%v; remove the variable, or change the log: interrex policy set %s=%v --reason …",
			policyVariable(field), want.Field(i), field, has.Field(i), field, want.Field(i)))
	}
	return errors.Join(errs...)
}

func (c *Config) policy(vars map[string]string, errs *findings) {
	c.Policy = events.DefaultPolicy()
	var names []string
	wrong := false
	for i, field := range PolicyFields() {
		name := policyVariable(field)
		value, set := vars[name]
		if !set {
			continue
		}
		c.PolicySet = append(c.PolicySet, field)
		names = append(names, name)
		if SetPolicy(&c.Policy, field, value) != nil {
			errs.add(name, value, "it must be "+policyRight(reflect.TypeFor[events.Policy]().Field(i).Type))
			wrong = true
		}
	}
	if wrong || len(names) == 0 {
		return // inequalities over values that were not read would mislead
	}
	if err := c.Policy.Check(); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			errs.say("%s: %s", strings.Join(blame(line, names), ", "), line)
		}
	}
}

// blame returns the variables whose fields an error names, or all of them.
func blame(line string, names []string) []string {
	words := strings.FieldsFunc(line, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z')
	})
	var out []string
	for _, n := range names {
		if slices.Contains(words, strings.ToLower(strings.TrimPrefix(n, Prefix+"POLICY_"))) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return names
	}
	return out
}

func parseBytes(s string) (any, error) { return events.ParseBytes(s) }
