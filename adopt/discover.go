package adopt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/config"
)

// place is what the file system and the process table say of a node.
type place struct {
	version int    // PG_VERSION
	owner   uint32 // uid of the data directory
	pid     int    // of the running postmaster, 0 when there is none
	started string // when it began, as postmaster.pid says
	port    int    // postmaster.pid, 0 when not running
	socket  string // socket directory, empty when not running or without
	args    []string
	free    uint64 // bytes that a new directory beside the data directory could use
	mount   bool   // the data directory is a mount point
	walLink bool   // pg_wal is a symbolic link
}

// Discover fills in what the environment left open: port and configuration file
// of the running server, else of its configuration; the directory of its
// programs; the unit that starts it. What was given stays as it is. It is an
// error when the data directory is none, or may not be read.
func Discover(ctx context.Context, n config.Node) (config.Node, error) {
	found, _, err := thisHost().discover(ctx, n)
	return found, err
}

func (h host) discover(ctx context.Context, n config.Node) (config.Node, place, error) {
	p, err := h.inspect(n.DataDirectory)
	if err != nil {
		return n, p, err
	}
	if n.BinDirectory == "" {
		n.BinDirectory = h.binDirectory(p)
	}
	if n.ConfigFile == "" {
		n.ConfigFile = h.configFile(n, p)
	}
	if n.Port == 0 {
		n.Port = p.port
	}
	if n.Port == 0 {
		n.Port = h.configuredPort(ctx, n)
	}
	if n.Service == "" {
		n.Service = h.service(n, p)
	}
	return n, p, nil
}

// inspect reads the data directory and finds the postmaster that holds it.
func (h host) inspect(dir string) (place, error) {
	var p place
	raw, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, fmt.Errorf("%s is no data directory: it has no file PG_VERSION; set DATA_DIRECTORY to what \"SHOW data_directory\" says", dir)
	case errors.Is(err, fs.ErrPermission):
		return p, fmt.Errorf("%s may not be read by this user; run interrex as root or as the owner of the directory", dir)
	case err != nil:
		return p, fmt.Errorf("reading %s/PG_VERSION: %w", dir, err)
	}
	if p.version, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil {
		return p, fmt.Errorf("%s holds a PostgreSQL of version %q; versions %d to %d are supported", dir, strings.TrimSpace(string(raw)), Oldest, Newest)
	}
	if err := p.statDirectory(dir); err != nil {
		return p, err
	}
	if info, err := os.Lstat(filepath.Join(dir, "pg_wal")); err == nil {
		p.walLink = info.Mode()&fs.ModeSymlink != 0
	}
	h.postmaster(dir, &p)
	return p, nil
}

// postmaster reads postmaster.pid and believes it only when that process is a
// PostgreSQL that works in the directory: the file outlives a crash.
func (h host) postmaster(dir string, p *place) {
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return
	}
	lines := strings.Split(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 || !h.worksIn(pid, dir) {
		return
	}
	p.pid = pid
	if len(lines) > 2 {
		p.started = strings.TrimSpace(lines[2])
	}
	if cmdline, err := os.ReadFile(filepath.Join(h.proc, strconv.Itoa(pid), "cmdline")); err == nil {
		p.args = strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	}
	if len(lines) > 3 {
		p.port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
	}
	if len(lines) > 4 {
		p.socket = strings.TrimSpace(lines[4])
	}
}

// binDirectory is where the running postmaster's program lies, else where the
// version's package puts it, else what PATH finds; empty when nowhere.
func (h host) binDirectory(p place) string {
	if p.pid != 0 {
		if exe, err := os.Readlink(filepath.Join(h.proc, strconv.Itoa(p.pid), "exe")); err == nil {
			return filepath.Dir(strings.TrimSuffix(exe, " (deleted)")) // replaced by an upgrade: the new one stands at the same place
		}
		if len(p.args) > 0 && filepath.IsAbs(p.args[0]) {
			return filepath.Dir(p.args[0])
		}
	}
	dirs := []string{fmt.Sprintf("/usr/lib/postgresql/%d/bin", p.version), fmt.Sprintf("/usr/pgsql-%d/bin", p.version)}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		if info, err := os.Stat(filepath.Join(dir, "pg_ctl")); err == nil && !info.IsDir() {
			return dir
		}
	}
	return ""
}

