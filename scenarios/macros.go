package scenarios

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
)

// systemID is the system identifier of every story's cluster.
const systemID = "7300000000000000001"

// firstLSN is where a story's WAL is when nothing else is said.
const firstLSN = events.LSN(0x3000060)

// macro is a step that is not an event by its kind.
type macro struct {
	usage string
	play  func(p *Player, name arg, a args) error
}

// macros are filled by init, because some of them play others.
var macros map[string]macro

func init() {
	macros = map[string]macro{
		"cluster": {"cluster [nodes=3] [prefer=db3] [bootstrap=db1]: names the nodes, activates the rules, sets the default policy", (*Player).cluster},
		"running": {"running [nodes=3] [prefer=db3]: a healthy cluster, db1 its primary; tells only the outcome", (*Player).running},
		"policy":  {"policy FIELD=VALUE…: changes the policy", (*Player).policy},
		"agent":   {"agent NODE: its agent starts, with a guardian", (*Player).agent},
		"left":    {"left NODE: its agent ends in order", nodeFact(left)},
		"up":      {"up NODE primary|standby [lsn= tli=]: its agent (started if need be) sees PostgreSQL up", (*Player).up},
		"standby": {"standby NODE of=NODE [lsn= tli=]: it streams from the other", (*Player).standby},
		"serves":  {"serves NODE [lsn= tli=]: it is out of recovery", (*Player).serves},
		"pg":      {"pg NODE STATE: its own agent sees PostgreSQL in that state", (*Player).pg},
		"beat":    {"beat NODE: a heartbeat; of the holder of the lease, a renewal", (*Player).beat},
		"lease":   {"lease NODE: acquires or renews the lease under the newest grant", (*Player).lease},
		"crash":   {"crash NODE: the postmaster ended uncleanly", nodeFact(crash)},
		"stopped": {"stopped NODE: PostgreSQL was shut down cleanly", nodeFact(stopped)},
		"dead":    {"dead NODE [end=LSN cause= clean]: its agent proves it dead", (*Player).dead},
		"unfenced": {"unfenced NODE error=TEXT: its agent could not prove it dead", nodeFact(func(p *Player, n fsm.Node) events.Data {
			return events.FenceFailed{Node: n.Name, Term: p.state.Term}
		})},
		"position": {"position NODE [lsn= tli= error=]: it reports where its WAL ends", nodeFact(position)},
		"sees":     {"sees NODE OTHER STATE: its agent's probe of the other", (*Player).sees},
		"started":  {"started NODE ACTION: it begins its newest order of that kind", result("started")},
		"done":     {"done NODE ACTION", result("done")},
		"failed":   {"failed NODE ACTION [acted] error=TEXT", result("failed")},
		"refused":  {"refused NODE ACTION reason=TEXT", result("refused")},
		"asks":     {"asks switchover|failover|recover|detach|attach|pause|resume|shutdown|startup FIELD=VALUE…: anna does", (*Player).asks},
		"rings":    {"rings name=DEADLINE [node=NODE]: a wait that is due is over", (*Player).rings},
		"wait":     {"wait 3s: the clock moves, nothing is heard", (*Player).wait},
		"show":     {"show: the phase and the nodes' statuses", (*Player).tellState},
		"forge":    {"forge FIELD=VALUE…: a decision that no rule made, by a controller c9", (*Player).forge},
		"unknown":  {"unknown kind=NAME class=CLASS: an event of a kind from the future", (*Player).unknown},
	}
}

// Steps returns one line of help for each step that is not a kind of event.
func Steps() []string {
	var out []string
	for _, name := range sorted(macros) {
		out = append(out, macros[name].usage)
	}
	return out
}

// nodeOf takes the name of a node of the cluster.
func (p *Player) nodeOf(name arg, a *args) (fsm.Node, error) {
	w, err := a.take(name, "a node")
	if err != nil {
		return fsm.Node{}, err
	}
	n, ok := p.state.Node(w)
	if !ok {
		return fsm.Node{}, wrong(name.column, "%s: there is no node %q", name.name, w)
	}
	return n, nil
}

