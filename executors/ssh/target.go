package ssh

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"
)

// target is one login: the host itself, or one on the way to it.
type target struct {
	user, host, port string
	keyName          string   // that its key stands under in known_hosts: host and port, or HostKeyAlias
	keys             []string // files
	onlyKey          bool     // keys holds the one that was asked for, and it must work
	onlyKeys         bool     // no others of the agent
	agent            string   // its socket; empty: none
	known            []string // known_hosts files
}

func (t target) addr() string { return net.JoinHostPort(t.host, t.port) }

func (t target) String() string { return t.user + "@" + t.addr() }

// client is ssh's configuration.
type client struct {
	files []*ssh_config.Config
	home  string
	self  string // this process's account
}

func readConfig(file string) (client, error) {
	var c client
	home, err := os.UserHomeDir()
	if err == nil {
		c.home = home
	}
	if u, err := user.Current(); err == nil {
		c.self, c.home = u.Username, cmp.Or(c.home, u.HomeDir)
	}
	names, mayBeAbsent := []string{file}, false
	if file == "" {
		names, mayBeAbsent = []string{filepath.Join(c.home, ".ssh", "config"), "/etc/ssh/ssh_config"}, true
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && mayBeAbsent {
			continue
		}
		if err != nil {
			return c, fmt.Errorf("ssh's configuration: %w", err)
		}
		parsed, err := ssh_config.DecodeBytes(b)
		if err != nil {
			return c, fmt.Errorf("ssh's configuration %s: %w", name, err)
		}
		c.files = append(c.files, parsed)
	}
	return c, nil
}

// get is the first value of a setting, as ssh has it; all are all of them.
func (c client) get(alias, key string) (string, error) {
	for _, f := range c.files {
		if v, err := f.Get(alias, key); err != nil || v != "" {
			return v, err
		}
	}
	return "", nil
}

func (c client) all(alias, key string) (values []string, err error) {
	for _, f := range c.files {
		v, err := f.GetAll(alias, key)
		if err != nil {
			return nil, err
		}
		values = append(values, v...)
	}
	return values, nil
}

// settings reads several at once.
func (c client) settings(alias string, keys ...string) (map[string]string, error) {
	m := map[string]string{}
	for _, key := range keys {
		v, err := c.get(alias, key)
		if err != nil {
			return nil, fmt.Errorf("ssh's configuration of %s: %s: %w", alias, key, err)
		}
		m[key] = v
	}
	return m, nil
}

// route is the way to the host: the logins in the order in which they are made,
// the host's own at the end.
func (c client) route(o Options) ([]target, error) {
	return c.routeOf(o, nil)
}

func (c client) routeOf(o Options, seen []string) ([]target, error) {
	if slices.Contains(seen, o.Host) {
		return nil, fmt.Errorf("ssh's configuration: ProxyJump goes in a circle: %s through %s; except that host from it (Host * !%s)",
			strings.Join(seen, " through "), o.Host, o.Host)
	}
	s, err := c.settings(o.Host, "ProxyJump", "ProxyCommand")
	if err != nil {
		return nil, err
	}
	jump := s["ProxyJump"]
	if jump == "" && s["ProxyCommand"] != "" && s["ProxyCommand"] != "none" {
		return nil, fmt.Errorf("ssh's configuration of %s: ProxyCommand is not supported; use ProxyJump", o.Host)
	}
	last, err := c.target(o)
	if err != nil || jump == "" || jump == "none" {
		return []target{last}, err
	}
	var way []target
	for i, hop := range strings.Split(jump, ",") {
		h, err := parseHop(strings.TrimSpace(hop))
		if err != nil {
			return nil, fmt.Errorf("ssh's configuration of %s: ProxyJump: %w", o.Host, err)
		}
		if i == 0 { // only the first may itself be behind others
			way, err = c.routeOf(h, append(slices.Clone(seen), o.Host))
		} else {
			var t target
			t, err = c.target(h)
			way = append(way, t)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(way, last), nil
}

// parseHop takes [user@]host[:port] apart, or the same as an ssh:// URI.
func parseHop(s string) (o Options, err error) {
	rest := strings.TrimSuffix(strings.TrimPrefix(s, "ssh://"), "/")
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		o.User, rest = rest[:i], rest[i+1:]
	}
	o.Host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		o.Host = host
		if o.Port, err = strconv.Atoi(port); err != nil || o.Port < 1 || o.Port > 65535 {
			return o, fmt.Errorf("%q: the port is %q, expected a number from 1 to 65535", s, port)
		}
	}
	o.Host = strings.Trim(o.Host, "[]")
	if o.Host == "" {
		return o, fmt.Errorf("%q names no host", s)
	}
	return o, nil
}

// target resolves one login.
func (c client) target(o Options) (target, error) {
	s, err := c.settings(o.Host, "HostName", "User", "Port", "IdentitiesOnly", "IdentityAgent", "HostKeyAlias", "UserKnownHostsFile", "GlobalKnownHostsFile")
	if err != nil {
		return target{}, err
	}
	t := target{
		user: cmp.Or(o.User, s["User"], c.self),
		host: cmp.Or(strings.ReplaceAll(s["HostName"], "%h", o.Host), o.Host),
		port: cmp.Or(s["Port"], "22"),
	}
	if o.Port != 0 {
		t.port = strconv.Itoa(o.Port)
	}
	t.keyName = t.addr()
	if alias := s["HostKeyAlias"]; alias != "" {
		t.keyName = net.JoinHostPort(alias, "22")
	}
	expand := func(path string) string { return c.expand(path, o.Host, t) }
	t.agent = os.Getenv("SSH_AUTH_SOCK")
	if a := s["IdentityAgent"]; a == "none" {
		t.agent = ""
	} else if a != "" && a != "SSH_AUTH_SOCK" {
		t.agent = expand(os.ExpandEnv(a))
	}
	for _, list := range []string{
		cmp.Or(s["UserKnownHostsFile"], "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
		cmp.Or(s["GlobalKnownHostsFile"], "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
	} {
		for _, f := range strings.Fields(list) {
			if f != "none" {
				t.known = append(t.known, expand(strings.Trim(f, `"`)))
			}
		}
	}
	t.onlyKeys = s["IdentitiesOnly"] == "yes"
	if o.Key != "" {
		t.keys, t.onlyKey, t.onlyKeys = []string{o.Key}, true, true
		return t, nil
	}
	files, err := c.all(o.Host, "IdentityFile")
	if err != nil {
		return t, fmt.Errorf("ssh's configuration of %s: IdentityFile: %w", o.Host, err)
	}
	if len(files) == 0 {
		files = []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}
	}
	for _, f := range files {
		if f != "none" {
			t.keys = append(t.keys, expand(f))
		}
	}
	return t, nil
}

// expand replaces what ssh would in the name of a file.
func (c client) expand(path, alias string, t target) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(c.home, rest)
	}
	return strings.NewReplacer("%%", "%", "%h", t.host, "%n", alias, "%p", t.port, "%r", t.user, "%u", c.self, "%d", c.home).Replace(path)
}