// configFile is the one the running postmaster was started with, else the one
// of Debian's that names the data directory, else the directory's own.
func (h host) configFile(n config.Node, p place) string {
	for i, a := range p.args {
		for _, name := range []string{"config_file=", "config-file="} {
			a := strings.TrimPrefix(strings.TrimPrefix(a, "--"), "-c")
			if file, ok := strings.CutPrefix(a, name); ok && i > 0 && filepath.IsAbs(file) {
				return filepath.Clean(file)
			}
		}
	}
	own := filepath.Join(n.DataDirectory, "postgresql.conf")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	files, _ := filepath.Glob(filepath.Join(h.etc, "*", "*", "postgresql.conf")) // an error means a bad pattern
	for _, f := range files {
		if sameDirectory(settingIn(f, "data_directory"), n.DataDirectory) {
			return f
		}
	}
	return own
}

// configuredPort asks postgres itself, which follows includes; 5432 when it
// does not answer.
func (h host) configuredPort(ctx context.Context, n config.Node) int {
	out, err := h.run(ctx, n.BinDirectory+"/postgres", "-C", "port", "-D", n.DataDirectory, "--config-file="+n.ConfigFile)
	if port, bad := strconv.Atoi(strings.TrimSpace(out)); err == nil && bad == nil {
		return port
	}
	if port, err := strconv.Atoi(settingIn(n.ConfigFile, "port")); err == nil {
		return port
	}
	return 5432
}

var debianConfig = regexp.MustCompile(`/postgresql/([0-9]+)/([^/]+)/postgresql\.conf$`)

// debian takes /etc/postgresql/15/main/postgresql.conf apart.
func debian(configFile string) (version, name string, ok bool) {
	m := debianConfig.FindStringSubmatch(configFile)
	if m == nil {
		return "", "", false
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(configFile), "start.conf")); err != nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// service is the unit: Debian's for its own clusters, else the one whose
// control group the postmaster is in.
func (h host) service(n config.Node, p place) string {
	if version, name, ok := debian(n.ConfigFile); ok {
		return "postgresql@" + version + "-" + name
	}
	if p.pid == 0 {
		return ""
	}
	raw, err := os.ReadFile(filepath.Join(h.proc, strconv.Itoa(p.pid), "cgroup"))
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(raw), "\n") {
		unit, isService := strings.CutSuffix(filepath.Base(line), ".service")
		if isService && strings.Contains(line, "/system.slice/") && strings.Contains(unit, "postgres") {
			return unit
		}
	}
	return ""
}

// settingIn reads one setting from a configuration file, the last that stands
// there; it follows no includes.
func settingIn(file, name string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	value := ""
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		key := line
		if i := strings.IndexAny(line, "= \t"); i >= 0 {
			key = line[:i]
		}
		if !strings.EqualFold(key, name) {
			continue
		}
		value = unquote(strings.TrimLeft(line[len(key):], "= \t"))
	}
	return value
}

// unquote takes a value of a configuration file out of its quotes and off its
// comment.
func unquote(s string) string {
	if quoted, ok := strings.CutPrefix(s, "'"); ok {
		var b strings.Builder
		for i := 0; i < len(quoted); i++ {
			if quoted[i] == '\'' {
				if i+1 >= len(quoted) || quoted[i+1] != '\'' {
					break
				}
				i++
			}
			b.WriteByte(quoted[i])
		}
		return b.String()
	}
	s, _, _ = strings.Cut(s, "#")
	return strings.TrimSpace(s)
}

// sameDirectory compares two paths by what they lead to.
func sameDirectory(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}
