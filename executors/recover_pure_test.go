package executors_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

func history(text string) []executors.PastTimeline { return executors.ParseHistory(text) }

func TestJudge(t *testing.T) {
	for _, c := range []struct{ name, node, up, want string }{
		{"behind on the same timeline", "1 0/500", "1 0/900", executors.HowStart},
		{"level", "1 0/900", "1 0/900", executors.HowStart},
		{"ahead on the same timeline", "1 0/901", "1 0/900", executors.HowBaseBackup},
		{"stopped before the switch", "1 0/500", "1 0/500\n2 0/900", executors.HowStart},
		{"went on behind the switch", "1 0/501", "1 0/500\n2 0/900", executors.HowRewind},
		{"went on, two switches ago", "1 0/501", "1 0/500\n2 0/600\n3 0/900", executors.HowRewind},
		{"on an ancestor in the middle", "1 0/500\n2 0/550", "1 0/500\n2 0/600\n3 0/900", executors.HowStart},
		{"promoted while the upstream was not", "1 0/500\n2 0/600", "1 0/900", executors.HowRewind},
		{"both took timeline 2, at different places", "1 0/500\n2 0/600", "1 0/400\n2 0/900", executors.HowRewind},
		{"timeline 2 against timeline 3", "1 0/500\n2 0/600", "1 0/500\n3 0/900", executors.HowRewind},
		{"nothing in common", "1 0/500\n2 0/600", "5 0/900", executors.HowBaseBackup},
	} {
		if got := executors.Judge(history(c.node), history(c.up)); got != c.want {
			t.Errorf("%s: %s, expected %s", c.name, got, c.want)
		}
	}
}

func TestParseHistory(t *testing.T) {
	got := history("# a comment\n1\t0/3000060\tno recovery target specified\n\n2\t1/AB000000\tx\nrubbish\n")
	if len(got) != 2 || got[0].End != 0x3000060 || got[1].Timeline != 2 || got[1].End != events.LSN(0x1ab000000) {
		t.Errorf("got %v, expected timelines 1 and 2", got)
	}
}

func TestMergeAutoConf(t *testing.T) {
	old := "# do not edit\nwork_mem = '4MB'\nPrimary_Conninfo='old' # x\r\nrecovery_target_lsn = '0/1'\nprimary_conninfo = 'older'"
	got := executors.MergeAutoConf(old, [][2]string{{"primary_conninfo", `host='it''s' \n`}, {"x.y", "a\nb"}}, []string{"recovery_target_lsn"})
	want := "# do not edit\nwork_mem = '4MB'\nprimary_conninfo = 'host=''it''''s'' \\\\n'\nx.y = 'a\\nb'\n"
	if got != want {
		t.Errorf("got\n%s\nexpected\n%s", got, want)
	}
}

func TestMergePassfile(t *testing.T) {
	up := executors.Upstream{Host: "db1", Port: 5432, User: "r", Password: `p:\w`}
	mine := `db1:5432:*:r:p\:\\w` + "\n"
	for _, c := range []struct {
		old, want string
		changed   bool
	}{
		{"", mine, true},
		{mine, "", false},
		{"db2:5432:*:r:x\n" + mine, "", false},
		{"db1:5432:*:r:old\n# kept\ndb2:1:*:r:x", mine + "# kept\ndb2:1:*:r:x\n", true},
		{"*:*:*:r:other\n" + mine, mine + "*:*:*:r:other\n", true}, // the first line that fits counts
		{"db1:5432:*:r:old\n" + mine, mine, true},
	} {
		got, changed := executors.MergePassfile([]byte(c.old), up)
		if string(got) != c.want || changed != c.changed {
			t.Errorf("of %q: %q, changed %t; expected %q, %t", c.old, got, changed, c.want, c.changed)
		}
	}
}

func TestPassfileHoldsNoLineBreak(t *testing.T) {
	for _, up := range []executors.Upstream{{User: "r", Password: "a\n*:*:*:*:b"}, {User: "r\r", Password: "a"}} {
		if err := executors.FitsPassfile(up); err == nil || strings.Contains(err.Error(), "*:*") {
			t.Errorf("of %+v: %v, expected an error without the password", up, err)
		}
	}
}

func TestDSNOfAnyHostAndPassword(t *testing.T) {
	for _, p := range []executors.Postgres{
		{Host: "::1", Port: 5433, User: "u"},
		{Host: "db1.example", Port: 5433, User: "u:@/?", Password: `p @:/?#%'"\&=`},
		{SocketDir: "/var/run/odd dir?&=+", Port: 5433, User: "u", Password: "p"},
	} {
		c, err := pgx.ParseConfig(p.DSN("it's a test"))
		if err != nil || c.TLSConfig != nil != (p.Host != "") || c.Host != p.Host+p.SocketDir || c.Port != 5433 || c.User != p.User || c.Password != p.Password || c.RuntimeParams["application_name"] != "it's a test" {
			t.Errorf("%+v came back as %+v, %v", p, c, err)
		}
	}
}

func TestSSLModeOverTCPOnly(t *testing.T) {
	for _, c := range []struct {
		host string
		want bool
	}{{"db1", true}, {"/run/postgresql", false}} {
		up := executors.Upstream{Host: c.host, Port: 1, User: "u", SSLMode: "verify-full"}
		if got := strings.Contains(up.Conninfo("db2"), " sslmode='verify-full'"); got != c.want {
			t.Errorf("%s: %s, expected the sslmode: %t", c.host, up.Conninfo("db2"), c.want)
		}
	}
	dsn := executors.Postgres{Host: "db1", Port: 1, SSLMode: "verify-full"}.DSN("x")
	if c, err := pgx.ParseConfig(dsn); err != nil || c.TLSConfig == nil || c.TLSConfig.ServerName != "db1" || len(c.Fallbacks) != 0 {
		t.Errorf("%s means %+v, %v; expected TLS only, with the name verified", dsn, c, err)
	}
}

func TestQuoteLiteral(t *testing.T) {
	a := newPrimary(t, "db1")
	for _, v := range []string{"", "it's", `back\slash`, `\'`, "ü\"$1 -- /* ;"} {
		for _, conforming := range []string{"on", "off"} {
			c := a.connect()
			var got string
			if _, err := c.Exec(t.Context(), "set standard_conforming_strings = "+conforming); err != nil {
				t.Fatal(err)
			}
			if err := c.QueryRow(t.Context(), "select "+executors.QuoteLiteral(v)).Scan(&got); err != nil || got != v {
				t.Errorf("%q came back as %q with standard_conforming_strings %s: %v", v, got, conforming, err)
			}
		}
	}
	if strings.Contains(executors.QuoteLiteral("plain"), "E") {
		t.Error("a plain value needs no escapes")
	}
}
