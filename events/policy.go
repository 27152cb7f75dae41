package events

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Policy is everything about time and risk that an operator may choose. It
// lives in the log; its hash is in every decision. All fields are plain
// numbers, so that two controllers can never read it differently.
type Policy struct {
	Durability   string   `json:"durability"`    // "async": the only mode of this rule set
	Lease        Duration `json:"lease"`         // L: how long one acknowledged renewal lets the primary take writes
	Renew        Duration `json:"renew"`         // between renewals
	StopBudget   Duration `json:"stop_budget"`   // D_stop: time to kill every process of a PostgreSQL
	Margin       Duration `json:"margin"`        // sigma: scheduling noise on top of it
	DriftPPM     int64    `json:"drift_ppm"`     // rho: bound on the rate error of CLOCK_MONOTONIC_RAW
	Grace        Duration `json:"grace"`         // silence before the primary is suspect
	Heartbeat    Duration `json:"heartbeat"`     // of a standby's agent
	ProbeEvery   Duration `json:"probe_every"`   //
	ProbeTimeout Duration `json:"probe_timeout"` //
	Hang         Duration `json:"hang"`          // PostgreSQL silent to its own agent for so long is stopped
	StopGrace    Duration `json:"stop_grace"`    // wait after a clean stop by hand
	StartTimeout Duration `json:"start_timeout"` // pgpool/Patroni: primary_start_timeout
	MaxLag       uint64   `json:"max_lag"`       // bytes of WAL that an automatic failover may lose
	NodeSilence  Duration `json:"node_silence"`  // a standby's agent silent for so long: status 3
	PositionWait Duration `json:"position_wait"` // how long electing waits for slow standbys
	SettleWait   Duration `json:"settle_wait"`   // how long settling waits for standbys to follow
	SwitchWait   Duration `json:"switch_wait"`   // how long a switchover may take to stop the primary and catch up
}

// DefaultPolicy is DESIGN §7's column for an embedded single log.
func DefaultPolicy() Policy {
	ms := func(n int) Duration { return Duration(time.Duration(n) * time.Millisecond) }
	return Policy{
		Durability: "async", Lease: ms(3000), Renew: ms(500), StopBudget: ms(300), Margin: ms(200),
		DriftPPM: 1000, Grace: ms(1500), Heartbeat: ms(1000), ProbeEvery: ms(250), ProbeTimeout: ms(500),
		Hang: ms(3000), StopGrace: ms(5000), StartTimeout: ms(60000), MaxLag: 16 << 20,
		NodeSilence: ms(3000), PositionWait: ms(1000), SettleWait: ms(10000), SwitchWait: ms(30000),
	}
}

// publishTime is P of SAFETY §3.4: the time until the first renewal after an
// outage of the log is acknowledged.
const publishTime = 200 * time.Millisecond

// SurvivesOutage is how long the log may be away before a healthy primary must
// be stopped: L − D_stop − sigma − renewal interval − P.
func (p Policy) SurvivesOutage() time.Duration {
	return p.Lease.D() - p.StopBudget.D() - p.Margin.D() - p.Renew.D() - publishTime
}

// ExpiryWait is W_c of SAFETY §3.4: how long a controller must have seen no
// renewal before the lease is certainly over: L(1+rho)/(1−rho), rounded up.
func (p Policy) ExpiryWait() time.Duration {
	l := int64(p.Lease)
	num, den := 1_000_000+p.DriftPPM, 1_000_000-p.DriftPPM
	return time.Duration(l/den*num + (l%den*num+den-1)/den)
}

// Check returns every inequality that the policy breaks, each with its names
// and what would be right.
func (p Policy) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("policy: "+format, args...)) }
	if p.Durability != "async" {
		bad("durability=%q is not known to rule set %d; use async", p.Durability, RuleSet)
	}
	for _, d := range []struct {
		name string
		v    Duration
	}{
		{"lease", p.Lease}, {"renew", p.Renew}, {"stop_budget", p.StopBudget}, {"margin", p.Margin},
		{"grace", p.Grace}, {"heartbeat", p.Heartbeat}, {"probe_every", p.ProbeEvery}, {"probe_timeout", p.ProbeTimeout},
		{"hang", p.Hang}, {"stop_grace", p.StopGrace}, {"start_timeout", p.StartTimeout}, {"node_silence", p.NodeSilence},
		{"position_wait", p.PositionWait}, {"settle_wait", p.SettleWait}, {"switch_wait", p.SwitchWait},
	} {
		if d.v <= 0 || d.v.D() > 24*time.Hour {
			bad("%s=%s must be greater than 0 and at most 24h", d.name, d.v)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if p.DriftPPM < 100 || p.DriftPPM > 100_000 {
		bad("drift_ppm=%d must lie between 100 (0.01 %%) and 100000 (10 %%)", p.DriftPPM)
	}
	if left := p.SurvivesOutage(); left < time.Second {
		bad("lease=%s leaves %s of log outage that a healthy primary survives (lease − stop_budget − margin − renew − %s); it must be at least 1s: lengthen lease or shorten renew", p.Lease, left, publishTime)
	}
	if p.Grace.D() < 2*p.Renew.D() {
		bad("grace=%s must be at least twice renew=%s, else one late renewal makes the primary suspect", p.Grace, p.Renew)
	}
	if p.Grace >= p.Lease {
		bad("grace=%s must be shorter than lease=%s", p.Grace, p.Lease)
	}
	if p.Hang.D() < 2*p.ProbeTimeout.D() {
		bad("hang=%s must be at least twice probe_timeout=%s", p.Hang, p.ProbeTimeout)
	}
	if p.NodeSilence.D() < 2*p.Heartbeat.D() {
		bad("node_silence=%s must be at least twice heartbeat=%s", p.NodeSilence, p.Heartbeat)
	}
	return errors.Join(errs...)
}

// Hash identifies the policy: the first 16 hex digits of the SHA-256 of its
// JSON.
func (p Policy) Hash() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic("events: a policy is plain data: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
