package natslog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"
)

// Role is what the holder of a key may do to the log. Each role has one key,
// made at the first start of the embedded server.
type Role string

// The roles. What each may publish is in permissions.go; every role may read the
// log but the subscriber.
const (
	RoleController Role = "controller" // decides: decision, declined, deadline, policy
	RoleAgent      Role = "agent"      // observes and carries out: health, lease, result
	RoleOperator   Role = "operator"   // asks: operator, policy
	RoleReader     Role = "reader"     // publishes nothing but requests to read
	// RoleSubscriber hears what is stored from now on, and can publish nothing at
	// all: a key to be given to others. Dial wants another one.
	RoleSubscriber Role = "subscriber"
)

// Roles lists every role that has a key.
var Roles = []Role{RoleController, RoleAgent, RoleOperator, RoleReader, RoleSubscriber}

// KeyFile is where the secret key of a role lies in a key directory.
func KeyFile(dir string, role Role) string {
	return filepath.Join(dir, string(role)+".nk")
}

// EnsureKeys makes dir (0700) and one key file (0600) for each role where they
// are missing, and never replaces one. Several processes may call it at once:
// one of them wins and all see the same keys. It refuses a directory or file
// that others can read or write: whoever holds a key commands PostgreSQL.
func EnsureKeys(dir string) error {
	if dir == "" {
		return errors.New("natslog: the key directory is not given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("natslog: make the key directory: %w", err)
	}
	if err := checkPrivate(dir, "0700"); err != nil {
		return err
	}
	for _, role := range Roles {
		path := KeyFile(dir, role)
		if err := makeKey(dir, path); err != nil {
			return fmt.Errorf("natslog: make key %s: %w", path, err)
		}
		if err := checkPrivate(path, "0600"); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// makeKey writes a new seed unless path exists. The link makes it appear whole
// or not at all.
func makeKey(dir, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, werr := tmp.Write(append(seed, '\n'))
	if err := errors.Join(werr, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func checkPrivate(path, mode string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("natslog: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("natslog: %s has mode %04o and is open to other users, who could command PostgreSQL with it; chmod %s %s, or remove it to have new keys made", path, info.Mode().Perm(), mode, path)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("natslog: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// readKey reads the key pair of a key file.
func readKey(path string) (nkeys.KeyPair, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("natslog: read the log's key: %w", err)
	}
	pair, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return nil, fmt.Errorf("natslog: %s is not a user key (it should begin with SU): %w", path, err)
	}
	return pair, nil
}

// publicKey is the public half of a key file.
func publicKey(path string) (string, error) {
	pair, err := readKey(path)
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	pub, err := pair.PublicKey()
	if err != nil {
		return "", fmt.Errorf("natslog: %s: %w", path, err)
	}
	return pub, nil
}
