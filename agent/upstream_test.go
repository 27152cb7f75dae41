package agent

import (
	"testing"

	"github.com/interrex-ha/interrex/events"
)

// TestUpstreamName: the node that feeds a receiver is found by what the receiver
// says of its connection.
func TestUpstreamName(t *testing.T) {
	a := &Agent{view: view{members: []events.Member{
		{Name: "db1", Host: "127.0.0.1", Port: 5432}, {Name: "db2", Host: "db2.example", Port: 5433},
	}}}
	for _, c := range []struct {
		host string
		port int
		want string
	}{
		{"127.0.0.1", 5432, "db1"},
		{"localhost", 5432, "db1"},
		{"/var/run/postgresql", 5432, "db1"},
		{"/var/run/postgresql", 5433, "db2"}, // a socket leads to this host, whatever the member calls it
		{"db2.example", 5433, "db2"},
		{"db1.example", 5432, "db1.example:5432"},
		{"127.0.0.1", 6000, "127.0.0.1:6000"},
		{"", 0, ""},
	} {
		if got := a.upstreamName(c.host, c.port); got != c.want {
			t.Errorf("%s:%d is %q, want %q", c.host, c.port, got, c.want)
		}
	}
}
