//go:build linux

package api

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/lab"
)

// haproxyConfig is what a user writes: one check for all servers, each asked
// for by its own name.
const haproxyConfig = `
defaults
  mode tcp
  timeout connect 1s
  timeout client 1m
  timeout server 1m
  timeout check 1s

listen primary
  bind 127.0.0.1:%[1]d
  option httpchk
  http-check send meth GET uri-lf /nodes/%%[srv_name]/primary
  http-check expect status 200
  default-server check addr 127.0.0.1 port %[2]s inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
%[3]s
listen replicas
  bind 127.0.0.1:%[4]d
  option httpchk
  http-check send meth OPTIONS uri-lf /nodes/%%[srv_name]/replica?lag=16MB
  http-check expect status 200
  default-server check addr 127.0.0.1 port %[2]s inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
%[3]s
listen stats
  mode http
  bind 127.0.0.1:%[5]d
  stats enable
  stats uri /
`

// proxy is an HAProxy before a cluster.
type proxy struct {
	c                        *cluster
	primary, replicas, stats int
}

// haproxy starts Debian's HAProxy. Without it the test is left out with a word;
// never in CI.
func (c *cluster) haproxy() *proxy {
	c.t.Helper()
	program := "/usr/sbin/haproxy"
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("haproxy"); err != nil {
			if os.Getenv("CI") != "" {
				c.t.Fatal("there is no haproxy: run scripts/setup.sh haproxy")
			}
			c.t.Skip("NOT TESTED behind HAProxy: there is none; run scripts/setup.sh haproxy")
		}
	}
	p := &proxy{c: c, primary: freePort(c.t, 3)}
	p.replicas, p.stats = p.primary+1, p.primary+2
	at, err := url.Parse(c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	var servers strings.Builder
	for _, n := range c.layout.Nodes {
		fmt.Fprintf(&servers, "  server %s %s:%d\n", n.Name, n.Host, n.Port)
	}
	file := filepath.Join(c.t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(haproxyConfig, p.primary, at.Port(), servers.String(), p.replicas, p.stats)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	h := start(c.t, nil, program, "-db", "-f", file)
	h.eventually("HAProxy's view of the cluster", func() bool { return len(p.up("primary")) == 1 && len(p.up("replicas")) == 1 })
	return p
}

// up returns the servers of a proxy that HAProxy sends clients to.
func (p *proxy) up(name string) (names []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/;csv", p.stats), nil)
	if err != nil {
		return nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	rows := csv.NewReader(resp.Body)
	rows.FieldsPerRecord = -1
	all, _ := rows.ReadAll()
	const proxyName, serverName, status = 0, 1, 17
	for _, r := range all {
		if len(r) > status && r[proxyName] == name && r[serverName] != "BACKEND" && r[serverName] != "FRONTEND" && strings.HasPrefix(r[status], "UP") {
			names = append(names, r[serverName])
		}
	}
	return names
}

// dsn is what a client has: one address, nothing of the nodes.
func (p *proxy) dsn() string {
	n := p.c.layout.Nodes[0]
	return strings.Replace(p.c.layout.NodeDSN(n.Name), fmt.Sprintf(":%d/", n.Port), fmt.Sprintf(":%d/", p.primary), 1)
}

// writers are clients that write through the proxy.
type writers []*lab.Client

func (p *proxy) write(n int) (w writers) {
	p.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range n {
		one, err := lab.StartClient(ctx, lab.ClientOptions{DSN: p.dsn(), Run: fmt.Sprintf("w%d", i)})
		if err != nil {
			p.c.t.Fatal(err)
		}
		p.c.t.Cleanup(one.Stop)
		w = append(w, one)
	}
	return w
}

// reach waits until every writer has written to a node after a moment.
func (w writers) reach(c *cluster, node string, after time.Time) {
	c.t.Helper()
	n, err := c.layout.Node(node)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, one := range w {
		if _, err := one.AwaitPort(ctx, after, n.Port); err != nil {
			c.t.Fatal(err)
		}
	}
}

// settle ends the writing: the acknowledgements of all writers together came
// from these nodes one after the other, never from two at a time and never from
// an earlier one again; and what was acknowledged is there, but for what the
// failover of an asynchronous cluster admits to have lost.
func (w writers) settle(c *cluster, nodes ...string) {
	c.t.Helper()
	var all []lab.Ack
	for _, one := range w {
		one.Stop()
		all = append(all, one.Acks()...)
	}
	slices.SortFunc(all, func(a, b lab.Ack) int { return a.At.Compare(b.At) })
	var served []string
	for _, a := range all {
		if n := c.layout.NodeAt(a.Port); len(served) == 0 || served[len(served)-1] != n {
			served = append(served, n)
		}
	}
	if !slices.Equal(served, nodes) {
		c.t.Errorf("writes were acknowledged by %v one after the other, want %v", served, nodes)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lost := uint64(0)
	for i, one := range w {
		v, err := one.Verify(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		lost += uint64(len(v.Lost))
		c.t.Logf("writer %d: %d acknowledged, %d present; errors %v", i, v.Acknowledged, v.Present, one.Errors())
	}
	const row = 64 // a committed row takes more WAL than this
	if bytes, exact := c.admitted(); exact && lost*row > bytes {
		c.t.Errorf("%d acknowledged rows are lost, and the log admits the loss of %d bytes of WAL only", lost, bytes)
	}
}

// admitted is the loss that the decisions in the log tell of.
func (c *cluster) admitted() (bytes uint64, exact bool) {
	c.t.Helper()
	var page struct {
		Events []events.Stored `json:"events"`
		Next   uint64          `json:"next"`
		More   bool            `json:"more"`
	}
	for exact, page.More = true, true; page.More; {
		body := wants(c.t, 200, "", "GET", fmt.Sprintf("%s/v1/events?after=%d&limit=1000", c.url, page.Next), "")
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			c.t.Fatalf("%v\n%s", err, body)
		}
		for _, s := range page.Events {
			e, err := s.Import()
			if err != nil {
				c.t.Fatal(err)
			}
			if d, ok := e.Data.(events.Decided); ok && d.Loss != nil {
				bytes += d.Loss.Bytes
				exact = exact && d.Loss.Exact
			}
		}
	}
	return bytes, exact
}

// watcher looks again and again whom the API and HAProxy call the primary.
type watcher struct {
	stop func()
	mu   sync.Mutex
	two  []string
	none int // answers by which nobody was
	rest int
}

func (p *proxy) watch() *watcher {
	x := &watcher{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	look := func(who string, primaries func() []string) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				x.saw(who, primaries())
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		}()
	}
	look("HAProxy", func() []string { return p.up("primary") })
	look("GET /nodes/NODE/primary", func() (names []string) {
		for _, n := range p.c.layout.Nodes {
			if p.c.status("/nodes/"+n.Name+"/primary") == http.StatusOK {
				names = append(names, n.Name)
			}
		}
		return names
	})
	x.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	p.c.t.Cleanup(x.stop)
	return x
}

func (x *watcher) saw(who string, primaries []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch len(primaries) {
	case 0:
		x.none++
	case 1:
		x.rest++
	default:
		x.two = append(x.two, fmt.Sprintf("%s at %s: %v", who, time.Now().Format("15:04:05.000"), primaries))
	}
}

// TestHAProxyFollows: clients that know one address only write on through a
// crash of the primary and through a switchover that is asked for over HTTP, and
// never to two servers.
func TestHAProxyFollows(t *testing.T) {
	c := newCluster(t)
	first, second := c.healthy()
	p := c.haproxy()
	eyes := p.watch()
	w := p.write(3)

	_, at, err := c.layout.KillPostmaster(first)
	if err != nil {
		t.Fatal(err)
	}
	w.reach(c, second, at)
	t.Logf("writes went on %s after the crash of %s", outage(w, at), first)
	c.failedOver(first, second)

	wants(t, 200, `"status": "decided"`, "POST", c.url+"/v1/recover", fmt.Sprintf(`{"node":%q,"who":"anna"}`, first), "Idempotency-Key", "bring-it-back")
	c.healthy()
	c.up.eventually("HAProxy reads from "+first, func() bool { return slices.Equal(p.up("replicas"), []string{first}) })

	asked := time.Now()
	wants(t, 200, `"status": "decided"`, "POST", c.url+"/v1/switchover", fmt.Sprintf(`{"node":%q,"who":"anna","reason":"to see it"}`, first))
	w.reach(c, first, asked)
	if primary, _ := c.healthy(); primary != first {
		t.Errorf("after the switchover %s is primary, want %s", primary, first)
	}
	eyes.stop()
	w.settle(c, first, second, first)
	if len(eyes.two) > 0 || eyes.none == 0 || eyes.rest == 0 {
		t.Errorf("two primaries %d times, one %d times, none %d times (want both of these): %v", len(eyes.two), eyes.rest, eyes.none, eyes.two)
	}
	c.replica(p, second)
}

// outage is the longest of the writers'.
func outage(w writers, at time.Time) (longest time.Duration) {
	for _, one := range w {
		d, _ := one.Outage(at)
		longest = max(longest, d)
	}
	return longest.Round(time.Millisecond)
}

// failedOver looks at what the API tells of a failover.
func (c *cluster) failedOver(old, now string) {
	c.t.Helper()
	c.up.eventually("a healthy cluster of "+now, func() bool { s := c.shows(); return s.Phase == "healthy" && s.Primary == now })
	wants(c.t, 503, now+" is the primary of term", "GET", c.url+"/nodes/"+old+"/primary", "")
	wants(c.t, 503, "", "GET", c.url+"/nodes/"+old+"/replica", "")
	wants(c.t, 200, `"proof"`, "GET", c.url+"/v1/decisions/last", "")
	wants(c.t, 200, `interrex_failovers_total{kind="automatic"} 1`+"\n", "GET", c.url+"/metrics", "")
}

// replica wants that the other address leads to a standby.
func (c *cluster) replica(p *proxy, node string) {
	c.t.Helper()
	c.up.eventually(node+" as the only replica", func() bool { return slices.Equal(p.up("replicas"), []string{node}) })
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.replicas), patience)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = conn.Close()
}