// nodeFact is a macro that is one fact about a node, with defaults.
func nodeFact(make func(*Player, fsm.Node) events.Data) func(*Player, arg, args) error {
	return func(p *Player, name arg, a args) error {
		n, err := p.nodeOf(name, &a)
		if err != nil {
			return err
		}
		return p.happen(make(p, n), a.renamed("tli", "timeline"))
	}
}

// renamed reads a short name of a field as its long one.
func (a args) renamed(short, long string) args {
	out := make(args, len(a))
	for i, x := range a {
		if x.name == short {
			x.name = long
		}
		out[i] = x
	}
	return out
}

func (p *Player) cluster(name arg, a args) error {
	count := 3
	if v, ok := a.pop("nodes"); ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 128 {
			return wrong(name.column, "nodes=%s must be a number from 1 to 128", v)
		}
		count = n
	}
	prefer, _ := a.pop("prefer")
	first, _ := a.pop("bootstrap")
	var members []events.Member
	for i := range count {
		m := events.Member{ID: i, Name: fmt.Sprintf("db%d", i+1), Host: "127.0.0.1", Port: 5432 + i, DataDir: fmt.Sprintf("/data/db%d", i+1), Weight: 1000}
		if m.Name == prefer {
			m.Priority = 10
		}
		members = append(members, m)
	}
	if err := p.happen(events.ClusterFormed{Cluster: "shop", Members: members, Created: true, Bootstrap: first, Actor: "anna"}, a); err != nil {
		return err
	}
	if err := p.happen(events.RulesActivated{RuleSet: events.RuleSet, Actor: "anna"}, nil); err != nil {
		return err
	}
	pol := events.DefaultPolicy()
	return p.happen(events.PolicySet{Policy: pol, Hash: pol.Hash(), Actor: "anna", Who: "anna@ops", Reason: "first"}, nil)
}

// running forms a cluster and waits until db1 serves and all others follow.
func (p *Player) running(name arg, a args) error {
	if err := p.cluster(name, a); err != nil {
		return err
	}
	for i, n := range p.state.Nodes {
		line := fmt.Sprintf("standby %s of=db1 lsn=%s", n.Name, firstLSN)
		if i == 0 {
			line = fmt.Sprintf("up %s primary lsn=%s", n.Name, firstLSN)
		}
		if err := p.step(line); err != nil {
			return err
		}
	}
	for _, line := range []string{"lease db1", "done db1 settle", "lease db1"} {
		if err := p.step(line); err != nil {
			return err
		}
	}
	p.out.Reset()
	p.show()
	p.tellDeadlines()
	p.out.Reset()
	p.show()
	return nil
}

func (p *Player) policy(_ arg, a args) error {
	pol := p.state.Policy
	body, err := patched(pol, "the policy", a)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &pol); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	return p.happen(events.PolicySet{Policy: pol, Hash: pol.Hash(), Actor: "anna", Who: "anna@ops", Reason: "as asked"}, nil)
}

func (p *Player) agent(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	run := fmt.Sprintf("%s-run-%d", n.Name, p.state.Seq+1)
	return p.happen(events.AgentStarted{Node: n.Name, PID: 100, Incarnation: run, BootID: n.Name + "-boot", Fence: "guardian", GuardianPID: 101, Version: "story"}, a)
}

func left(_ *Player, n fsm.Node) events.Data {
	return events.AgentStopped{Node: n.Name, Incarnation: n.Agent.Incarnation, Reason: "stopped in order"}
}

