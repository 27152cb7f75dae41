package adopt

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events"
)

// Write prints the report for a person: the findings by node, with what to
// change below each, then what would be created and the way back. The error is
// the writer's.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	for _, n := range r.Nodes {
		fmt.Fprintf(&b, "%s  %s:%d  %s\n", n.Name, n.Host, n.Port, n.DataDirectory)
		r.writeFindings(&b, n.Name)
	}
	b.WriteString("this host and the cluster\n")
	r.writeFindings(&b, "")
	b.WriteString("\n" + r.verdict() + "\n")
	if !r.Refused() {
		b.WriteString("\nTaking over would create:\n")
		for _, c := range r.Creates {
			b.WriteString("  " + c + "\n")
		}
		b.WriteString("\nThe way back:\n")
		for _, c := range r.Back {
			b.WriteString("  " + c + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) writeFindings(b *strings.Builder, node string) {
	for _, f := range r.Findings {
		if f.Node != node {
			continue
		}
		fmt.Fprintf(b, "  %-6s  %-11s  %s\n", f.Level, f.Check, f.Message)
		if f.Fix == "" {
			continue
		}
		then := ""
		if f.Takes != AtOnce {
			then = ", then " + string(f.Takes)
		}
		fmt.Fprintf(b, "  %-6s  %-11s  change: %s%s\n", "", "", f.Fix, then)
	}
}

func (r Report) verdict() string {
	refused, warned := r.Count(Refuse), r.Count(Warn)
	switch {
	case refused > 0:
		return fmt.Sprintf("Nothing was changed. %s in the way of taking over, %s; change the lines named and plan again.", stand(refused), warnings(warned))
	default:
		return fmt.Sprintf("Nothing was changed. Interrex can take over; %s.", warnings(warned))
	}
}

func stand(n int) string {
	if n == 1 {
		return "1 finding stands"
	}
	return fmt.Sprintf("%d findings stand", n)
}

func warnings(n int) string {
	if n == 1 {
		return "1 warning"
	}
	return fmt.Sprintf("%d warnings", n)
}

// creates lists what taking over adds, and how to undo it.
func creates(nodes []config.Node, primary string) (adds, back []string) {
	adds = append(adds, "in the directory of Interrex: the log, its key, the journals of the agents (nothing in a data directory but what follows)")
	back = append(back, "stop interrex up (Ctrl-C): the servers go on as they are",
		"interrex up --release    # does the next lines but the last, and says what is left",
		"ALTER SYSTEM RESET primary_slot_name; SELECT pg_reload_conf();    # on each node")
	for _, n := range nodes {
		if n.Name == primary {
			continue
		}
		adds = append(adds, fmt.Sprintf("on the primary: the replication slot %s for %s", events.SlotName(n.Name), n.Name))
		back = append(back, fmt.Sprintf("SELECT pg_drop_replication_slot('%s');    # once %s uses another slot or none", events.SlotName(n.Name), n.Name))
	}
	for _, n := range nodes {
		when := "at once, by a reload; its receiver connects anew"
		if n.Name == primary {
			when = "when it becomes a standby"
		}
		adds = append(adds, fmt.Sprintf("in %s/postgresql.auto.conf, %s: primary_conninfo (application_name=%s), primary_slot_name = '%s', recovery_target_timeline = 'latest'",
			n.DataDirectory, when, n.Name, events.SlotName(n.Name)))
	}
	adds = append(adds, "on the primary, in the database postgres: the schema interrex with one row for each term")
	back = append(back,
		"DROP SCHEMA interrex CASCADE;    # in the database postgres",
		"echo auto > …/start.conf, or systemctl enable …    # what an autostart finding had you change")
	return adds, back
}

func (v view) slot() string { return events.SlotName(v.node.Name) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// groups prints "15: db1, db2; 16: db3", sorted.
func groups[K cmp.Ordered](m map[K][]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%v: %s", k, strings.Join(m[k], ", ")))
	}
	return strings.Join(parts, "; ")
}
