package adopt

import (
	"cmp"
	"io"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/docker"
	"github.com/interrex-ha/interrex/executors/ssh"
)

// link is a runner that keeps a connection.
type link interface {
	executors.Runner
	io.Closer
}

// reach is the runner of a node whose place is not this host. It connects to
// nothing yet.
func reach(n config.Node) link {
	if n.Executor == config.ExecutorDocker {
		return docker.New(docker.Options{Container: n.Container, User: cmp.Or(n.ContainerUser, "postgres")})
	}
	return ssh.New(ssh.Options{Host: cmp.Or(n.SSHHost, n.Host), User: n.SSHUser, Port: n.SSHPort, Key: n.SSHKey, Config: n.SSHConfig})
}
