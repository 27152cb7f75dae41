package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/config/pgpool"
	"github.com/interrex-ha/interrex/events"
)

func TestNothingSet(t *testing.T) {
	t.Setenv("INTERREX_CLUSTER", "theirs") // Load reads what it is given, not the process's own
	c, err := Load([]string{"PATH=/bin", "INTERREX_DIR="})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Cluster: "main", Policy: events.DefaultPolicy(), Scripts: Scripts{FailoverWithin: 30 * time.Second, RecoveryWithin: 90 * time.Second}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

func TestTheLastOfANameCounts(t *testing.T) {
	for value, want := range map[string]string{"late": "late", "": "main"} {
		c, err := Load([]string{"INTERREX_CLUSTER=early", "INTERREX_CLUSTER=" + value})
		if err != nil || c.Cluster != want {
			t.Errorf("%q after early: got %q, %v; want %q", value, c.Cluster, err, want)
		}
	}
}

func TestEverythingSet(t *testing.T) {
	c, err := Load([]string{
		"INTERREX_DIR=/var/lib/ix", "INTERREX_CLUSTER=shop", "INTERREX_LOG_UNSAFE_SYNC=1",
		"INTERREX_NODE_0_DATA_DIRECTORY=/data/one/", "INTERREX_NODE_0_HOST=pg-a",
		"INTERREX_NODE_1_DATA_DIRECTORY=/data/two", "INTERREX_NODE_1_HOST=10.0.0.2", "INTERREX_NODE_1_PORT=5433",
		"INTERREX_NODE_1_NAME=second", "INTERREX_NODE_1_CONFIG_FILE=/etc/two.conf", "INTERREX_NODE_1_BIN_DIRECTORY=/usr/lib/postgresql/15/bin",
		"INTERREX_NODE_1_SERVICE=postgresql@15-two", "INTERREX_NODE_1_USER=interrex", "INTERREX_NODE_1_PASSFILE=/etc/pgpass",
		"INTERREX_NODE_1_SSLMODE=verify-full", "INTERREX_NODE_1_WEIGHT=0.5", "INTERREX_NODE_1_PRIORITY=-3",
		"INTERREX_POLICY_LEASE=6s", "INTERREX_POLICY_MAX_LAG=64MB",
		"INTERREX_SSH_CONFIG=/etc/ix/ssh", "INTERREX_NODE_0_EXECUTOR=ssh", "INTERREX_NODE_0_SSH_HOST=gate-a", "INTERREX_NODE_0_SSH_USER=postgres", "INTERREX_NODE_0_SSH_PORT=2222",
		"INTERREX_API_LISTEN=:8008", "INTERREX_API_TOKEN_FILE=/etc/ix//token", "INTERREX_API_CERT_FILE=/etc/ix/cert", "INTERREX_API_KEY_FILE=/etc/ix/key",
		"INTERREX_NODE_0_SSH_KEY=/etc/id", "INTERREX_NODE_1_EXECUTOR=docker", "INTERREX_NODE_1_CONTAINER=pg-b",
		"INTERREX_FAILOVER_COMMAND=/etc/pgpool-II/failover_stream.sh %d %H /tmp/trigger_file0", "INTERREX_SEARCH_PRIMARY_NODE_TIMEOUT=10s",
		"INTERREX_RECOVERY_1ST_STAGE_COMMAND=basebackup.sh", "INTERREX_RECOVERY_TIMEOUT=2m",
	})
	if err != nil {
		t.Fatal(err)
	}
	failover, err := pgpool.ParseCommand("/etc/pgpool-II/failover_stream.sh %d %H /tmp/trigger_file0")
	if err != nil {
		t.Fatal(err)
	}
	policy := events.DefaultPolicy()
	policy.Lease, policy.MaxLag = events.Duration(6*time.Second), 64<<20
	want := Config{
		Dir: "/var/lib/ix", Cluster: "shop", LogUnsafeSync: true, SSHConfig: "/etc/ix/ssh", API: API{":8008", "/etc/ix/token", "/etc/ix/cert", "/etc/ix/key"}, Policy: policy, PolicySet: []string{"lease", "max_lag"},
		Scripts: Scripts{Failover: failover, FailoverWithin: 10 * time.Second, FirstStage: "basebackup.sh", RecoveryWithin: 2 * time.Minute},
		Nodes: []Node{
			{ID: 0, Name: "pg-a", Host: "pg-a", DataDirectory: "/data/one", User: "postgres", SSLMode: "prefer", Weight: 1, Executor: "ssh",
				SSHHost: "gate-a", SSHUser: "postgres", SSHPort: 2222, SSHKey: "/etc/id", SSHConfig: "/etc/ix/ssh"},
			{
				ID: 1, Name: "second", Host: "10.0.0.2", Port: 5433, DataDirectory: "/data/two", ConfigFile: "/etc/two.conf",
				BinDirectory: "/usr/lib/postgresql/15/bin", Service: "postgresql@15-two", User: "interrex", Passfile: "/etc/pgpass",
				SSLMode: "verify-full", Weight: 0.5, Priority: -3, Executor: "docker", Container: "pg-b",
			},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	member := events.Member{ID: 1, Name: "second", Host: "10.0.0.2", Port: 5433, DataDir: "/data/two", Weight: 500, Priority: -3}
	if got := c.Nodes[1].Member(); got != member {
		t.Errorf("Member: got %+v, want %+v", got, member)
	}
}

// TestFindings shows each thing that can be wrong; every finding names the
// variable and what would be right.
func TestFindings(t *testing.T) {
	two := []string{"INTERREX_NODE_0_DATA_DIRECTORY=/a", "INTERREX_NODE_1_DATA_DIRECTORY=/b"}
	for _, c := range []struct {
		name string
		env  []string
		want []string // one finding each, in order: parts of it, joined by " … "
	}{
		{"a gap", []string{"INTERREX_NODE_0_DATA_DIRECTORY=/a", "INTERREX_NODE_2_DATA_DIRECTORY=/b"}, []string{"INTERREX_NODE_2_* … not node 1; … INTERREX_NODE_1_DATA_DIRECTORY"}},
		{"beginning at 1", []string{"INTERREX_NODE_1_DATA_DIRECTORY=/a"}, []string{"INTERREX_NODE_1_* … not node 0;"}},
		{"two gaps", []string{"INTERREX_NODE_3_DATA_DIRECTORY=/a", "INTERREX_NODE_1_DATA_DIRECTORY=/b"}, []string{"not node 0, 2;"}},
		{"no data directory", []string{"INTERREX_NODE_0_PORT=5432"}, []string{"INTERREX_NODE_0_DATA_DIRECTORY is not set"}},
		{"a misspelt node variable", append(two, "INTERREX_NODE_0_PROT=1"), []string{"INTERREX_NODE_0_PROT: … did you mean INTERREX_NODE_0_PORT?"}},
		{"a misspelt variable", []string{"INTERREX_CLUSTR=shop"}, []string{"INTERREX_CLUSTR: … did you mean INTERREX_CLUSTER?"}},
		{"a misspelt policy", []string{"INTERREX_POLICY_LEASES=5s"}, []string{"did you mean INTERREX_POLICY_LEASE?"}},
		{"a number with a zero before it", append(two, "INTERREX_NODE_01_PORT=1"), []string{"INTERREX_NODE_01_PORT: … look like INTERREX_NODE_0_PORT"}},
		{"a number out of range", append(two, "INTERREX_NODE_32_PORT=1"), []string{"INTERREX_NODE_32_PORT: … from 0 to 31"}},
		{"a bad port in every node", append(two, "INTERREX_NODE_0_PORT=99999", "INTERREX_NODE_1_PORT=x"), []string{`INTERREX_NODE_0_PORT="99999": … 1 to 65535`, `INTERREX_NODE_1_PORT="x": … 1 to 65535`}},
		{"port 0", append(two, "INTERREX_NODE_0_PORT=0"), []string{`INTERREX_NODE_0_PORT="0": … 1 to 65535`}},
		{"a port in the host", append(two, "INTERREX_NODE_0_HOST=db:5432"), []string{`INTERREX_NODE_0_HOST="db:5432": the host is "db"; put the port 5432 into PORT`}},
		{"a socket as host", append(two, "INTERREX_NODE_0_HOST=/run/postgresql"), []string{"socket directory"}},
		{"a dot in a name", append(two, "INTERREX_NODE_0_NAME=db1.example"), []string{`INTERREX_NODE_0_NAME="db1.example": … '.' is not allowed`}},
		{"a dot in the cluster", []string{"INTERREX_CLUSTER=a.b"}, []string{`INTERREX_CLUSTER="a.b":`}},
		{"one data directory", []string{"INTERREX_NODE_0_DATA_DIRECTORY=/a", "INTERREX_NODE_1_DATA_DIRECTORY=/b/../a/"}, []string{"INTERREX_NODE_1_DATA_DIRECTORY: … data directory /a as node 0"}},
		{"one address", append(two, "INTERREX_NODE_0_PORT=5432", "INTERREX_NODE_1_PORT=5432"), []string{"INTERREX_NODE_1_PORT: … 127.0.0.1:5432 as node 0"}},
		{"one name", append(two, "INTERREX_NODE_0_NAME=x-1", "INTERREX_NODE_1_NAME=x_1"), []string{"INTERREX_NODE_1_NAME: … slot interrex_x_1 as node 0"}},
		{"a relative path", []string{"INTERREX_NODE_0_DATA_DIRECTORY=data"}, []string{`INTERREX_NODE_0_DATA_DIRECTORY="data": … absolute`}},
		{"weights", append(two, "INTERREX_NODE_0_WEIGHT=-1", "INTERREX_NODE_1_WEIGHT=NaN"), []string{`INTERREX_NODE_0_WEIGHT="-1"`, `INTERREX_NODE_1_WEIGHT="NaN"`}},
		{"ssl mode", append(two, "INTERREX_NODE_0_SSLMODE=on"), []string{`INTERREX_NODE_0_SSLMODE="on": … verify-full`}},
		{"an executor", append(two, "INTERREX_NODE_0_EXECUTOR=rsh"), []string{`INTERREX_NODE_0_EXECUTOR="rsh": … local, ssh or docker`}},
		{"another executor's", append(two, "INTERREX_NODE_0_SSH_USER=postgres", "INTERREX_NODE_1_CONTAINER=x"), []string{`INTERREX_NODE_0_SSH_USER="postgres": … INTERREX_NODE_0_EXECUTOR=ssh`, `INTERREX_NODE_1_CONTAINER="x": … EXECUTOR=docker`}},
		{"no container", append(two, "INTERREX_NODE_0_EXECUTOR=docker"), []string{"INTERREX_NODE_0_CONTAINER is not set"}},
		{"a user in ssh's host", append(two, "INTERREX_NODE_0_EXECUTOR=ssh", "INTERREX_NODE_0_SSH_HOST=postgres@db"), []string{`INTERREX_NODE_0_SSH_HOST="postgres@db": … SSH_USER`}},
		{"ssh's port and key", append(two, "INTERREX_NODE_0_EXECUTOR=ssh", "INTERREX_NODE_0_SSH_PORT=0", "INTERREX_NODE_0_SSH_KEY=id"), []string{`INTERREX_NODE_0_SSH_KEY="id": … absolute`, `INTERREX_NODE_0_SSH_PORT="0": … 1 to 65535`}},
		{"one directory on one other host", []string{"INTERREX_NODE_0_DATA_DIRECTORY=/a", "INTERREX_NODE_0_EXECUTOR=ssh", "INTERREX_NODE_1_DATA_DIRECTORY=/a", "INTERREX_NODE_1_EXECUTOR=ssh"}, []string{"INTERREX_NODE_1_DATA_DIRECTORY: … data directory /a ssh 127.0.0.1 as node 0"}},
		{"the API", []string{"INTERREX_API_LISTEN=8008", "INTERREX_API_TOKEN_FILE=token", "INTERREX_API_KEY_FILE=key"}, []string{`INTERREX_API_LISTEN="8008": … HOST:PORT`, `INTERREX_API_TOKEN_FILE="token": … absolute`, `INTERREX_API_KEY_FILE="key": … absolute`}},
		{"a bool", []string{"INTERREX_LOG_UNSAFE_SYNC=maybe"}, []string{`INTERREX_LOG_UNSAFE_SYNC="maybe": it must be true or false`}},
		{"no unit", []string{"INTERREX_POLICY_LEASE=5"}, []string{`INTERREX_POLICY_LEASE="5": … duration`}},
		{"bytes", []string{"INTERREX_POLICY_MAX_LAG=16 parsecs"}, []string{`INTERREX_POLICY_MAX_LAG="16 parsecs": … bytes`}},
		{"an inequality", []string{"INTERREX_POLICY_HANG=600ms", "INTERREX_POLICY_SETTLE_WAIT=9s"}, []string{"INTERREX_POLICY_HANG: policy: hang=600ms must be at least twice"}},
		{"an unknown placeholder", []string{"INTERREX_FAILOVER_COMMAND=/x %z"}, []string{`INTERREX_FAILOVER_COMMAND="/x %z": … no placeholder %z`}},
		{"a program without a path", []string{"INTERREX_FAILOVER_COMMAND=failover.sh %h"}, []string{`INTERREX_FAILOVER_COMMAND="failover.sh %h": … absolute path`}},
		{"a line for a shell", []string{"INTERREX_FAILOVER_COMMAND=/x %h >/tmp/x"}, []string{`INTERREX_FAILOVER_COMMAND="/x %h >/tmp/x": ">" … without one`}},
		{"a recovery script elsewhere", []string{"INTERREX_RECOVERY_1ST_STAGE_COMMAND=bin/x.sh"}, []string{`INTERREX_RECOVERY_1ST_STAGE_COMMAND="bin/x.sh": … absolute path`}},
		{"a recovery script with arguments", []string{"INTERREX_RECOVERY_1ST_STAGE_COMMAND=x.sh %h"}, []string{`INTERREX_RECOVERY_1ST_STAGE_COMMAND="x.sh %h": … seven arguments`}},
		{"pgpool's seconds", []string{"INTERREX_RECOVERY_TIMEOUT=90"}, []string{`INTERREX_RECOVERY_TIMEOUT="90": … duration`}},
		{"no time at all", []string{"INTERREX_SEARCH_PRIMARY_NODE_TIMEOUT=0s"}, []string{`INTERREX_SEARCH_PRIMARY_NODE_TIMEOUT="0s": … more than 0`}},
		{"a mode that is not there yet", []string{"INTERREX_POLICY_DURABILITY=quorum"}, []string{"INTERREX_POLICY_DURABILITY: … use async"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(c.env)
			checkFindings(t, err, c.want)
		})
	}
}

func TestAllFindingsAtOnce(t *testing.T) {
	_, err := Load([]string{
		"INTERREX_CLUSTER=A", "INTERREX_NODE_0_PORT=x", "INTERREX_NODE_2_DATA_DIRECTORY=b", "INTERREX_POLICY_LEASE=1", "INTERREX_TYPO=secret",
	})
	checkFindings(t, err, []string{
		"INTERREX_TYPO: there is no such variable", `INTERREX_CLUSTER="A"`, "INTERREX_NODE_2_*: … not node 1", `INTERREX_NODE_0_PORT="x"`,
		"INTERREX_NODE_0_DATA_DIRECTORY is not set", `INTERREX_NODE_2_DATA_DIRECTORY="b"`, `INTERREX_POLICY_LEASE="1"`,
	})
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Error("the value of an unknown variable is shown")
	}
}

func checkFindings(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d findings, want %d:\n%v", len(lines), len(want), err)
	}
	for i, w := range want {
		rest := lines[i]
		for _, part := range strings.Split(w, " … ") {
			_, after, found := strings.Cut(rest, part)
			if !found {
				t.Errorf("finding %d is\n  %s\nwithout %q", i, lines[i], part)
				break
			}
			rest = after
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name  string
		hosts []string
		env   []string
		want  []string
	}{
		{"hosts are names", []string{"pg-a", "pg-b"}, nil, []string{"pg-a", "pg-b"}},
		{"addresses are not", []string{"10.0.0.1", "::1"}, nil, []string{"db1", "db2"}},
		{"nor localhost", []string{"localhost"}, nil, []string{"db1"}},
		{"nor capitals", []string{"PG", "pg"}, nil, []string{"db1", "pg"}},
		{"one host twice", []string{"pg", "pg"}, nil, []string{"db1", "db2"}},
		{"a host that another node is called", []string{"pg", "x"}, []string{"INTERREX_NODE_1_NAME=pg"}, []string{"db1", "pg"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := c.env
			for i, h := range c.hosts {
				n := string(rune('0' + i))
				env = append(env, "INTERREX_NODE_"+n+"_HOST="+h, "INTERREX_NODE_"+n+"_DATA_DIRECTORY=/d"+n)
			}
			cfg, err := Load(env)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range cfg.Nodes {
				got = append(got, n.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDir(t *testing.T) {
	here, err := filepath.Abs("x")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, flag string
		env        map[string]string
		uid        int
		want       string
	}{
		{"flag first", "/f", map[string]string{"INTERREX_DIR": "/e"}, 0, "/f"},
		{"a relative flag", "x", nil, 0, here},
		{"variable", "", map[string]string{"INTERREX_DIR": "/e/"}, 0, "/e"},
		{"root", "", map[string]string{"HOME": "/root", "XDG_STATE_HOME": "/s"}, 0, "/var/lib/interrex"},
		{"state", "", map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, 7, "/s/interrex"},
		{"a relative state is void", "", map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "s"}, 7, "/home/a/.local/state/interrex"},
		{"home", "", map[string]string{"HOME": "/home/a"}, 7, "/home/a/.local/state/interrex"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := dirFor(c.flag, func(k string) string { return c.env[k] }, c.uid); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
