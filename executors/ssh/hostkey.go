package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	plain "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys checks a server's key against known_hosts.
type hostKeys struct {
	t     target
	files []string // those that exist
	db    *knownhosts.HostKeyDB
}

func newHostKeys(t target) (hostKeys, error) {
	h := hostKeys{t: t}
	for _, f := range t.known {
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		h.files = append(h.files, f)
	}
	db, err := knownhosts.NewDB(h.files...)
	if err != nil {
		return h, fmt.Errorf("known_hosts cannot be read: %w", err)
	}
	h.db = db
	return h, nil
}

// keyError is the refusal of a server's key.
type keyError struct {
	text string
	err  error
}

func (e *keyError) Error() string { return e.text }
func (e *keyError) Unwrap() error { return e.err }

func (h hostKeys) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	err := h.db.HostKeyCallback()(h.t.keyName, remote, key)
	if err == nil {
		return nil
	}
	is := fmt.Sprintf("%s (%s)", ssh.FingerprintSHA256(key), key.Type())
	scan := fmt.Sprintf("ssh-keyscan -p %s %s >> %s", h.t.port, h.t.host, h.firstFile())
	compare := fmt.Sprintf("Compare it with the host's own (there: ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub)", kindOf(key))
	var known *plain.KeyError
	switch {
	case knownhosts.IsHostKeyChanged(err) && errors.As(err, &known):
		w := known.Want[0]
		return &keyError{err: err, text: fmt.Sprintf(
			"the host key of %s has changed: it is %s, known_hosts expects %s (%s line %d): another host answers there, or it was set up anew. %s; only if they agree: ssh-keygen -f %s -R '%s' && %s",
			h.t.addr(), is, ssh.FingerprintSHA256(w.Key), w.Filename, w.Line, compare, w.Filename, plain.Normalize(h.t.keyName), scan)}
	case knownhosts.IsHostUnknown(err):
		return &keyError{err: err, text: fmt.Sprintf(
			"the host key of %s is not known: it is %s, and known_hosts (%s) holds none for this host. %s; only if they agree: %s",
			h.t.addr(), is, strings.Join(h.t.known, ", "), compare, scan)}
	}
	return &keyError{err: err, text: fmt.Sprintf("the host key of %s, %s, is refused by known_hosts (%s): %v", h.t.addr(), is, strings.Join(h.files, ", "), err)}
}

func (h hostKeys) firstFile() string {
	if len(h.t.known) == 0 {
		return "~/.ssh/known_hosts"
	}
	return h.t.known[0]
}

func kindOf(key ssh.PublicKey) string {
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		return "ed25519"
	case ssh.KeyAlgoRSA:
		return "rsa"
	}
	return "ecdsa"
}
