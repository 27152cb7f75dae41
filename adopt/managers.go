package adopt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/config"
)

// managers are the programs that decide about PostgreSQL themselves, and the
// units that start them.
var managers = map[string][]string{
	"patroni":       {"patroni", "patroni@*"},
	"repmgrd":       {"repmgrd", "repmgr@*"},
	"pg_autoctl":    {"pgautofailover", "pg_autoctl"},
	"pacemakerd":    {"pacemaker"},
	"stolon-keeper": {"stolon-keeper"},
}

// otherManagers looks for them among processes and enabled units. A manager may
// care for another cluster of this host; that cannot be told from outside, so
// it is refused all the same.
func otherManagers(ctx context.Context, h host, seen []view) []Finding {
	var out []Finding
	running := map[string]bool{}
	for _, p := range h.processes() {
		name := p.program()
		if strings.HasPrefix(name, "pgpool") {
			out = append(out, pgpool(p)...)
			continue
		}
		if _, other := managers[name]; !other || running[name] {
			continue
		}
		running[name] = true
		out = append(out, Finding{Level: Refuse, Check: "manager", Fix: "systemctl disable --now " + managers[name][0],
			Message: fmt.Sprintf("%s runs on this host (pid %d); two managers would fight over the primary", name, p.pid)})
	}
	for _, name := range []string{"patroni", "repmgrd", "pg_autoctl", "pacemakerd", "stolon-keeper"} {
		for _, unit := range managers[name] {
			if running[name] || strings.Contains(unit, "*") {
				continue
			}
			if state, _ := h.run(ctx, "systemctl", "is-enabled", unit); strings.TrimSpace(state) == "enabled" {
				out = append(out, Finding{Level: Refuse, Check: "manager", Fix: "systemctl disable " + unit,
					Message: fmt.Sprintf("the unit %s is enabled; at the next boot two managers would fight over the primary", unit)})
			}
		}
	}
	if len(out) == 0 && len(seen) > 0 {
		out = append(out, Finding{Level: OK, Check: "manager", Message: "no other failover manager runs on this host"})
	}
	return out
}

// OtherInterrex finds an Interrex with another directory than dir that stands
// for one of the nodes, by the guardian that each of its agents keeps: it has
// another log, and two logs would decide.
func OtherInterrex(dir string, nodes []config.Node) []Finding {
	return thisHost().otherInterrex(dir, nodes)
}

func (h host) otherInterrex(dir string, nodes []config.Node) []Finding {
	var out []Finding
	for _, p := range h.processes() {
		theirs, data := p.option("--node-dir"), p.option("--data-directory")
		if theirs == "" || sameDirectory(filepath.Dir(theirs), dir) {
			continue
		}
		for _, n := range nodes {
			if n.Here() && sameDirectory(data, n.DataDirectory) {
				out = append(out, Finding{
					Node: n.Name, Level: Refuse, Check: "manager", Fix: "stop the interrex up of " + filepath.Dir(theirs) + " first, and release what it took over",
					Message: fmt.Sprintf("an Interrex of another directory, %s, stands for this node (guardian %d); two logs would decide", filepath.Dir(theirs), p.pid),
				})
			}
		}
	}
	return out
}

// option is the argument after a flag, "" when it is not there.
func (p process) option(flag string) string {
	for i, a := range p.args[:len(p.args)-1] {
		if a == flag {
			return p.args[i+1]
		}
	}
	return ""
}

type process struct {
	pid  int
	args []string
}

// program is the name that a person would call a process by: of a script the
// script's, not the interpreter's.
func (p process) program() string {
	name := base(p.args[0])
	for _, interpreter := range []string{"python", "ruby", "perl", "bash", "sh"} {
		if !strings.HasPrefix(name, interpreter) {
			continue
		}
		for i, a := range p.args[1:] {
			if a == "-m" && i+2 < len(p.args) {
				return base(p.args[i+2])
			}
			if !strings.HasPrefix(a, "-") {
				return base(a)
			}
		}
	}
	return name
}

// base also cuts what a process adds to its own title ("pgpool: wait for…").
func base(arg string) string {
	word, _, _ := strings.Cut(arg, " ")
	return strings.TrimSuffix(filepath.Base(word), ":")
}

// processes lists those of this host; none where there is no /proc.
func (h host) processes() []process {
	entries, err := os.ReadDir(h.proc)
	if err != nil {
		return nil
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(h.proc, e.Name(), "cmdline"))
		if err != nil || len(raw) == 0 {
			continue // gone, or of the kernel
		}
		out = append(out, process{pid: pid, args: strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")})
	}
	return out
}

// pgpool may stay as a pooler; it may not decide. Its children have titles in
// place of arguments: only a process with a configuration is asked.
func pgpool(p process) []Finding {
	if base(p.args[0]) != "pgpool" || strings.Contains(p.args[0], "pgpool:") {
		return nil
	}
	files := []string{"/etc/pgpool2/pgpool.conf", "/etc/pgpool-II/pgpool.conf", "/usr/local/etc/pgpool.conf"}
	for i, a := range p.args {
		if (a == "-f" || a == "--config-file") && i+1 < len(p.args) {
			files = []string{p.args[i+1]}
		}
	}
	for _, file := range files {
		if !exists(file) {
			continue
		}
		if command := settingIn(file, "failover_command"); command != "" {
			return []Finding{{Level: Refuse, Check: "manager", Fix: "failover_command = '' in " + file, Takes: Reload,
				Message: fmt.Sprintf("pgpool (pid %d) runs %q when it thinks that a node is down; only one may decide", p.pid, command)}}
		}
		return []Finding{{Level: OK, Check: "manager", Message: fmt.Sprintf("pgpool (pid %d) has no failover_command and may stay as a pooler", p.pid)}}
	}
	return []Finding{{Level: Warn, Check: "manager", Message: fmt.Sprintf("pgpool (pid %d) runs and its configuration was not found; failover_command must be empty", p.pid)}}
}
