package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/agent"
	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/executors"
)

// Places in a container of this project's image.
const (
	mountedSecrets = "/run/secrets"          // by compose; mode and owner are those of the host's files
	ownSecrets     = "/run/interrex/secrets" // on a tmpfs: copies that the account may read, and nobody else
	accountName    = "postgres"
)

// lifeWait is how long a container waits for the one before it to end.
const lifeWait = 10 * time.Second

func newInContainerCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "in-container VERB [ARGUMENT…]",
		Short: "Begin a container of the project's image: secrets, account, then the verb",
		Long: `Reads the secrets that compose mounts, which are root's and not for others, goes
on as the account postgres, keeps copies of them on a tmpfs, and makes sure that
nothing of an earlier life of this container's volume is left.`,
		Hidden: true, Args: cobra.MinimumNArgs(1), DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return g.inContainer(args) },
	}
}

func (g *globals) inContainer(args []string) error {
	secrets, err := readSecrets(mountedSecrets)
	if err != nil {
		return err
	}
	account, err := user.Lookup(accountName)
	if err != nil {
		return fmt.Errorf("this is no container of the project's image: %w", err)
	}
	if os.Geteuid() == 0 {
		if err := become(account); err != nil {
			return err
		}
	}
	if err := keepSecrets(ownSecrets, secrets); err != nil {
		return err
	}
	dir := config.Dir("", os.Getenv)
	if err := beginLife(dir); err != nil {
		return err
	}
	if len(args) > 1 && args[0] == "agent" {
		if err := forgetEarlierLife(dir, args[1]); err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot go on as %s: %w", args[0], syscall.Exec(self, append([]string{"interrex"}, args...), os.Environ()))
}

func readSecrets(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the secrets that compose mounts: %w", err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("the secret %s cannot be read: %w; is it a file on the host? scripts/compose-secrets.sh makes them", e.Name(), err)
		}
	}
	return out, nil
}

func become(account *user.User) error {
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return err
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("setgroups: %w; the container needs the capabilities SETUID and SETGID", err)
	}
	if err := errors.Join(syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return fmt.Errorf("go on as %s: %w", account.Username, err)
	}
	return errors.Join(os.Setenv("HOME", account.HomeDir), os.Chdir("/"))
}

func keepSecrets(dir string, secrets map[string][]byte) error {
	if len(secrets) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory for the secrets (a tmpfs is expected at %s): %w", filepath.Dir(dir), err)
	}
	for name, content := range secrets {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("keep the secret %s: %w", name, err)
		}
	}
	return nil
}

// beginLife takes the volume for this life of the container. Every process from
// here on inherits the descriptor: the lock is free again when the last of them
// has ended, so that whoever has it knows that nothing of an earlier life, in
// another PID namespace that cannot be looked into, is left.
func beginLife(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // a verb that keeps nothing
	}
	path := filepath.Join(dir, "life.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("the container's volume: %w", err)
	}
	for end := time.Now().Add(lifeWait); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("another container uses the volume of %s (%s is locked): stop it first; each service needs a volume of its own", dir, path)
		}
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFD, 0) // no close-on-exec
	return err
}

// forgetEarlierLife removes what names processes of an earlier life by numbers
// that mean others now: PostgreSQL would not start over such a lock file, and
// nobody could prove from it that it is dead. The lock of beginLife has.
func forgetEarlierLife(dir, node string) error {
	t, err := (&globals{dir: dir}).partTopology()
	if err != nil {
		return err
	}
	if node, err = memberArg(t, node); err != nil {
		return err
	}
	data := t.Postgres(node).DataDir
	if exists(data) {
		left, err := executors.ProcessesOf(data)
		if err != nil || len(left) > 0 {
			return fmt.Errorf("a container begins, and %s is in use by %d processes: %w", data, len(left), err)
		}
	}
	for _, stale := range []string{filepath.Join(data, "postmaster.pid"), agent.LeasePath(nodeDir(dir, node))} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("what an earlier life of this container left: %w", err)
		}
	}
	return nil
}

func newComposeSecretsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compose-secrets DIR", Short: "Make the secrets of docker-compose.yml where they are missing", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return makeComposeSecrets(args[0]) },
	}
}

// makeComposeSecrets makes keys and passwords, mode 0600 in a directory 0700,
// and never replaces one: the volumes know the old ones.
func makeComposeSecrets(dir string) error {
	if err := natslog.EnsureKeys(dir); err != nil {
		return err
	}
	if token := filepath.Join(dir, "api.token"); !exists(token) {
		if err := os.WriteFile(token, []byte(newPassword()+"\n"), 0o600); err != nil {
			return err
		}
	}
	all := filepath.Join(dir, "pgpass")
	if exists(all) {
		return nil
	}
	app := "*:*:*:app:" + newPassword() + "\n"
	if err := os.WriteFile(filepath.Join(dir, "client.pgpass"), []byte(app), 0o600); err != nil {
		return err
	}
	return os.WriteFile(all, []byte("*:*:*:interrex:"+newPassword()+"\n"+app), 0o600) // the last: it stands for both
}
