package ssh_test

import (
	"os"
	"os/user"
	"testing"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/executortest"
	"github.com/interrex-ha/interrex/executors/ssh"
	"github.com/interrex-ha/interrex/internal/sshdtest"
)

// login is the account that the tests log in as: a service user, as in practice,
// where they may choose.
func login(t *testing.T) string {
	t.Helper()
	if os.Geteuid() == 0 {
		return "postgres"
	}
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

func TestSuite(t *testing.T) {
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	r := ssh.New(ssh.Options{Host: "127.0.0.1", User: login(t), Port: s.Port, Key: w.Key, Config: w.ClientConfig})
	t.Cleanup(func() { _ = r.Close() })
	executortest.Suite(t, func(*testing.T) executors.Runner { return r })
}
