package adopt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/internal/debiantest"
)

// TestPlanOnDebian looks at a real pair, changes what the plan names, and looks
// again. The steps build on one another.
func TestPlanOnDebian(t *testing.T) {
	primary, standby := debiantest.Pair(t)
	standby.Streams()
	before := fingerprint(t, primary, standby)
	first := plan(t, node(primary, 0), node(standby, 1))
	var text strings.Builder
	if err := first.Write(&text); err != nil {
		t.Error(err)
	}
	t.Log("the plan reads:\n" + text.String())
	if after := fingerprint(t, primary, standby); after != before {
		t.Errorf("the plan changed something:\n%s\nwas\n%s", after, before)
	}
	for i, c := range []debiantest.Cluster{primary, standby} {
		want := node(c, i)
		want.Port, want.BinDirectory, want.ConfigFile, want.Service = c.Port, filepath.Dir(c.Bin("x")), c.Etc("postgresql.conf"), "postgresql@"+c.Version+"-"+c.Name
		if first.Nodes[i] != want {
			t.Errorf("found %+v\nwant  %+v", first.Nodes[i], want)
		}
	}
	wantGrave(t, first, "refuse autostart db1", "warn rewind db1", "refuse autostart db2", "warn rewind db2")
	if first.Primary != "db1" {
		t.Errorf("primary %q, want db1", first.Primary)
	}
	for _, f := range first.Findings {
		if f.Check == "autostart" {
			primary.Root("sh", "-c", f.Fix)
		}
	}
	for _, c := range []debiantest.Cluster{primary, standby} {
		appendTo(t, c.Etc("postgresql.conf"), "wal_log_hints = on\n")
		c.Ctl("restart")
	}
	standby.Streams()
	second := plan(t, node(primary, 0), node(standby, 1))
	wantGrave(t, second)
	if t.Failed() {
		return
	}
	for _, step := range []struct {
		name string
		run  func(t *testing.T, primary, standby debiantest.Cluster)
	}{
		{"through the socket", planThroughSocket},
		{"no password", planWithoutPassword},
		{"others may read the passfile", planWithOpenPassfile},
		{"no superuser", planWithoutRights},
		{"replication not allowed", planWithoutReplication},
		{"conninfo on the command line", planWithCommandLine},
		{"stopped", planStopped},
	} {
		t.Run(step.name, func(t *testing.T) {
			a, b := primary, standby
			a.T, b.T = t, t // what fails fails this step
			step.run(t, a, b)
		})
	}
}

// node is a cluster of Debian's as the environment would name it.
func node(c debiantest.Cluster, id int) config.Node {
	return config.Node{ID: id, Name: fmt.Sprintf("db%d", id+1), Host: "127.0.0.1", DataDirectory: c.Data(), User: "postgres", Passfile: c.Passfile, SSLMode: "prefer", Weight: 1}
}

func plan(t *testing.T, nodes ...config.Node) Report {
	t.Helper()
	r, err := Plan(t.Context(), nodes, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantGrave compares the findings that are not ok, without those about other
// managers of the machine that the test runs on.
func wantGrave(t *testing.T, r Report, want ...string) {
	t.Helper()
	var got []string
	for _, f := range r.Findings {
		if f.Level != OK && (f.Check != "manager" || f.Node != "") && f.Check != "disk" {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Level, f.Check, f.Node)))
		}
	}
	for _, f := range r.Findings { // data checksums are on from 18 on
		if f.Level == OK && f.Check == "rewind" {
			want = slices.DeleteFunc(want, func(w string) bool { return w == "warn rewind "+f.Node })
		}
	}
	if !slices.Equal(got, want) {
		var b strings.Builder
		_ = r.Write(&b)
		t.Errorf("got %q\nwant %q\n%s", got, want, &b)
	}
}

func find(t *testing.T, r Report, node, check string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Node == node && f.Check == check && f.Level != OK {
			return f
		}
	}
	t.Fatalf("no finding %s of %s in %+v", check, node, r.Findings)
	return Finding{}
}

// throughSocket are the nodes as they are without a passfile.
func throughSocket(primary, standby debiantest.Cluster) []config.Node {
	a, b := node(primary, 0), node(standby, 1)
	a.Passfile, b.Passfile = "", ""
	return []config.Node{a, b}
}

func planThroughSocket(t *testing.T, primary, standby debiantest.Cluster) {
	wantGrave(t, plan(t, throughSocket(primary, standby)...))
	weak := throughSocket(primary, standby)
	weak[0].User = "weak" // peer lets only the owner's namesake in
	r := plan(t, weak...)
	wantGrave(t, r, "refuse connect db1", "refuse primary")
	if f := find(t, r, "db1", "connect"); !strings.Contains(f.Fix, `"local all weak peer"`) {
		t.Errorf("fix %q", f.Fix)
	}
}

