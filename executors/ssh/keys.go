package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// keyring collects the keys that are offered to a server, and what became of
// each for the error that tells of a refusal.
type keyring struct {
	signers []ssh.Signer
	tried   []string
	agent   agent.ExtendedAgent
	close   func()
}

// agentWithin bounds what ssh's agent may take for all that it is asked.
const agentWithin = 10 * time.Second

// newKeyring reads the keys. Close ends the connection to the agent, which signs
// until then.
func newKeyring(t target) (*keyring, error) {
	k := &keyring{close: func() {}}
	if t.agent != "" {
		c, err := net.DialTimeout("unix", t.agent, agentWithin)
		if err != nil {
			k.tried = append(k.tried, fmt.Sprintf("agent (%v)", err))
		} else {
			_ = c.SetDeadline(time.Now().Add(agentWithin))
			k.agent, k.close = agent.NewClient(c), func() { _ = c.Close() }
		}
	}
	for _, f := range t.keys {
		err := k.addFile(f)
		if err == nil || !t.onlyKey && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if t.onlyKey {
			k.close()
			return nil, err
		}
		k.tried = append(k.tried, err.Error())
	}
	if !t.onlyKeys {
		k.addAgents()
	}
	if len(k.signers) == 0 {
		k.close()
		return nil, fmt.Errorf("there is no key to log in with as %s: looked at %s%s; give a key file, or load one into ssh-agent (SSH_AUTH_SOCK)",
			t, strings.Join(t.keys, ", "), said("; ", k.tried))
	}
	return k, nil
}

func said(before string, list []string) string {
	if len(list) == 0 {
		return ""
	}
	return before + strings.Join(list, ", ")
}

// addFile reads a key. One that is encrypted can be used through the agent only.
func (k *keyring) addFile(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("key file cannot be read: %w", err)
	}
	s, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return k.addLocked(file, locked.PublicKey)
	}
	if err != nil {
		return fmt.Errorf("key file %s is no private key that ssh can use: %w", file, err)
	}
	k.add(s, file)
	return nil
}

func (k *keyring) addLocked(file string, public ssh.PublicKey) error {
	if b, err := os.ReadFile(file + ".pub"); err == nil && public == nil {
		public, _, _, _, _ = ssh.ParseAuthorizedKey(b) // nil again when it is none
	}
	if public != nil && k.agent != nil {
		if all, err := k.agent.Signers(); err == nil {
			for _, s := range all {
				if bytes.Equal(s.PublicKey().Marshal(), public.Marshal()) {
					k.add(s, file+" (by the agent)")
					return nil
				}
			}
		}
	}
	return fmt.Errorf("key file %s is encrypted, and ssh-agent (SSH_AUTH_SOCK) does not hold it: load it with ssh-add %s, or use a key without a passphrase", file, file)
}

func (k *keyring) addAgents() {
	if k.agent == nil {
		return
	}
	all, err := k.agent.Signers()
	if err != nil {
		k.tried = append(k.tried, fmt.Sprintf("agent (%v)", err))
		return
	}
	for _, s := range all {
		k.add(s, "a key of the agent")
	}
}

func (k *keyring) add(s ssh.Signer, name string) {
	for _, have := range k.signers {
		if bytes.Equal(have.PublicKey().Marshal(), s.PublicKey().Marshal()) {
			return
		}
	}
	k.signers = append(k.signers, s)
	k.tried = append(k.tried, fmt.Sprintf("%s %s", name, ssh.FingerprintSHA256(s.PublicKey())))
}