// seen appends what a node's agent sees, and starts that agent when none runs.
func (p *Player) seen(n fsm.Node, d events.PostgresSeen, a args) error {
	if n.AgentSeq == 0 || n.AgentLeft {
		if err := p.agent(arg{name: "agent"}, args{{name: n.Name}}); err != nil {
			return err
		}
	}
	d.Node, d.State, d.PID, d.SystemID, d.Version = n.Name, events.PostgresUp, 1000+n.ID, systemID, 150014
	d.Timeline = max(n.PG.Timeline, 1)
	d.LSN = max(n.LSN, firstLSN)
	return p.happen(d, a.renamed("tli", "timeline"))
}

func (p *Player) up(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	role, err := a.take(name, "primary or standby")
	if err != nil {
		return err
	}
	return p.seen(n, events.PostgresSeen{InRecovery: role != "primary"}, a)
}

func (p *Player) standby(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	of, _ := a.pop("of")
	if of == "" {
		of = p.state.Primary
	}
	return p.seen(n, events.PostgresSeen{InRecovery: true, Receiver: "streaming", Upstream: of}, a)
}

func (p *Player) serves(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	return p.seen(n, events.PostgresSeen{}, a)
}

func (p *Player) pg(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	state, err := a.take(name, "a state: up starting stopping refusing silent down unreachable")
	if err != nil {
		return err
	}
	return p.happen(events.PostgresSeen{Node: n.Name, State: events.PostgresState(state)}, a)
}

func (p *Player) pulse(n fsm.Node) events.Heartbeat {
	return events.Heartbeat{Node: n.Name, State: n.PG.State, LSN: n.LSN, Replay: n.Replay, Probes: events.ProbeSummary{Count: 4, MinMicros: 90, MedMicros: 120, MaxMicros: 300}}
}

func (p *Player) beat(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	if p.state.Grant.Node == n.Name && p.state.Grant.Acquired != 0 {
		return p.lease(name, append(args{{name: n.Name}}, a...))
	}
	return p.happen(p.pulse(n), a)
}

func (p *Player) lease(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	g := p.state.Grant
	if g.Acquired == 0 {
		return p.happen(events.LeaseAcquired{Node: n.Name, Term: g.Term, Grant: g.Seq, Fence: n.Agent.Fence, Incarnation: n.Agent.Incarnation, BootID: n.Agent.BootID}, a)
	}
	return p.happen(events.LeaseRenewed{Term: g.Term, Grant: g.Seq, Heartbeat: p.pulse(n)}, a)
}

func crash(p *Player, n fsm.Node) events.Data {
	return events.PostgresExited{Node: n.Name, PID: n.PG.PID, Term: p.state.Term}
}

func stopped(p *Player, n fsm.Node) events.Data {
	return events.PostgresExited{Node: n.Name, PID: n.PG.PID, Clean: true, Term: p.state.Term}
}

func (p *Player) dead(name arg, a args) error {
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	d := events.PostgresDead{
		Node: n.Name, PID: n.PG.PID, Term: p.state.Term, Cause: events.CauseCrashed, EndLSN: max(n.LSN, firstLSN),
		Timeline: max(n.PG.Timeline, 1), SystemID: systemID, StandbySignal: true, TookMicros: 30_000,
	}
	return p.happen(d, a.renamed("end", "end_lsn").renamed("tli", "timeline"))
}

// position answers the newest order for one.
func position(p *Player, n fsm.Node) events.Data {
	d := events.PositionReported{Node: n.Name, Timeline: max(n.PG.Timeline, 1), SystemID: systemID, LSN: max(n.LSN, firstLSN)}
	for _, o := range p.state.Orders {
		if o.Node == n.Name && o.Do == events.ActPosition {
			d.Decision = o.Decision
		}
	}
	d.Replay = d.LSN
	return d
}

func (p *Player) sees(name arg, a args) error {
	by, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	n, err := p.nodeOf(name, &a)
	if err != nil {
		return err
	}
	state, err := a.take(name, "a state: up starting stopping refusing silent down unreachable")
	if err != nil {
		return err
	}
	return p.happen(events.PeerSeen{Node: n.Name, By: by.Name, State: events.PostgresState(state)}, a)
}
