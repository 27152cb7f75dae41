package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/view"
)

// phases are all that a cluster can be in, in the order of the story they tell.
var phases = []events.Phase{
	events.Forming, events.Healthy, events.Suspect, events.Fencing, events.Electing, events.Promoting,
	events.Settling, events.Switching, events.Stalled,
}

// Kinds of a failover, in interrex_failovers_total.
const (
	kindAutomatic  = "automatic"  // decided by the rules alone
	kindRequested  = "requested"  // an operator asked for a failover
	kindSwitchover = "switchover" // planned: the old primary had stopped cleanly
	kindResumed    = "resumed"    // the old primary took over again
)

var kinds = []string{kindAutomatic, kindRequested, kindSwitchover, kindResumed}

// metrics counts what is only seen while the log is read, and is told of every
// event once: the numbers are those of the whole log, also after a restart.
type metrics struct {
	failovers *prometheus.CounterVec
	durations *prometheus.HistogramVec

	began   time.Time // the phase, by the time in the log
	asked   bool      // the primary's loss began with an operator's failover
	primary string    // of the term before
}

func newMetrics() *metrics {
	m := &metrics{
		failovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "interrex_failovers_total",
			Help: "Decisions in the log that named a primary for a new term after the first, by kind: automatic, requested (an operator's failover), switchover, resumed (the old primary again).",
		}, []string{"kind"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "interrex_phase_duration_seconds",
			Help:    "How long the cluster was in a phase that has ended, by the times in the log.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400},
		}, []string{"phase"}),
	}
	for _, k := range kinds {
		m.failovers.WithLabelValues(k)
	}
	return m
}

// seen is called once for each event, with the phase before it and the state
// after it.
func (m *metrics) seen(e events.Event, before events.Phase, since uint64, s fsm.State) {
	if m.began.IsZero() {
		m.began = e.Time
	}
	d, ok := e.Data.(events.Decided)
	if !ok || s.LastDecision != e.Seq {
		return
	}
	if on := fsm.Trigger(d.Trigger); on == fsm.FailoverAsked || on == fsm.FailoverAccepted {
		m.asked = true
	}
	if d.Grant != nil && s.Grant.Begun == e.Seq && d.Grant.Term > 1 {
		m.failovers.WithLabelValues(m.kind(before, d)).Inc()
	}
	m.primary = s.Primary
	if s.PhaseSince == since {
		return
	}
	m.durations.WithLabelValues(string(before)).Observe(max(0, e.Time.Sub(m.began).Seconds()))
	m.began = e.Time
	if s.Phase == events.Healthy {
		m.asked = false
	}
}

func (m *metrics) kind(before events.Phase, d events.Decided) string {
	switch {
	case d.Grant.Node == m.primary:
		return kindResumed
	case m.asked:
		return kindRequested
	case before == events.Switching:
		return kindSwitchover
	}
	return kindAutomatic
}

// gauges shows the follower's state at the moment at which it is collected.
type gauges struct {
	f *follower

	phase, term, paused, status, role, lag, margin, seq, tail, connected, age, alarms *prometheus.Desc
}

func newGauges(f *follower) gauges {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("interrex_"+name, help, labels, nil)
	}
	return gauges{
		f:         f,
		phase:     desc("phase", "1 for the phase that the cluster is in, 0 for the others.", "phase"),
		term:      desc("term", "Number of the decision that named the present primary; it grows with each failover."),
		paused:    desc("paused", "1 while automatic failover is suspended by an operator."),
		status:    desc("node_status", "pgpool's status of a node: 0 unused, 1 waiting, 2 up, 3 down.", "node"),
		role:      desc("node_role", "1 for the role that the cluster assigns to a node, primary or standby.", "node", "role"),
		lag:       desc("node_replication_lag_bytes", "WAL of the primary that a standby has not received, by the last reports of both.", "node"),
		margin:    desc("lease_margin_seconds", "The policy's lease minus the time since the primary's last renewal was heard; below 0 it has run out. Absent while no lease was taken in this term."),
		seq:       desc("log_sequence", "Sequence of the last event of the log that is folded here."),
		tail:      desc("log_tail_sequence", "Sequence of the log's last event when it was asked last."),
		connected: desc("follower_connected", "1 when the state shown here is not older than the API's bound; the other numbers are of use only then."),
		age:       desc("follower_age_seconds", "Age of the state shown here: since the log was asked for its end and nothing was missing."),
		alarms:    desc("alarms", "Alarms that the log has raised: void decisions, events of an unknown kind."),
	}
}

// Describe implements prometheus.Collector.
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.phase, g.term, g.paused, g.status, g.role, g.lag, g.margin, g.seq, g.tail, g.connected, g.age, g.alarms} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	s, renewed, err := g.f.peek()
	tail, age := g.f.distance()
	show := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, p := range phases {
		show(g.phase, one(s.Phase == p), string(p))
	}
	show(g.term, float64(s.Term))
	show(g.paused, one(s.Paused()))
	for _, n := range view.Nodes(s) {
		show(g.status, float64(n.Status), n.Name)
		show(g.role, one(n.Role == "primary"), n.Name, "primary")
		show(g.role, one(n.Role == "standby"), n.Name, "standby")
		if n.Role == "standby" {
			show(g.lag, float64(n.ReplicationDelay), n.Name)
		}
	}
	if s.Grant.Renewed != 0 {
		show(g.margin, (s.Policy.Lease.D() - renewed).Seconds())
	}
	show(g.seq, float64(s.Seq))
	show(g.tail, float64(tail))
	show(g.connected, one(err == nil))
	if age >= 0 {
		show(g.age, age.Seconds())
	}
	show(g.alarms, float64(len(s.Alarms)))
}

// distance returns the newest known end of the log and how old the state is,
// negative when it never was complete.
func (f *follower) distance() (tail uint64, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asOf.IsZero() {
		return f.tail, -1
	}
	return f.tail, time.Since(f.asOf)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// buildInfo tells the version, as Prometheus' exporters do.
func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "interrex_build_info", Help: "Always 1; the labels say which version runs and by which rule set.",
	}, []string{"version", "rule_set"})
	g.WithLabelValues(version, strconv.Itoa(events.RuleSet)).Set(1)
	return g
}
