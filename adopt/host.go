package adopt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/interrex-ha/interrex/config"
)

// host is the machine that is looked at. Tests put in directories and answers
// of their own.
type host struct {
	proc string // /proc
	etc  string // /etc/postgresql
	run  func(ctx context.Context, path string, args ...string) (string, error)
	own  func() ([]net.IP, error) // addresses of this host
}

func thisHost() host {
	return host{proc: "/proc", etc: "/etc/postgresql", run: runQuietly, own: ownAddresses}
}

// runQuietly returns the standard output of a short program, also when it
// fails: systemctl is-enabled says "disabled" and exits with 1.
func runQuietly(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return string(out), err
}

func ownAddresses() ([]net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of this host: %w", err)
	}
	var out []net.IP
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			out = append(out, n.IP)
		}
	}
	return out, nil
}

// isHere reports whether a name leads to this host: a loopback address or one
// of an interface. A name that cannot be resolved does not.
func (h host) isHere(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", name)
	if err != nil {
		return false
	}
	own, err := h.own()
	if err != nil {
		return false
	}
	for _, ip := range ips {
		if ip.IsLoopback() {
			return true
		}
		for _, o := range own {
			if ip.Equal(o) {
				return true
			}
		}
	}
	return false
}

// worksIn reports whether a process lives and has the directory as its working
// directory, as a postmaster has. Without a /proc the living process must do.
func (h host) worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink(filepath.Join(h.proc, strconv.Itoa(pid), "cwd"))
	if err == nil {
		return sameDirectory(cwd, dir)
	}
	if _, statErr := os.Stat(filepath.Join(h.proc, "self")); statErr == nil {
		return errors.Is(err, os.ErrPermission) // of another user: it lives
	}
	return syscall.Kill(pid, 0) == nil
}

// statDirectory reads owner, mount point and free space.
func (p *place) statDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("reading %s: %w", dir, err)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	up, err := os.Stat(parent)
	if err != nil {
		return fmt.Errorf("reading %s: %w", parent, err)
	}
	own, ok := info.Sys().(*syscall.Stat_t)
	above, ok2 := up.Sys().(*syscall.Stat_t)
	if ok && ok2 {
		p.owner, p.mount = own.Uid, own.Dev != above.Dev
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(parent, &s); err != nil {
		return fmt.Errorf("reading the free space of %s: %w", parent, err)
	}
	p.free = uint64(s.Bavail) * uint64(s.Bsize) //nolint:unconvert // Bsize has another type on each system
	return nil
}

// boot is who starts a server when the host boots.
type boot struct {
	auto bool
	how  string // what says so
	fix  string
}

// autostart asks Debian's start.conf, else the unit. A server that nobody
// starts by itself has a zero boot.
func (h host) autostart(ctx context.Context, n config.Node) boot {
	if _, _, ok := debian(n.ConfigFile); ok {
		file := filepath.Join(filepath.Dir(n.ConfigFile), "start.conf")
		if mode := startMode(file); mode != "manual" && mode != "disabled" {
			return boot{auto: true, how: fmt.Sprintf("%s says %s", file, mode), fix: "echo manual > " + file}
		}
		return boot{how: file + " says " + startMode(file)}
	}
	if n.Service == "" {
		return boot{}
	}
	state, _ := h.run(ctx, "systemctl", "is-enabled", n.Service) // no systemctl: nothing printed, nothing enabled
	state = strings.TrimSpace(state)
	if strings.HasPrefix(state, "enabled") {
		return boot{auto: true, how: fmt.Sprintf("the unit %s is %s", n.Service, state), fix: "systemctl disable " + n.Service}
	}
	restart, _ := h.run(ctx, "systemctl", "show", "--property=Restart", "--value", n.Service)
	if restart = strings.TrimSpace(restart); restart != "" && restart != "no" {
		return boot{auto: true, how: fmt.Sprintf("the unit %s has Restart=%s", n.Service, restart),
			fix: fmt.Sprintf("systemctl edit %s, with the lines [Service] and Restart=no", n.Service)}
	}
	return boot{how: fmt.Sprintf("the unit %s is %s", n.Service, state)}
}

// startMode reads the word in Debian's start.conf; an absent or empty file
// means auto.
func startMode(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "auto"
	}
	for _, line := range strings.Split(string(raw), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if word := strings.TrimSpace(line); word != "" {
			return word
		}
	}
	return "auto"
}
