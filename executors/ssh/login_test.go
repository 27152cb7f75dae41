package ssh_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/ssh"
	"github.com/interrex-ha/interrex/internal/sshdtest"
)

// opened makes a Runner that is closed with the test.
func opened(t *testing.T, o ssh.Options) *ssh.Runner {
	t.Helper()
	r := ssh.New(o)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func at(t *testing.T, w *sshdtest.World, port int) ssh.Options {
	t.Helper()
	return ssh.Options{Host: "127.0.0.1", User: login(t), Port: port, Key: w.Key, Config: w.ClientConfig}
}

func hello(ctx context.Context, r *ssh.Runner) error {
	out, err := r.Run(ctx, executors.Command{Path: "echo", Args: []string{"hello"}, Timeout: 20 * time.Second})
	if err == nil && string(out.Stdout) != "hello\n" {
		err = fmt.Errorf("it printed %q", out.Stdout)
	}
	return err
}

// refused wants an error with all the words, and no connection.
func refused(t *testing.T, o ssh.Options, words ...string) {
	t.Helper()
	err := hello(t.Context(), opened(t, o))
	if err == nil {
		t.Fatalf("it ran; expected an error that says %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error says nothing of %q: %v", word, err)
		}
	}
	t.Log(err)
}

func config(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostKeys(t *testing.T) {
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	o := at(t, w, s.Port)

	unknown := o
	known := filepath.Join(t.TempDir(), "known")
	unknown.Config = config(t, "UserKnownHostsFile "+known, "GlobalKnownHostsFile /dev/null", "StrictHostKeyChecking no")
	refused(t, unknown, "known_hosts", "not known", fmt.Sprintf("127.0.0.1:%d", s.Port), known, "SHA256:", fmt.Sprintf("ssh-keyscan -p %d 127.0.0.1", s.Port))
	if _, err := os.Stat(known); err == nil {
		t.Error("a key was written to known_hosts")
	}

	r := opened(t, o)
	if err := hello(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s.ChangeHostKey(t)
	refused(t, o, "known_hosts", "changed", fmt.Sprintf("127.0.0.1:%d", s.Port), w.KnownHosts, "SHA256:", "ssh-keygen", "-R")
	if err := hello(t.Context(), r); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("the runner connected again to a server with another key: %v", err)
	}
	s.KnownAt(t, s.Port) // the old one stands there as well
	if err := hello(t.Context(), r); err != nil {
		t.Errorf("not after the key was made known: %v", err)
	}
}

func TestRefusedLogins(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	o := at(t, w, s.Port)
	with := func(change func(o *ssh.Options)) ssh.Options {
		c := o
		change(&c)
		return c
	}
	stranger, locked := w.StrangersKey(t), w.EncryptedKey(t, "open sesame")
	garbage := config(t, "no key")
	refused(t, with(func(o *ssh.Options) { o.Key = stranger }), login(t)+"@127.0.0.1", stranger, "SHA256:")
	refused(t, with(func(o *ssh.Options) { o.Key = "/nowhere/id" }), "/nowhere/id", "no such file")
	refused(t, with(func(o *ssh.Options) { o.Key = garbage }), garbage, "no private key")
	refused(t, with(func(o *ssh.Options) { o.Key = locked }), locked, "encrypted", "ssh-agent")
	refused(t, with(func(o *ssh.Options) { o.Host = "no-such-host.invalid" }), "no-such-host.invalid")
	refused(t, with(func(o *ssh.Options) { o.Config = "/nowhere/config" }), "/nowhere/config")
	refused(t, with(func(o *ssh.Options) { o.Config = config(t, "ProxyCommand nc %h %p") }), "ProxyCommand", "ProxyJump")
	refused(t, with(func(o *ssh.Options) { o.Config = config(t, "ProxyJump 127.0.0.1") }), "circle")
	refused(t, with(func(o *ssh.Options) { o.Config = config(t, "ProxyJump a:0") }), "a:0")
	noKeys := with(func(o *ssh.Options) { o.Key = ""; o.Config = config(t, "IdentityFile /nowhere/a") })
	refused(t, noKeys, "no key", "/nowhere/a")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := l.Addr().(*net.TCPAddr).Port // it accepts, and says nothing
	began := time.Now()
	refused(t, with(func(o *ssh.Options) { o.Port = silent; o.ConnectWithin = 300 * time.Millisecond }), fmt.Sprintf("127.0.0.1:%d", silent), "300ms", "no answer")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to give up", took)
	}
	r := opened(t, with(func(o *ssh.Options) { o.Port = silent }))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := hello(ctx, r); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connect to") {
		t.Errorf("the caller's own deadline: %v", err)
	}
	_ = l.Close()
	refused(t, with(func(o *ssh.Options) { o.Port = silent }), fmt.Sprintf("127.0.0.1:%d", silent), "refused")
}

