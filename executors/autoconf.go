package executors

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// setting is one line of a configuration file.
type setting struct{ name, value string }

const autoConf = "postgresql.auto.conf"

// endsRecovery are the settings that end a standby's recovery by themselves. They
// may be left over from a restore, or from another tool's failover; a primary
// does not look at them.
var endsRecovery = []string{"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid", "promote_trigger_file"}

// mergeAutoConf sets some settings of a postgresql.auto.conf and removes others;
// every other line is kept as it is.
func mergeAutoConf(old string, set []setting, unset []string) string {
	var out strings.Builder
	for line := range strings.Lines(old) {
		name := settingName(line)
		replaced := slices.ContainsFunc(set, func(s setting) bool { return s.name == name })
		if name == "" || !replaced && !slices.Contains(unset, name) {
			out.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		}
	}
	for _, s := range set {
		fmt.Fprintf(&out, "%s = %s\n", s.name, quoteConf(s.value))
	}
	return out.String()
}

// settingName returns the lower-case name that a line sets, empty for a comment.
func settingName(line string) string {
	line = strings.TrimSpace(line)
	if i := strings.IndexAny(line, " \t=#"); i >= 0 {
		line = line[:i]
	}
	return strings.ToLower(line)
}

// quoteConf quotes a value as guc-file.l reads it back: doubled quotes, and
// backslash escapes.
func quoteConf(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`).Replace(v) + "'"
}

// ownFiles are what makes a node this node: its configuration and its keys. A
// copy of another node brings that node's.
func ownFile(name string) bool {
	return slices.Contains([]string{".conf", ".crt", ".key", ".pem", ".crl"}, filepath.Ext(name))
}

// configuration is what a node keeps while its data directory is replaced: paths
// relative to the data directory.
type configuration map[string]ownedFile

type ownedFile struct {
	data []byte
	mode fs.FileMode
}

// readConfiguration reads the node's own files in a data directory, and those
// in its conf.d; none when the directory does not exist.
func readConfiguration(dir string) (configuration, error) {
	out := configuration{}
	for _, sub := range []string{"", "conf.d"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the node's configuration: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() || !ownFile(e.Name()) {
				continue
			}
			name := filepath.Join(sub, e.Name())
			info, err := os.Stat(filepath.Join(dir, name)) // links are followed: Debian links its keys
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return nil, fmt.Errorf("read the node's configuration: %w", err)
			}
			mode := info.Mode().Perm()
			if filepath.Ext(name) == ".key" {
				mode &^= 0o077 // what root owned may be read by a group, what the server owns may not
			}
			out[name] = ownedFile{data, mode}
		}
	}
	return out, nil
}

// write puts the files into a directory, each durably.
func (c configuration) write(ctx context.Context, r Runner, dir string) error {
	for name, f := range c {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("write the node's configuration: %w", err)
		}
		if err := r.WriteFile(ctx, path, f.data, f.mode); err != nil {
			return fmt.Errorf("write the node's configuration: %w", err)
		}
	}
	return nil
}

// confComplete is written last: a saved configuration without it is none.
const confComplete = ".complete"

// saveConfiguration keeps the node's files outside a directory that is about
// to be overwritten by another node's.
func saveConfiguration(ctx context.Context, r Runner, to string, c configuration) error {
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("save the node's configuration: %w", err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("save the node's configuration: %w", err)
	}
	if err := c.write(ctx, r, to); err != nil {
		return err
	}
	return r.WriteFile(ctx, filepath.Join(to, confComplete), nil, 0o600)
}

// loadConfiguration returns what saveConfiguration completed; nil when nothing.
func loadConfiguration(from string) (configuration, error) {
	if _, err := os.Stat(filepath.Join(from, confComplete)); err != nil {
		return nil, nil
	}
	return readConfiguration(from)
}

// configureStandby turns the data directory dir into one that can only start as
// a standby.
func configureStandby(ctx context.Context, p Postgres, dir string, set []setting) error {
	p.DataDir = dir
	if err := editAutoConf(ctx, p, set, endsRecovery); err != nil {
		return err
	}
	if err := readOnly(ctx, p); err != nil {
		return err
	}
	return p.Runner.Remove(ctx, filepath.Join(dir, "recovery.signal"))
}

func editAutoConf(ctx context.Context, p Postgres, set []setting, unset []string) error {
	name := filepath.Join(p.DataDir, autoConf)
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", autoConf, err)
	}
	if err := p.Runner.WriteFile(ctx, name, []byte(mergeAutoConf(string(old), set, unset)), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", autoConf, err)
	}
	return nil
}

// readOnly makes sure that whoever starts the server starts a standby, and one
// that does not promote itself: what would end its recovery is made void in
// postgresql.auto.conf, which wins.
func readOnly(ctx context.Context, p Postgres) error {
	if err := p.Runner.WriteFile(ctx, standbySignal(p), nil, 0o600); err != nil {
		return fmt.Errorf("write standby.signal: %w", err)
	}
	armed, err := armedSettings(p)
	if err != nil || len(armed) == 0 {
		return err
	}
	return editAutoConf(ctx, p, armed, nil)
}

// armedSettings returns those of endsRecovery that have a value, with an empty
// one. It knows the configuration file, the conf.d beside it, which is Debian's,
// and postgresql.auto.conf; not what else they include.
func armedSettings(p Postgres) ([]setting, error) {
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(p.Configuration()), "conf.d", "*.conf")) // fails only for a bad pattern
	files = append(append([]string{p.Configuration()}, files...), filepath.Join(p.DataDir, autoConf))
	armed := map[string]bool{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for settings that end a recovery: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			name := settingName(line)
			if slices.Contains(endsRecovery, name) {
				value := strings.TrimLeft(strings.TrimSpace(line)[len(name):], " \t=")
				armed[name] = value != "" && !strings.HasPrefix(value, "''")
			}
		}
	}
	var set []setting
	for _, name := range endsRecovery {
		if armed[name] {
			set = append(set, setting{name, ""})
		}
	}
	return set, nil
}

// placeSettings are what must differ from the upstream's even where the node
// has no configuration of its own.
func placeSettings(p Postgres) []setting {
	var set []setting
	if p.Port != 0 {
		set = append(set, setting{"port", strconv.Itoa(p.Port)})
	}
	if p.SocketDir != "" {
		set = append(set, setting{"unix_socket_directories", p.SocketDir})
	}
	return set
}