// planWithoutPassword: what the socket shows is reported all the same.
func planWithoutPassword(t *testing.T, primary, standby debiantest.Cluster) {
	n := node(primary, 0)
	n.Passfile = write(t, filepath.Join(t.TempDir(), "pgpass"), "")
	r := plan(t, n, node(standby, 1))
	wantGrave(t, r, "refuse connect db1", "refuse hba db1")
	if f := find(t, r, "db1", "connect"); !strings.Contains(f.Fix, fmt.Sprintf("127.0.0.1:%d:*:postgres:PASSWORD in %s", primary.Port, n.Passfile)) {
		t.Errorf("fix %q", f.Fix)
	}
	if r.Primary != "db1" {
		t.Errorf("the primary was not seen through the socket")
	}
}

func planWithOpenPassfile(t *testing.T, primary, standby debiantest.Cluster) {
	n := node(primary, 0)
	n.Passfile = write(t, filepath.Join(t.TempDir(), "pgpass"), "*:*:*:*:sesame\n")
	if err := os.Chmod(n.Passfile, 0o644); err != nil {
		t.Fatal(err)
	}
	r := plan(t, n, node(standby, 1))
	wantGrave(t, r, "refuse passfile db1")
	primary.Root("sh", "-c", find(t, r, "db1", "passfile").Fix)
	wantGrave(t, plan(t, n, node(standby, 1)))
}

func planWithoutRights(t *testing.T, primary, standby debiantest.Cluster) {
	a, b := node(primary, 0), node(standby, 1)
	a.User, b.User = "weak", "weak"
	r := plan(t, a, b)
	wantGrave(t, r, "refuse role db1", "refuse role db2", "refuse primary")
	primary.SQL(find(t, r, "db1", "role").Fix)
	wantGrave(t, plan(t, a, node(standby, 1)))
}

func planWithoutReplication(t *testing.T, primary, standby debiantest.Cluster) {
	hba := primary.Etc("pg_hba.conf")
	old, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, line := range strings.Split(string(old), "\n") {
		if !strings.Contains(line, "replication") {
			kept = append(kept, line)
		}
	}
	if err := os.WriteFile(hba, []byte(strings.Join(kept, "\n")), 0o640); err != nil {
		t.Fatal(err)
	}
	primary.Ctl("reload")
	var r Report
	debiantest.Until(t, func() bool { r = plan(t, node(primary, 0), node(standby, 1)); return r.Refused() }, "the reload that takes replication away")
	wantGrave(t, r, "refuse hba db1")
	for _, nodes := range [][]config.Node{{node(primary, 0), node(standby, 1)}, throughSocket(primary, standby)} {
		r := plan(t, nodes...)
		wantGrave(t, r, "refuse hba db1")
		f := find(t, r, "db1", "hba")
		line, file, ok := strings.Cut(strings.TrimPrefix(f.Fix, `the line "`), `" in `)
		if !ok || file != hba || f.Takes != Reload {
			t.Fatalf("fix %q, takes %q", f.Fix, f.Takes)
		}
		appendTo(t, hba, line+"\n")
		primary.Ctl("reload")
		debiantest.Until(t, func() bool { return !plan(t, nodes...).Refused() }, "the reload of the line that the plan named")
	}
}

func planWithCommandLine(t *testing.T, primary, standby debiantest.Cluster) {
	standby.Ctl("restart", "-o", fmt.Sprintf("-c primary_conninfo='host=127.0.0.1 port=%d user=postgres passfile=%s'", primary.Port, primary.Passfile))
	standby.Streams()
	r := plan(t, node(primary, 0), node(standby, 1))
	wantGrave(t, r, "refuse conninfo db2")
	standby.Ctl("restart")
	standby.Streams()
	wantGrave(t, plan(t, node(primary, 0), node(standby, 1)))
}

func planStopped(t *testing.T, primary, standby debiantest.Cluster) {
	standby.Ctl("stop")
	n := node(standby, 1)
	r := plan(t, node(primary, 0), n)
	wantGrave(t, r, "refuse running db2")
	if r.Nodes[1].Port != standby.Port || r.Nodes[1].ConfigFile != standby.Etc("postgresql.conf") {
		t.Errorf("found of the stopped server: %+v", r.Nodes[1])
	}
	if fix := find(t, r, "db2", "running").Fix; exec.Command("sh", "-c", "command -v "+strings.Fields(fix)[0]).Run() != nil {
		t.Errorf("the fix %q names no program of this host", fix)
	}
}

// fingerprint is everything that a plan must leave alone.
func fingerprint(t *testing.T, clusters ...debiantest.Cluster) string {
	t.Helper()
	var b strings.Builder
	for _, c := range clusters {
		for _, file := range []string{c.Etc("postgresql.conf"), c.Etc("pg_hba.conf"), c.Etc("start.conf"), filepath.Join(c.Data(), "postgresql.auto.conf")} {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&b, file, info.Size(), info.ModTime(), info.Mode())
		}
		fmt.Fprintln(&b, c.SQL("SELECT count(*) FROM pg_replication_slots"), c.SQL("SELECT count(*) FROM pg_namespace"), c.SQL("SELECT count(*) FROM pg_roles"))
	}
	return b.String()
}

func appendTo(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
