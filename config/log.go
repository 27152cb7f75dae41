package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
)

// Log says where the log is, for the parts of a cluster that do not share a
// directory. Empty strings were not given.
type Log struct {
	Cluster string // DefaultCluster when not set; by LoadLog only

	URL     string // of a log that another process serves
	KeyFile string // the one key of this process
	Keys    string // directory of all keys
	TLSCA   string // that clients trust

	Listen  string // HOST:PORT
	TLSCert string
	TLSKey  string
}

// LoadLog reads the variables of the log alone: a command that only talks to it
// is not kept from doing so by a mistake in a node's variables.
func LoadLog(environ []string) (Log, error) {
	vars := ours(environ)
	var errs findings
	var g generalVariables
	parse(&g, Prefix, vars, &errs)
	l := g.log(&errs)
	l.Cluster = cmp.Or(g.Cluster, DefaultCluster)
	return l, errs.join()
}

func (g generalVariables) log(errs *findings) Log {
	l := Log{
		URL: g.LogURL, KeyFile: clean(g.LogKeyFile), Keys: clean(g.LogKeys), TLSCA: clean(g.LogTLSCA),
		Listen: g.LogListen, TLSCert: clean(g.LogTLSCert), TLSKey: clean(g.LogTLSKey),
	}
	for _, f := range []struct{ field, path string }{
		{"LOG_KEY_FILE", g.LogKeyFile}, {"LOG_KEYS", g.LogKeys}, {"LOG_TLS_CERT", g.LogTLSCert}, {"LOG_TLS_KEY", g.LogTLSKey}, {"LOG_TLS_CA", g.LogTLSCA},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			errs.add(Prefix+f.field, f.path, right(g, f.field)+": it begins with /")
		}
	}
	if l.URL != "" && checkLogURL(l.URL) != nil {
		errs.add(Prefix+"LOG_URL", l.URL, fmt.Sprintf("%s (%v)", right(g, "LOG_URL"), checkLogURL(l.URL)))
	}
	if l.Listen != "" {
		if _, port, err := net.SplitHostPort(l.Listen); err != nil || !isPort(port) {
			errs.add(Prefix+"LOG_LISTEN", l.Listen, right(g, "LOG_LISTEN"))
		}
	}
	if (l.TLSCert == "") != (l.TLSKey == "") {
		errs.say("%sLOG_TLS_CERT and %sLOG_TLS_KEY belong together: set both, or neither", Prefix, Prefix)
	}
	return l
}

func checkLogURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("it is no URL")
	case u.Scheme != "nats" && u.Scheme != "tls":
		return fmt.Errorf("it begins with %q", u.Scheme)
	case u.Hostname() == "" || !isPort(u.Port()):
		return fmt.Errorf("host or port is missing")
	case u.User != nil || u.Path != "":
		return fmt.Errorf("it names more than a host and a port")
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= 65535
}

func (c *Config) bootstrap(errs *findings) {
	if c.Bootstrap == "" || errs.join() != nil {
		return
	}
	if !slices.ContainsFunc(c.Nodes, func(n Node) bool { return n.Name == c.Bootstrap }) {
		errs.add(Prefix+"BOOTSTRAP", c.Bootstrap, "it must be the name of a node that the INTERREX_NODE_ variables describe")
	}
}
