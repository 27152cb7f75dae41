// Package unroot lets tests that need a real PostgreSQL run as root: the server
// refuses to, so the test binary executes itself again as another account. It
// is for tests only.
package unroot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Main is the body of a TestMain; it does not return. As an ordinary user it
// runs the tests. As root it copies the test binary to a fresh directory that
// everybody can read, executes it there as the account that Account names
// (same arguments, environment and working directory, HOME and TMPDIR in the
// fresh directory), and exits with its exit code. Results of such a run are not
// cached by go test, and -cpuprofile and its like do not survive it.
func Main(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	code, err := rerun()
	if err != nil {
		fmt.Fprintln(os.Stderr, "unroot:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// Account returns an unprivileged account of this host: the caller's own when
// it is not root, else postgres, else nobody. Home is what the password file
// says and need not exist.
func Account() (uid, gid uint32, home string, err error) {
	var u *user.User
	if os.Geteuid() != 0 {
		u, err = user.Current()
	} else if u, err = user.Lookup("postgres"); err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return 0, 0, "", fmt.Errorf("neither postgres nor nobody is an account of this host: %w", err)
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, "", fmt.Errorf("account %s has the uid %q, expected a number: %w", u.Username, u.Uid, err)
	}
	group, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return 0, 0, "", fmt.Errorf("account %s has the gid %q, expected a number: %w", u.Username, u.Gid, err)
	}
	return uint32(id), uint32(group), u.HomeDir, nil
}

func rerun() (code int, err error) {
	uid, gid, _, err := Account()
	if err != nil {
		return 0, err
	}
	home, err := prepare(int(uid), int(gid))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()

	args, bring := redirect(os.Args[1:], home)
	cmd := exec.Command(filepath.Join(home, "test"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+filepath.Join(home, "t"))
	cmd.SysProcAttr = endWithParent(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}})
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("run the test binary as uid %d: %w", uid, err)
	}
	if code = cmd.ProcessState.ExitCode(); code < 0 {
		fmt.Fprintln(os.Stderr, "unroot: the test binary ended by", cmd.ProcessState)
		code = 2
	}
	return code, bring()
}

// prepare makes the directory that the account owns, with the test binary and
// a short TMPDIR in it: socket paths are limited to about 100 bytes.
func prepare(uid, gid int) (string, error) {
	home, err := os.MkdirTemp("", "ix")
	if err != nil {
		return "", fmt.Errorf("make a directory for the tests: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the test binary: %w", err)
	}
	if err := copyFile(filepath.Join(home, "test"), self, 0o755); err != nil {
		return "", err
	}
	tmp := filepath.Join(home, "t")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", fmt.Errorf("make a temporary directory for the tests: %w", err)
	}
	for _, dir := range []string{home, tmp} {
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid)); err != nil {
			return "", fmt.Errorf("give %s to uid %d: %w", dir, uid, err)
		}
	}
	return home, nil
}

// redirect leads the files that go test asks for, in a directory that only root
// can write, to the fresh one; bring copies the coverage back.
func redirect(args []string, home string) (out []string, bring func() error) {
	bring = func() error { return nil }
	for _, a := range args {
		name, value, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch name {
		case "test.testlogfile":
			continue // only for go test's cache, which has no use for these results
		case "test.gocoverdir":
			a = "-test.gocoverdir=" + filepath.Join(home, "t")
		case "test.coverprofile":
			here := filepath.Join(home, "t", "cover.out")
			a, bring = "-test.coverprofile="+here, func() error { return copyFile(value, here, 0o644) }
		}
		out = append(out, a)
	}
	return out, bring
}

func copyFile(to, from string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}
