// Package house keeps the import rules of this repository: imports point down,
// never sideways, and the core cannot reach the world. golangci-lint's depguard
// says the same about single files while they are written; the test of this
// package follows imports through other packages, where depguard cannot see,
// and shows the way by which a forbidden one is reached.
//
// Only code that is built into a program is judged; tests may import anything.
package house

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Module is the path that every package of this repository begins with.
const Module = "github.com/interrex-ha/interrex/"

// Rule forbids packages to import others, and says why.
type Rule struct {
	Packages string   // regular expression over the path below Module, anchored at both ends
	Direct   bool     // only imports of these packages themselves count, not what those import in turn
	Only     []string // when set: everything else outside the standard library is forbidden
	Never    []string // path prefixes by whole elements; a trailing "$" means this package alone
	Except   string   // regular expression of packages of this module that the rule passes over
	Why      string
}

// Graph holds the direct imports of each package.
type Graph map[string][]string

// Break is one way from a package to an import that a rule forbids it.
type Break struct {
	Rule Rule
	Path []string // from the package to the forbidden import
}

func (b Break) String() string {
	short := make([]string, len(b.Path))
	for i, p := range b.Path {
		short[i] = strings.TrimPrefix(p, Module)
	}
	return fmt.Sprintf("%s must not import %s: %s (%s)", short[0], short[len(short)-1], b.Rule.Why, strings.Join(short, " imports "))
}

// Check returns every break of the rules, one for each pair of package and
// forbidden import, sorted. A rule about packages that do not exist is kept.
func Check(g Graph, rules []Rule) []Break {
	var out []Break
	for _, r := range rules {
		about := regexp.MustCompile("^(" + r.Packages + ")$")
		except := regexp.MustCompile("^(" + r.Except + ")$")
		for _, p := range sortedKeys(g) {
			name, ours := strings.CutPrefix(p, Module)
			if ours && about.MatchString(name) && !except.MatchString(name) {
				out = append(out, r.breaks(g, p)...)
			}
		}
	}
	return out
}

// breaks walks from one package, nearest imports first, and does not go on
// behind a forbidden one: what lies there is that package's affair.
func (r Rule) breaks(g Graph, from string) []Break {
	type step struct{ path []string }
	var out []Break
	seen := map[string]bool{from: true}
	queue := []step{{[]string{from}}}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		last := at.path[len(at.path)-1]
		if len(at.path) > 1 && (r.Direct || standard(last)) {
			continue // the standard library reaches everything: only what is asked of it counts
		}
		imports := slices.Sorted(slices.Values(g[last]))
		for _, next := range imports {
			if seen[next] {
				continue
			}
			seen[next] = true
			way := append(slices.Clone(at.path), next)
			if r.forbids(next) {
				out = append(out, Break{Rule: r, Path: way})
				continue
			}
			queue = append(queue, step{way})
		}
	}
	return out
}

func (r Rule) forbids(path string) bool {
	if r.Only != nil && !standard(path) && !slices.ContainsFunc(r.Only, func(p string) bool { return matches(p, path) }) {
		return true
	}
	return slices.ContainsFunc(r.Never, func(p string) bool { return matches(p, path) })
}

// matches reads a pattern of Only or Never; "./" stands for this module.
func matches(pattern, path string) bool {
	pattern = strings.Replace(pattern, "./", Module, 1)
	if exact, ok := strings.CutSuffix(pattern, "$"); ok {
		return path == exact
	}
	return path == pattern || strings.HasPrefix(path, pattern+"/")
}

// standard reports whether a path belongs to the standard library: its first
// element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func sortedKeys(g Graph) []string {
	keys := make([]string, 0, len(g))
	for k := range g {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