func TestAgent(t *testing.T) {
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	socket := w.Agent(t)
	known := "UserKnownHostsFile " + w.KnownHosts
	locked, stranger := w.EncryptedKey(t, "open sesame"), w.StrangersKey(t)
	run := func(what string, o ssh.Options) {
		t.Helper()
		o.Host, o.User, o.Port = "127.0.0.1", login(t), s.Port
		if err := hello(t.Context(), opened(t, o)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	run("IdentityAgent", ssh.Options{Config: config(t, known, "IdentityAgent "+socket)})
	t.Setenv("SSH_AUTH_SOCK", socket)
	run("SSH_AUTH_SOCK", ssh.Options{Config: config(t, known)})
	run("an encrypted key that the agent holds", ssh.Options{Config: config(t, known, "IdentitiesOnly yes", "IdentityFile "+locked)})
	run("the same, named", ssh.Options{Config: config(t, known), Key: locked})
	o := ssh.Options{Host: "127.0.0.1", User: login(t), Port: s.Port}
	o.Config = config(t, known, "IdentitiesOnly yes", "IdentityFile "+stranger)
	refused(t, o, stranger) // the agent's key would have opened
	o.Config, o.Key = config(t, known), stranger
	refused(t, o, stranger)
	o.Config, o.Key = config(t, known, "IdentityAgent none", "IdentityFile /nowhere/id"), ""
	refused(t, o, "no key")
}

func TestAliasesAndProxyJump(t *testing.T) {
	w := sshdtest.New(t, login(t))
	outer, middle, inner := w.Serve(t), w.Serve(t), w.Serve(t)
	file := config(t, "Include "+w.ClientConfig,
		"Host outer", fmt.Sprintf("  Port %d", outer.Port),
		"Host middle", fmt.Sprintf("  Port %d", middle.Port), "  ProxyJump outer",
		"Host inner", fmt.Sprintf("  Port %d", inner.Port), "  ProxyJump middle",
		"Host listed", fmt.Sprintf("  Port %d", inner.Port), fmt.Sprintf("  ProxyJump outer,%s@127.0.0.1:%d", login(t), middle.Port),
		"Host elsewhere", "  HostName no-such-host.invalid", "  User nobody", "  Port 1",
		"Host *", "  HostName 127.0.0.1", "  User "+login(t), "  IdentitiesOnly yes", "  IdentityFile "+w.Key)
	for _, alias := range []string{"outer", "inner", "listed"} {
		if err := hello(t.Context(), opened(t, ssh.Options{Host: alias, Config: file})); err != nil {
			t.Errorf("%s: %v", alias, err)
		}
	}
	own := ssh.Options{Host: "elsewhere", User: login(t), Port: inner.Port, Key: w.Key, Config: config(t, "Include "+w.ClientConfig, "Host elsewhere", "  HostName 127.0.0.1", "  User nobody", "  Port 1", "  IdentityFile /nowhere/id")}
	if err := hello(t.Context(), opened(t, own)); err != nil {
		t.Errorf("explicit options do not win: %v", err)
	}
	r := opened(t, ssh.Options{Host: "inner", Config: file})
	if err := hello(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	outer.Stop(t) // what went through it has lost its way
	began := time.Now()
	if err := hello(t.Context(), r); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("127.0.0.1:%d", outer.Port)) || time.Since(began) > 15*time.Second {
		t.Errorf("without the first hop: %v after %s, expected an error that names it", err, time.Since(began))
	}
	refused(t, ssh.Options{Host: "listed", Config: file}, "refused", fmt.Sprintf("127.0.0.1:%d", outer.Port))
}
