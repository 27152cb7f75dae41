package adopt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/config"
)

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// machine is a host made of files; units maps the arguments of systemctl to
// what it prints.
func machine(t *testing.T, units map[string]string) host {
	t.Helper()
	dir := t.TempDir()
	return host{
		proc: filepath.Join(dir, "proc"), etc: filepath.Join(dir, "etc", "postgresql"),
		own: func() ([]net.IP, error) { return []net.IP{net.ParseIP("192.0.2.7")}, nil },
		run: func(_ context.Context, path string, args ...string) (string, error) {
			out, ok := units[filepath.Base(path)+" "+strings.Join(args, " ")]
			if !ok {
				return "", errors.New("not there")
			}
			return out, nil
		},
	}
}

// TestOtherInterrex: a node that another log decides about is not taken over.
func TestOtherInterrex(t *testing.T) {
	h := machine(t, nil)
	data := t.TempDir()
	nodes := []config.Node{{Name: "db1", DataDirectory: data}, {ID: 1, Name: "db2", DataDirectory: t.TempDir()}}
	ours, theirs := t.TempDir(), t.TempDir()
	h.process(t, 7, "/", "interrex", "guardian", "--node-dir", filepath.Join(ours, "db1"), "--data-directory", data)
	h.process(t, 8, "/", "interrex", "guardian", "--node-dir", filepath.Join(theirs, "x"), "--data-directory", t.TempDir())
	if got := h.otherInterrex(ours, nodes); len(got) != 0 {
		t.Errorf("of our own directory, and of other servers: %+v", got)
	}
	h.process(t, 9, "/", "interrex", "guardian", "--node-dir", filepath.Join(theirs, "db1"), "--data-directory", data)
	got := h.otherInterrex(ours, nodes)
	if len(got) != 1 || got[0].Node != "db1" || got[0].Level != Refuse || !strings.Contains(got[0].Message, theirs) {
		t.Errorf("of another directory: %+v", got)
	}
}

