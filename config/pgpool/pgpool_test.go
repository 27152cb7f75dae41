package pgpool_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/config/pgpool"
)

var values = pgpool.Values{
	Detached: pgpool.Node{ID: 0, Host: "db1", Port: 5432, DataDir: "/data/one"},
	Main:     pgpool.Node{ID: 2, Host: "db3", Port: 5434, DataDir: "/data/three"},
	OldMain:  1,
	Primary:  pgpool.Node{ID: 0, Host: "10.0.0.1", Port: 5433},
}

func TestEveryPlaceholder(t *testing.T) {
	c, err := pgpool.ParseCommand("  /x %d %h %p %D %m %H %M %P %r %R %N %S %% a%hb%%c ")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Args(values)
	want := strings.Fields("0 db1 5432 /data/one 2 db3 1 0 5434 /data/three 10.0.0.1 5433 % adb1b%c")
	if err != nil || !slices.Equal(got, want) || c.Program() != "/x" {
		t.Errorf("%s %q, %v; want %q", c.Program(), got, err, want)
	}
	none := values
	none.Main = pgpool.Node{ID: pgpool.NoNode}
	got, err = c.Args(none)
	if want[4], want[5], want[8], want[9] = "-1", "", "", ""; err != nil || !slices.Equal(got, want) {
		t.Errorf("without a new main: %q, %v; want %q", got, err, want)
	}
}

