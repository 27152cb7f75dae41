// Package lab makes a real PostgreSQL cluster on this host, feeds it, breaks it
// and measures what its clients feel. The demo, the benchmark, the drill and
// the tests stand on it. It knows nothing of Interrex's log, controller or
// agents: the same client and the same faults measure any failover tool.
package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The major versions of PostgreSQL that Interrex supports.
const (
	OldestVersion = 13
	NewestVersion = 18
)

// placesOfPostgreSQL are the bin directories of Debian's, Red Hat's, Homebrew's
// and PostgreSQL's own packages.
var placesOfPostgreSQL = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/usr/local/pgsql/bin",
}

// programs that a bin directory must hold to be of use.
var programs = []string{"postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_waldump"}

// FindBinDir returns the directory of the newest supported PostgreSQL server of
// this host and its major version: packages first, then what pg_config in PATH
// names. The error says what was found instead and which package to install.
func FindBinDir() (string, int, error) {
	var dirs []string
	for _, place := range placesOfPostgreSQL {
		found, err := filepath.Glob(place)
		if err != nil {
			return "", 0, fmt.Errorf("lab: look for PostgreSQL in %s: %w", place, err)
		}
		dirs = append(dirs, found...)
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	return newest(dirs)
}

// newest picks the newest supported server among directories.
func newest(dirs []string) (best string, version int, err error) {
	var refused []string
	for _, dir := range dirs {
		v, err := CheckBinDir(dir)
		if err != nil {
			refused = append(refused, err.Error())
			continue
		}
		if v > version {
			best, version = dir, v
		}
	}
	if best != "" {
		return best, version, nil
	}
	advice := "install the Debian package postgresql (apt-get install postgresql), or name its bin directory"
	if len(refused) == 0 {
		return "", 0, fmt.Errorf("lab: no PostgreSQL server found in %s or by pg_config in PATH: %s", strings.Join(placesOfPostgreSQL, ", "), advice)
	}
	return "", 0, fmt.Errorf("lab: no usable PostgreSQL server found: %s: %s", strings.Join(refused, "; "), advice)
}

// CheckBinDir returns the major version of the PostgreSQL in a bin directory.
// The error names a program that is missing, or the version when it is not
// supported.
func CheckBinDir(dir string) (int, error) {
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return 0, fmt.Errorf("%s has no program %s (the package postgresql, not only postgresql-client, has it)", dir, p)
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w", filepath.Join(dir, "postgres"), err)
	}
	v, err := majorVersion(string(out))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	if v < OldestVersion || v > NewestVersion {
		return 0, fmt.Errorf("%s is PostgreSQL %d; Interrex supports %d to %d", dir, v, OldestVersion, NewestVersion)
	}
	return v, nil
}

// majorVersion reads "postgres (PostgreSQL) 15.18 (Debian …)".
func majorVersion(s string) (int, error) {
	_, rest, ok := strings.Cut(s, "(PostgreSQL) ")
	digits := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = rest[:i]
	}
	v, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return 0, fmt.Errorf("the version %q is not like \"postgres (PostgreSQL) 15.18\"", strings.TrimSpace(s))
	}
	return v, nil
}