func (h host) process(t *testing.T, pid int, cwd string, args ...string) {
	t.Helper()
	dir := filepath.Join(h.proc, strconv.Itoa(pid))
	write(t, filepath.Join(dir, "cmdline"), strings.Join(args, "\x00")+"\x00")
	if err := os.Symlink(cwd, filepath.Join(dir, "cwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(args[0], filepath.Join(dir, "exe")); err != nil {
		t.Fatal(err)
	}
}

func TestDiscoverRunning(t *testing.T) {
	h := machine(t, nil)
	data := t.TempDir()
	write(t, filepath.Join(data, "PG_VERSION"), "15\n")
	write(t, filepath.Join(data, "postmaster.pid"), "77\n"+data+"\n1700000000\n5544\n/run/pg\nlocalhost\n 1 2\nready\n")
	conf := filepath.Join(h.etc, "15", "shop", "postgresql.conf")
	write(t, filepath.Join(filepath.Dir(conf), "start.conf"), "auto\n")
	h.process(t, 77, data, "/opt/pg/bin/postgres", "-D", data, "-c", "config_file="+conf)
	n, p, err := h.discover(t.Context(), config.Node{DataDirectory: data})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Node{DataDirectory: data, Port: 5544, BinDirectory: "/opt/pg/bin", ConfigFile: conf, Service: "postgresql@15-shop"}
	if n != want || p.socket != "/run/pg" || p.pid != 77 || p.version != 15 {
		t.Errorf("got %+v, %+v\nwant %+v", n, p, want)
	}
	given := config.Node{DataDirectory: data, Port: 1, BinDirectory: "/b", ConfigFile: "/c", Service: "s"}
	if n, _, err := h.discover(t.Context(), given); err != nil || n != given {
		t.Errorf("what was given was replaced: %+v, %v", n, err)
	}
}

func TestDiscoverStopped(t *testing.T) {
	h := machine(t, nil)
	data := t.TempDir()
	write(t, filepath.Join(data, "PG_VERSION"), "15\n")
	write(t, filepath.Join(data, "postmaster.pid"), "77\n"+data+"\n1700000000\n5544\n")
	h.process(t, 77, "/", "/usr/bin/unrelated") // the number was given to another since
	conf := write(t, filepath.Join(h.etc, "15", "shop", "postgresql.conf"), "# port = 1\nport = 5999 # here\ndata_directory = '"+data+"'\n")
	n, p, err := h.discover(t.Context(), config.Node{DataDirectory: data, BinDirectory: "/b"})
	if err != nil || p.pid != 0 || n.Port != 5999 || n.ConfigFile != conf {
		t.Errorf("got %+v, %+v, %v", n, p, err)
	}
	h.run = machine(t, map[string]string{fmt.Sprintf("postgres -C port -D %s --config-file=%s", data, conf): "6001\n"}).run
	if n, _, err := h.discover(t.Context(), config.Node{DataDirectory: data, BinDirectory: "/b"}); err != nil || n.Port != 6001 {
		t.Errorf("postgres -C was not asked: %+v, %v", n, err)
	}
}

func TestDiscoverRefuses(t *testing.T) {
	h := machine(t, nil)
	for content, want := range map[string]string{"": "versions 13 to 18", "x": "versions 13 to 18"} {
		data := t.TempDir()
		write(t, filepath.Join(data, "PG_VERSION"), content)
		if _, _, err := h.discover(t.Context(), config.Node{DataDirectory: data}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", content, err, want)
		}
	}
	if _, err := Discover(t.Context(), config.Node{DataDirectory: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "is no data directory") {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestAutostart(t *testing.T) {
	h := machine(t, map[string]string{
		"systemctl is-enabled on": "enabled\n", "systemctl is-enabled off": "disabled\n",
		"systemctl is-enabled again": "static\n", "systemctl show --property=Restart --value again": "on-failure\n",
	})
	for mode, auto := range map[string]bool{"auto": true, "": true, "# auto\nmanual # by us": false, "disabled": false} {
		conf := filepath.Join(t.TempDir(), "postgresql", "15", "x", "postgresql.conf")
		file := write(t, filepath.Join(filepath.Dir(conf), "start.conf"), mode+"\n")
		b := h.autostart(t.Context(), config.Node{ConfigFile: conf, Service: "on"})
		if b.auto != auto || auto && b.fix != "echo manual > "+file {
			t.Errorf("%q: %+v", mode, b)
		}
	}
	for service, fix := range map[string]string{"on": "systemctl disable on", "off": "", "again": "systemctl edit again, with the lines [Service] and Restart=no", "": ""} {
		if b := h.autostart(t.Context(), config.Node{Service: service}); b.auto != (fix != "") || b.fix != fix {
			t.Errorf("%q: %+v", service, b)
		}
	}
}

func TestOtherManagers(t *testing.T) {
	conf := write(t, filepath.Join(t.TempDir(), "pgpool.conf"), "failover_command = '/etc/failover.sh %d' # ours\n")
	quiet := write(t, filepath.Join(t.TempDir(), "pgpool.conf"), "failover_command = ''\n")
	for _, c := range []struct {
		name string
		args []string
		unit string
		want string
	}{
		{"nobody", []string{"/usr/bin/vim", "patroni.yml"}, "", ""},
		{"patroni", []string{"/usr/bin/python3", "-u", "/usr/bin/patroni", "/etc/patroni/config.yml"}, "", "refuse manager : patroni runs on this host (pid 9) -> systemctl disable --now patroni"},
		{"repmgrd", []string{"/usr/lib/postgresql/15/bin/repmgrd", "-f", "/etc/repmgr.conf"}, "", "refuse manager : repmgrd -> systemctl disable --now repmgrd"},
		{"pg_autoctl", []string{"/usr/bin/pg_autoctl", "run"}, "", "refuse manager : pg_autoctl"},
		{"pacemaker", []string{"/usr/sbin/pacemakerd"}, "", "refuse manager : pacemakerd -> systemctl disable --now pacemaker"},
		{"pgpool that decides", []string{"/usr/sbin/pgpool", "-n", "-f", conf}, "", "refuse manager : failover.sh -> failover_command = '' in " + conf + ", reload"},
		{"pgpool that pools", []string{"/usr/sbin/pgpool", "-n", "-f", quiet}, "", ""},
		{"a child of pgpool", []string{"pgpool: wait for connection request"}, "", ""},
		{"a unit that waits for the boot", []string{"/bin/true"}, "patroni", "refuse manager : patroni is enabled -> systemctl disable patroni"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := machine(t, map[string]string{"systemctl is-enabled " + c.unit: "enabled\n"})
			h.process(t, 9, "/", c.args...)
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			checkFindings(t, otherManagers(t.Context(), h, pair()), want)
		})
	}
}

func TestIsHere(t *testing.T) {
	h := machine(t, nil)
	for name, here := range map[string]bool{"127.0.0.1": true, "::1": true, "localhost": true, "192.0.2.7": true, "192.0.2.8": false, "no-such-host.invalid": false} {
		if got := h.isHere(t.Context(), name); got != here {
			t.Errorf("%s: %v, want %v", name, got, here)
		}
	}
}

func TestAnotherHostIsRefused(t *testing.T) {
	r, err := Plan(t.Context(), []config.Node{{Name: "db1", Host: "192.0.2.1", Port: 5432, DataDirectory: "/data"}}, NewHosts("", nil))
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for ; i < len(r.Findings) && r.Findings[i].Check != "host"; i++ {
	}
	if i == len(r.Findings) || r.Findings[i].Level != Refuse || !strings.Contains(r.Findings[i].Message, "EXECUTOR=ssh") {
		t.Errorf("got %+v", r.Findings)
	}
	if _, err := Plan(t.Context(), nil, nil); err == nil {
		t.Error("a plan without nodes")
	}
}

func TestSettings(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c"), "Port=1\nport = 2\nport 3 # x\n#port = 4\nports = 5\nname = 'it''s # so' # no\nempty\n")
	for name, want := range map[string]string{"port": "3", "name": "it's # so", "empty": "", "absent": ""} {
		if got := settingIn(file, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