// TestAsTheShellDoes: a line that is taken means what it means to pgpool, which
// replaces the placeholders and calls sh.
func TestAsTheShellDoes(t *testing.T) {
	for _, line := range []string{
		"/etc/pgpool-II/failover_stream.sh %d %H /tmp/trigger_file0",
		"/home/postgres/db/failover_stream.sh %d %h %p %D %m %M %H %P %r %R",
		"/etc/pgpool-II/failover.sh %d %h %p %D %m %H %M %P %r %R %N %S",
		`/usr/local/bin/failover.sh %d "%h" %p '%D' "%m" '%M' "%H is new" %P`,
		`/x "" '' a"b"'c'd %h"%H"%R`,
		`/x a\ b \"%d\" \\ "\"\\\$\` + "`" + `\a" '\' "'" '"'`,
		"/x\t%d \t %h",
		"/bin/sh -c 'echo \"$1\" >>/tmp/x; pg_ctl -D \"$1\" promote' sh %R",
		"/x x#y a~b -o=%h --dir=%D,%R %%%% ümlaut",
		"/x a\\\nb",
		"/usr/bin/env PGPORT=%p /x",
	} {
		c, err := pgpool.ParseCommand(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		got, err := c.Args(values)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		replaced := strings.NewReplacer("%%", "%", "%d", "0", "%h", "db1", "%p", "5432", "%D", "/data/one", "%m", "2", "%H", "db3",
			"%M", "1", "%P", "0", "%r", "5434", "%R", "/data/three", "%N", "10.0.0.1", "%S", "5433").Replace(line)
		out, err := exec.Command("sh", "-c", `printf '%s\0' x`+strings.TrimPrefix(replaced, c.Program())).Output()
		if err != nil {
			t.Fatalf("%s: sh: %v", line, err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")[1:]
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q, as sh has it", line, got, want)
		}
	}
}

func TestRefusedLines(t *testing.T) {
	for line, want := range map[string]string{
		"":                              "empty",
		"   ":                           "empty",
		"failover.sh %d":                `"failover.sh" has no absolute path`,
		"PGPORT=1 /x":                   "/usr/bin/env",
		"/x %D/%z":                      "no placeholder %z",
		"/x %ü":                         "no placeholder %ü",
		"/x 100%":                       "ends in %",
		"%D/failover.sh %h":             "depends on the placeholder %D",
		"/x %d >>/var/log/failover.log": `">"`,
		"/x %d 2>&1":                    `">"`,
		"/x %d && /y":                   `"&"`,
		"/x %d; /y":                     `";"`,
		"/x %d | /y":                    `"|"`,
		"/x $HOME":                      `"$"`,
		"/x \"$HOME\"":                  `"$"`,
		"/x `id`":                       "\"`\"",
		"/x \"`id`\"":                   "\"`\"",
		"/x $(id)":                      `"$"`,
		"/x (a)":                        `"("`,
		"/x *.sh":                       `"*"`,
		"/x {a,b}":                      `"{"`,
		"/x ~/a":                        `"~"`,
		"/x # a comment":                `"#"`,
		"/x a\n/y":                      `"\n"`,
		"/x 'a":                         "quote ' is not closed",
		`/x "a`:                         `quote " is not closed`,
		`/x a\`:                         "backslash",
		"/x a\x01":                      "control character",
		"/x %d \x7f":                    "control character",
	} {
		if c, err := pgpool.ParseCommand(line); err == nil || !strings.Contains(err.Error(), want) || !c.IsZero() {
			t.Errorf("%q: %v, %v; want an error about %s", line, c, err, want)
		}
	}
	if args, err := (pgpool.Command{}).Args(values); err == nil {
		t.Errorf("no command gave %q", args)
	}
}

// TestOddValuesAreRefused: what a shell would read as more than a word never
// leaves, in whatever field it stands.
func TestOddValuesAreRefused(t *testing.T) {
	c, err := pgpool.ParseCommand("/x %h %D %H %R %N")
	if err != nil {
		t.Fatal(err)
	}
	for _, odd := range []string{
		"two words", "'single'", `"double"`, `back\slash`, "$(id)", "`id`", "$HOME", "a;b", "a&b", "a|b", "*", "?", "[a]", "-oProxyCommand=x",
		"--help", "~", "~postgres", "line\nbreak", "tab\there", "!x", "{a,b}", "#c", "(a)", "<x", ">x", "\x00", "\xff", "\u00a0", "\u3000", "a\rb",
	} {
		for field, set := range map[string]func(*pgpool.Values){
			"0 (%d, %h, %D)": func(v *pgpool.Values) { v.Detached.Host = odd },
			"0 (%d, %h, %D":  func(v *pgpool.Values) { v.Detached.DataDir = odd },
			"2 (%m, %H, %R)": func(v *pgpool.Values) { v.Main.Host = odd },
			"2 (%m, %H, %R":  func(v *pgpool.Values) { v.Main.DataDir = odd },
			"0 (%P, %N":      func(v *pgpool.Values) { v.Primary.Host = odd },
		} {
			v := values
			set(&v)
			if args, err := c.Args(v); err == nil || !strings.Contains(err.Error(), "node "+field) {
				t.Errorf("%q in %s: %q, %v; want an error that names the node", odd, field, args, err)
			}
		}
		if err := (pgpool.Node{Host: "db1", Port: 1, DataDir: "/data/" + odd}).Check(); err == nil && odd[0] != '-' {
			t.Errorf("a data directory /data/%q was taken", odd)
		}
		if err := pgpool.CheckScript(odd); err == nil {
			t.Errorf("a script named %q was taken", odd)
		}
	}
	for _, fine := range []string{"db1.example.com", "10.0.0.1", "fe80::1%eth0", "/var/lib/postgresql/15/main", "Würzburg", "a_b-c@d+e=f"} {
		v := values
		v.Main.Host, v.Main.DataDir = fine, fine
		if args, err := c.Args(v); err != nil || args[2] != fine || args[3] != fine {
			t.Errorf("%q: %q, %v; want it as it is", fine, args, err)
		}
	}
}

func TestNodesForCopies(t *testing.T) {
	whole := pgpool.Node{ID: 1, Host: "db2", Port: 5432, DataDir: "/data"}
	if err := whole.Check(); err != nil {
		t.Error(err)
	}
	for name, n := range map[string]pgpool.Node{
		"no host": {ID: 1, Port: 5432, DataDir: "/data"}, "no port": {ID: 1, Host: "db2", DataDir: "/data"},
		"no directory": {ID: 1, Host: "db2", Port: 5432}, "relative": {ID: 1, Host: "db2", Port: 5432, DataDir: "data"},
		"the root": {ID: 1, Host: "db2", Port: 5432, DataDir: "//x/.."},
	} {
		if err := n.Check(); err == nil || !strings.Contains(err.Error(), "node 1") {
			t.Errorf("%s: %v; want an error that names the node", name, err)
		}
	}
	for name, fine := range map[string]bool{"basebackup.sh": true, "/opt/x.sh": true, "a/b": false, "..": false, "x %d": false, "x y": false} {
		if err := pgpool.CheckScript(name); (err == nil) != fine {
			t.Errorf("script %q: %v", name, err)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"/x %d 'a\"b' \"c\\\"\"", "/x \\%h%%", "/x '%H'\\ ", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := pgpool.ParseCommand(line)
		if err != nil {
			return
		}
		if _, err := c.Args(values); err != nil {
			t.Errorf("%q was taken, but: %v", line, err)
		}
	})
}
