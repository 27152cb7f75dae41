package integration

import (
	"encoding/json"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm"
)

// cutLease leaves a busy machine seconds between the first suspicion and the
// moment at which the cut primary must stop.
const cutLease = "8s"

// TestPrimaryCutFromTheLogOnly: an idle cluster, whose replication and sessions
// are untouched, while the primary's agent cannot reach the log (TRIED 14, 15).
func TestPrimaryCutFromTheLogOnly(t *testing.T) {
	c := up(t, 2, "INTERREX_POLICY_LEASE="+cutLease)
	p := c.throughProxy(c.allUp())
	t.Run("for less than the lease", func(t *testing.T) { cutBriefly(c.on(t), p) })
	t.Run("for longer than the lease", func(t *testing.T) { cutForLong(c.on(t), p) })
}

// cutBriefly: the silence is noticed and the primary goes on, in its term.
func cutBriefly(c *cluster, p *proxy) {
	s := c.allUp()
	server := c.postmaster(s.Primary)
	p.cut(true)
	c.await("suspicion", func(n fsm.State) bool { return n.Phase == events.Suspect })
	p.cut(false)
	c.await("the false alarm to be over", func(n fsm.State) bool { return n.Phase == events.Healthy && n.Grant.Renewed > s.Seq })
	c.unchanged(s, server)
	c.replays()
}

// cutForLong: the primary stops itself when its lease ends, and only then is
// another promoted: by the proof that the lease is over, for nobody can say that
// it is dead.
func cutForLong(c *cluster, p *proxy) {
	s := c.allUp()
	inc, ok, err := executors.FindPostmaster(c.layout.Postgres(s.Primary).DataDir)
	if err != nil || !ok {
		c.t.Fatalf("the postmaster of %s: found %t, %v", s.Primary, ok, err)
	}
	w, err := executors.Watch(inc)
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Close()
	stopped := make(chan time.Time, 1)
	go func() {
		<-w.Done()
		stopped <- time.Now()
	}()
	p.cut(true)
	now := c.failedOver(s)
	var end time.Time
	select {
	case end = <-stopped:
	default:
		c.t.Fatalf("%s was promoted while the old primary's postmaster (pid %d) lives", now.Primary, inc.PID)
	}
	promoted := c.promotionAfter(s.Seq)
	if !end.Before(promoted.Time) {
		c.t.Errorf("decision %d named %s at %s; the old primary stopped at %s", promoted.Seq, now.Primary, promoted.Time, end)
	}
	if proof := c.proofOf(s.Seq); proof.Kind != events.ProofExpired {
		c.t.Errorf("the proof is %q; expected expired", proof.Kind)
	}
	c.t.Logf("the old primary stopped %s before the promotion was decided", promoted.Time.Sub(end))
	p.cut(false)
	c.await("the old primary's death to be reported", func(n fsm.State) bool {
		old, _ := n.Node(s.Primary)
		return old.DeadSeq > promoted.Seq
	})
	c.nothingLeft(s.Primary)
	c.sameTerm(now.Term, now.Primary)
	c.recover()
	c.replays()
}

// promotionAfter is the first decision after a sequence that names a primary of
// a new term.
func (c *cluster) promotionAfter(seq uint64) events.Event {
	c.t.Helper()
	for _, e := range c.story.decisions(seq) {
		if d := e.Data.(events.Decided); d.Grant != nil && d.To == events.Promoting {
			return e
		}
	}
	c.t.Fatal("no decision names another primary")
	return events.Event{}
}

// throughProxy makes the primary's agent, and it alone, reach the log through a
// proxy: the address is changed for whoever connects from here on, and the agent
// is replaced.
func (c *cluster) throughProxy(s fsm.State) *proxy {
	c.t.Helper()
	a, err := readAddress(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		c.t.Fatal(err)
	}
	p := newProxy(c.t, u.Host)
	direct := a
	c.t.Cleanup(func() { // before the proxy ends: whoever it then loses finds the log
		c.writeAddress(direct)
		p.close()
	})
	u.Host = p.listener.Addr().String()
	a.URL = u.String()
	c.writeAddress(a)
	pid, _ := c.guards(s.Primary)
	c.kill(pid)
	c.takenOver(s)
	if p.connections() == 0 {
		c.t.Fatal("the new agent does not come through the proxy")
	}
	return p
}

// writeAddress writes in place: the file keeps the owner that every part can
// read it by.
func (c *cluster) writeAddress(a address) {
	c.t.Helper()
	b, err := json.Marshal(a)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "log.json"), b, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// proxy forwards TCP connections. While it is cut it forwards nothing and ends
// nothing: what a network does whose packets are dropped.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	flows *sync.Cond
	isCut bool
	ended bool
	conns []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target}
	p.flows = sync.NewCond(&p.mu)
	go p.accept()
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		go p.forward(out, in)
		go p.forward(in, out)
	}
}

func (p *proxy) forward(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil || !p.pass() {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// pass waits while the proxy is cut; false when it has ended.
func (p *proxy) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.isCut && !p.ended {
		p.flows.Wait()
	}
	return !p.ended
}

func (p *proxy) cut(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = yes
	p.flows.Broadcast()
}

func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.flows.Broadcast()
	for _, c := range p.conns {
		c.Close()
	}
}
