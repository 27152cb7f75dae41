// Package sshdtest starts real OpenSSH servers on loopback for tests. It is for
// tests only.
package sshdtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is where Debian puts the server; it wants to be called by its full path.
const program = "/usr/sbin/sshd"

// World is a set of servers with the files that a client needs to reach them.
// Everything lies in a directory that every user may enter, and ends with the
// test.
type World struct {
	ClientConfig string // for ssh -F: knows the servers' keys
	KnownHosts   string // the file of those keys
	Key          string // private key of the user, who owns it
	dir          string
	uid, gid     int
}

// New makes the files for logging in as a user of this host. Without a server it
// leaves the test out with a word; in CI it fails.
func New(t *testing.T, user string) *World {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("ssh cannot be tested on a real server: %v; run scripts/setup.sh sshd", err)
		}
		t.Skipf("NOT TESTED over real ssh: %v; run scripts/setup.sh sshd", err)
	}
	u, err := osuser.Lookup(user)
	if err != nil {
		t.Fatal(err)
	}
	w := &World{dir: publicDir(t)}
	if w.uid, err = strconv.Atoi(u.Uid); err == nil {
		w.gid, err = strconv.Atoi(u.Gid)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Key, w.KnownHosts, w.ClientConfig = filepath.Join(w.dir, "id"), filepath.Join(w.dir, "known_hosts"), filepath.Join(w.dir, "config")
	keygen(t, w.Key)
	w.give(t, w.Key)
	write(t, w.ClientConfig, "UserKnownHostsFile "+w.KnownHosts+"\nGlobalKnownHostsFile /dev/null\n", 0o644)
	write(t, w.KnownHosts, "", 0o644)
	return w
}

// Config is another configuration for ssh -F, with what it says alone.
func Config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(publicDir(t), "config")
	write(t, path, text, 0o644)
	return path
}

// Script is a shell script that every user may run.
func (w *World) Script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	write(t, path, "#!/bin/bash\nset -eu\n"+text, 0o755)
	if err := os.Chmod(path, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// publicDir is a directory that every user may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ixssh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func keygen(t *testing.T, path string) {
	t.Helper()
	_ = os.Remove(path)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

func (w *World) give(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, w.uid, w.gid); err != nil {
		t.Fatal(err)
	}
}

// StrangersKey is a key that no server accepts, readable for everybody.
func (w *World) StrangersKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(publicDir(t), "stranger")
	keygen(t, path)
	w.give(t, path)
	return path
}

// EncryptedKey is the user's key once more, in a file that a passphrase protects.
func (w *World) EncryptedKey(t *testing.T, passphrase string) string {
	t.Helper()
	path := filepath.Join(publicDir(t), "encrypted")
	key, err := os.ReadFile(w.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(key), 0o600)
	if out, err := exec.Command("ssh-keygen", "-q", "-p", "-N", passphrase, "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return path
}

// Agent starts an ssh-agent that holds the user's key, and returns its socket.
func (w *World) Agent(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(publicDir(t), "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(30 * time.Second); ; {
		add := exec.Command("ssh-add", "-q", w.Key)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		out, err := add.CombinedOutput()
		if err == nil {
			return socket
		}
		if time.Now().After(end) {
			t.Fatalf("ssh-add: %v\n%s", err, out)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Server is one sshd.
type Server struct {
	Port int
	w    *World
	dir  string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// Serve starts a server that the client's configuration knows; settings are
// further lines of the server's own ("MaxSessions 1").
func (w *World) Serve(t *testing.T, settings ...string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp(w.dir, "server")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{w: w, dir: dir, Port: l.Addr().(*net.TCPAddr).Port}
	_ = l.Close()
	keygen(t, s.hostKey())
	s.KnownAt(t, s.Port)
	public, err := os.ReadFile(w.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "authorized_keys"), string(public), 0o644)
	write(t, filepath.Join(dir, "config"), fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM yes
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
%s
`, s.Port, s.hostKey(), filepath.Join(dir, "authorized_keys"), strings.Join(settings, "\n")), 0o644)
	s.Start(t)
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("sshd on port %d said:\n%s", s.Port, s.log.String())
		}
	})
	return s
}

func (s *Server) hostKey() string { return filepath.Join(s.dir, "host_key") }

// KnownAt has the client's configuration know the server's key at a port of this
// host: its own, or that of something that stands before it.
func (s *Server) KnownAt(t *testing.T, port int) {
	t.Helper()
	public, err := os.ReadFile(s.hostKey() + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile(s.w.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.w.KnownHosts, fmt.Sprintf("%s[127.0.0.1]:%d %s", known, port, public), 0o644)
}

// ChangeHostKey starts the server anew with another key, which no client knows.
func (s *Server) ChangeHostKey(t *testing.T) {
	t.Helper()
	s.Stop(t)
	keygen(t, s.hostKey())
	s.Start(t)
}

// Start starts it and returns when it listens.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // the server insists on it
			t.Fatal(err)
		}
	}
	s.cmd = exec.Command(program, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.WaitDelay = time.Second
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("sshd does not listen on port %d: %v", s.Port, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Stop kills the server and every connection of it: as if the host's network was
// taken away, but noticed at once.
func (s *Server) Stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	for _, pid := range descendants(s.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = s.cmd.Wait()
	s.cmd = nil
}

// descendants are the listener and the processes of its connections (sshd's own
// only: what they run is another session).
func descendants(pid int) []int {
	all := []int{pid}
	out, err := exec.Command("ps", "-o", "pid=,comm=", "--ppid", strconv.Itoa(pid)).Output()
	if err != nil {
		return all // none
	}
	for _, line := range bytes.Split(out, []byte("\n")) {
		var child int
		var name string
		if n, _ := fmt.Sscan(string(line), &child, &name); n == 2 && name == "sshd" {
			all = append(all, descendants(child)...)
		}
	}
	return all
}
