// Package ssh runs commands on another host, over a kept connection to its
// OpenSSH server.
package ssh

import (
	"errors"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/remote"
)

// Options say where a Runner's commands run. What is empty is taken from ssh's
// configuration, as the ssh program does.
type Options struct {
	Host   string // address, name, or alias of the configuration
	User   string // empty: the configuration's, else this process's account
	Port   int    // 0: the configuration's, else 22
	Key    string // file of the private key, and the only one that is offered; empty: the configuration's, the agent's, the usual files
	Config string // configuration file; empty: ~/.ssh/config and /etc/ssh/ssh_config
	// ConnectWithin bounds the making of a connection, all hops of it together; 0
	// means 10 s.
	ConnectWithin time.Duration
}

const connectWithin = 10 * time.Second

// ErrLost says that a connection was lost while a command ran: what has become
// of the command is not known. The next call connects anew.
var ErrLost = errors.New("connection lost")

// Runner is a host. It may be used by any number of goroutines; nothing is
// connected before the first use. One connection is kept, and more are made for
// as long as the server takes no further session on it (MaxSessions).
//
// A connection on which nothing was heard for 5 s, though the server was asked
// to answer, is closed within one more, and whatever runs on it ends with
// ErrLost.
//
// The host's key must stand in known_hosts; a key that does not, or another one,
// is an error, whatever StrictHostKeyChecking says. Of ssh's configuration these
// are honoured: Host, Match (without exec), Include, HostName, User, Port,
// IdentityFile, IdentitiesOnly, IdentityAgent, UserKnownHostsFile,
// GlobalKnownHostsFile, HostKeyAlias, ProxyJump. ProxyCommand is refused. There
// are no passwords: the login is by key.
type Runner struct {
	*remote.Runner
	pool *pool
}

var _ executors.Runner = (*Runner)(nil)

// New makes a Runner; it looks at nothing yet.
func New(o Options) *Runner {
	if o.ConnectWithin <= 0 {
		o.ConnectWithin = connectWithin
	}
	p := &pool{o: o}
	return &Runner{Runner: remote.New("ssh", &shell{pool: p}), pool: p}
}

// Close closes the connections; commands under way end with an error, and later
// calls as well. It does not end what they run on the host.
func (r *Runner) Close() error {
	r.pool.close()
	return nil
}
