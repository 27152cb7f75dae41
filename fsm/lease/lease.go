// Package lease is the agent's half of the lease, as a pure step function: may
// the PostgreSQL beside this agent take writes now, when must it be stopped,
// when is the next renewal due. SAFETY.md §3.4 is the argument; the order of
// the readings is all of it: the clock is read before a renewal is sent, and
// the lease is extended from that reading, never from the answer's.
package lease

import "time"

// Instant is a reading of two clocks that no administrator can step:
// CLOCK_MONOTONIC_RAW is not slewed, CLOCK_BOOTTIME counts suspended time. A
// moment is reached when either says so: pessimism is free on the agent's side.
type Instant struct {
	Raw  time.Duration `json:"raw"`
	Boot time.Duration `json:"boot"`
}

// Add moves both readings.
func (i Instant) Add(d time.Duration) Instant { return Instant{i.Raw + d, i.Boot + d} }

// Reached reports whether now is at or past i by either clock.
func (i Instant) Reached(now Instant) bool { return now.Raw >= i.Raw || now.Boot >= i.Boot }

// Until is the shorter of the two waits from now to i, never negative.
func (i Instant) Until(now Instant) time.Duration {
	return max(0, min(i.Raw-now.Raw, i.Boot-now.Boot))
}

// Since is the longer of the two times from i to now.
func (i Instant) Since(now Instant) time.Duration { return max(now.Raw-i.Raw, now.Boot-i.Boot) }

// Terms are the times of the policy in force.
type Terms struct {
	Lease  time.Duration // L
	Renew  time.Duration
	Budget time.Duration // D_stop + sigma: the fence begins this long before the end
}

// State of the lease at one node. The zero value holds nothing.
type State struct {
	Term     uint64 // of the grant that this node acts by
	Grant    uint64 // its decision
	Stay     bool   // the grant lets the primary outlive the lease
	StayEnds bool   // the newest grant no longer does, and no publish has cited it yet
	Held     bool
	Expiry   Instant // when Held
	NextSend Instant
	Pending  uint64  // number of the publish that is under way, 0 when none
	SentAt   Instant // clock read before it
	Sends    uint64
	Over     uint64 // highest term that has ended at this node: it is never held again here
}

// Step is what a caller must do after a transition.
type Step struct {
	Acquire bool // publish lease-acquired, conditional on the granting decision
	Renew   bool // publish lease-renewed, conditional on the last decision
	Extend  bool // tell the guardian the new Expiry (or that it may stay)
	Fence   bool // stop PostgreSQL now: the lease is over
}

// Granted: the newest decision names this node. A grant of the same term only
// changes whether it may stay; a new term must be acquired first.
//
// A stay that ends does so with the first renewal that cites the new grant, not
// at once: nobody counts the lease before he has seen that renewal, and a
// primary that stayed while the log was away has none that still runs.
func (s State) Granted(term, grant uint64, stay bool, now Instant) (State, Step) {
	if term == s.Term && s.Held {
		s.StayEnds = s.Stay && !stay
		s.Grant, s.Stay = grant, s.Stay || stay
		s.NextSend = now // cite the new grant at once
		return s, Step{Extend: true}
	}
	if term <= s.Over {
		return s.over(), Step{} // a re-grant of a term that has ended here: only a new term can be taken
	}
	s = State{Term: term, Grant: grant, Stay: stay, NextSend: now, Sends: s.Sends, Over: s.Over}
	return s, Step{}
}

// Adopted: an agent that was restarted takes over a lease that is still
// running: the guardian kept its end.
func (s State) Adopted(term, grant uint64, stay bool, expiry, now Instant) State {
	s = State{Term: term, Grant: grant, Stay: stay, Held: true, Expiry: expiry, NextSend: now, Sends: s.Sends, Over: s.Over}
	if expiry.Reached(now) && !stay || term <= s.Over {
		return s.over()
	}
	return s
}

// Revoked: a newer decision names somebody else, or this node was stopped.
func (s State) Revoked() (State, Step) {
	held := s.Held
	return s.over(), Step{Fence: held, Extend: held}
}

// Surrendered: PostgreSQL is dead. Nothing is left to fence, and nothing may be
// started read-write again without a new grant.
func (s State) Surrendered() State { return s.over() }

// over ends the term: a publish that is still under way, and a re-grant of the
// same term, change nothing any more.
func (s State) over() State { return State{Sends: s.Sends, Over: max(s.Over, s.Term)} }

// Send begins a publish when one is due: now must have been read before it is
// sent, and what Extend says must be told before it is sent. It returns the
// number that its acknowledgement must carry.
func (s State) Send(now Instant, t Terms) (State, uint64, Step) {
	if s.Grant == 0 || s.Pending != 0 || !s.NextSend.Reached(now) {
		return s, 0, Step{}
	}
	s.Sends++
	s.Pending, s.SentAt, s.NextSend = s.Sends, now, now.Add(t.Renew)
	step := Step{Acquire: !s.Held, Renew: s.Held}
	if s.StayEnds {
		// Stored or not, from here on somebody may count: even if no answer comes.
		s.Stay, s.StayEnds, s.Expiry = false, false, now.Add(t.Lease)
		step.Extend = true
	}
	return s, s.Pending, step
}

// Acknowledged: publish n was stored; now was read after the answer. An answer
// that comes after the lease ran out does not revive it.
func (s State) Acknowledged(n uint64, now Instant, t Terms) (State, Step) {
	if n == 0 || n != s.Pending {
		return s, Step{}
	}
	s.Pending = 0
	end := s.SentAt.Add(t.Lease)
	switch {
	case s.Held && !s.Stay && s.Expiry.Reached(now):
		return s.over(), Step{Fence: true}
	case end.Reached(now) && !s.Stay: // a first acquisition answered too late is void
		return s, Step{}
	}
	s.Held, s.Expiry = true, end
	return s, Step{Extend: true}
}

// Failed: publish n was refused, or nobody knows. That is no acknowledgement;
// the next try is after retry.
func (s State) Failed(n uint64, now Instant, retry time.Duration) State {
	if n == s.Pending {
		s.Pending = 0
		s.NextSend = now.Add(retry)
	}
	return s
}

// Tick asks whether the fence must begin: the stop has to be over when the
// lease is.
func (s State) Tick(now Instant, t Terms) (State, Step) {
	if !s.Held || s.Stay || !s.Expiry.Add(-t.Budget).Reached(now) {
		return s, Step{}
	}
	return s.over(), Step{Fence: true}
}

// FenceAt is when Tick will want the fence, far away when it never will.
func (s State) FenceAt(t Terms) (Instant, bool) {
	return s.Expiry.Add(-t.Budget), s.Held && !s.Stay
}

// MayWrite reports whether PostgreSQL may be opened read-write, or promoted,
// under this term now: only under a lease that is held and still has time to be
// fenced.
func (s State) MayWrite(term uint64, now Instant, t Terms) bool {
	return s.Term == term && s.Held && (s.Stay || !s.Expiry.Add(-t.Budget).Reached(now))
}
