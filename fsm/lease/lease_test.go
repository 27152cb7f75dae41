package lease

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var terms = Terms{Lease: 3 * time.Second, Renew: 500 * time.Millisecond, Budget: 500 * time.Millisecond}

func at(ms int) Instant {
	d := time.Duration(ms) * time.Millisecond
	return Instant{d, d}
}

// holding returns a lease of term 1 that was acquired at 0 and ends at 3 s.
func holding(t *testing.T) State {
	t.Helper()
	s, _ := State{}.Granted(1, 10, false, at(0))
	s, n, step := s.Send(at(0), terms)
	if !step.Acquire || step.Renew || n == 0 {
		t.Fatalf("the first publish of a term acquires: %+v", step)
	}
	s, step = s.Acknowledged(n, at(50), terms)
	if !s.Held || !step.Extend || s.Expiry != at(3000) {
		t.Fatalf("%+v %+v", s, step)
	}
	return s
}

func TestNothingIsHeldBeforeTheAnswer(t *testing.T) {
	s := State{}
	if s.MayWrite(0, at(0), terms) {
		t.Error("nothing was granted")
	}
	s, _ = s.Granted(1, 10, false, at(0))
	if s.MayWrite(1, at(0), terms) {
		t.Error("granted is not acquired")
	}
	s, n, _ := s.Send(at(0), terms)
	if s.MayWrite(1, at(1), terms) || n == 0 {
		t.Error("sent is not acknowledged")
	}
	if _, again, _ := s.Send(at(600), terms); again != 0 {
		t.Error("a second publish while one is under way")
	}
	s = s.Failed(n, at(600), 10*time.Millisecond)
	if _, early, _ := s.Send(at(605), terms); early != 0 {
		t.Error("retried too early")
	}
	if _, retry, step := s.Send(at(610), terms); retry == 0 || !step.Acquire {
		t.Error("not retried")
	}
}

func TestRenewalExtendsFromBeforeItWasSent(t *testing.T) {
	s := holding(t)
	if _, n, _ := s.Send(at(499), terms); n != 0 {
		t.Error("renewed early")
	}
	s, n, step := s.Send(at(500), terms)
	if !step.Renew || step.Acquire {
		t.Fatalf("%+v", step)
	}
	s, _ = s.Acknowledged(n, at(2000), terms)
	if s.Expiry != at(3500) {
		t.Errorf("the lease must count from the reading before the publish: %v", s.Expiry)
	}
}

func TestFenceBeforeTheEnd(t *testing.T) {
	s := holding(t)
	for _, c := range []struct {
		now   Instant
		fence bool
	}{{at(2499), false}, {at(2500), true}, {at(9000), true}, {Instant{2500 * time.Millisecond, 0}, true}, {Instant{0, 2500 * time.Millisecond}, true}} {
		next, step := s.Tick(c.now, terms)
		if step.Fence != c.fence || next.Held == c.fence || s.MayWrite(1, c.now, terms) == c.fence {
			t.Errorf("%v: fence %v held %v may write %v", c.now, step.Fence, next.Held, s.MayWrite(1, c.now, terms))
		}
	}
	if when, will := s.FenceAt(terms); !will || when != at(2500) {
		t.Errorf("%v %v", when, will)
	}
}

func TestLateAnswerNeverRevives(t *testing.T) {
	s := holding(t)
	s, n, _ := s.Send(at(500), terms)
	if late, step := s.Acknowledged(n, at(3000), terms); late.Held || !step.Fence {
		t.Errorf("after the old end: %+v %+v", late, step)
	}
	fenced, step := s.Tick(at(2600), terms)
	if !step.Fence {
		t.Fatal("no fence")
	}
	if late, step := fenced.Acknowledged(n, at(2610), terms); late.Held || step != (Step{}) {
		t.Errorf("an answer after the fence began: %+v %+v", late, step)
	}
	regranted, _ := fenced.Granted(1, 11, true, at(2700))
	if _, n, _ := regranted.Send(at(2700), terms); n != 0 || regranted.MayWrite(1, at(2700), terms) {
		t.Error("a term that has ended here was taken again")
	}
	next, _ := fenced.Granted(2, 12, false, at(2800))
	if _, n, step := next.Send(at(2800), terms); n == 0 || !step.Acquire {
		t.Error("a new term must be takeable")
	}
}

func TestAcquisitionAnsweredTooLateIsVoid(t *testing.T) {
	for _, c := range []struct {
		answer int
		held   bool
	}{{2999, true}, {3000, false}, {5000, false}} {
		s, _ := State{}.Granted(1, 10, false, at(0))
		s, n, _ := s.Send(at(0), terms)
		s, step := s.Acknowledged(n, at(c.answer), terms)
		if s.Held != c.held || step.Extend != c.held || step.Fence {
			t.Errorf("answered at %d ms: %+v %+v", c.answer, s, step)
		}
	}
}

func TestStay(t *testing.T) {
	s := holding(t)
	s, step := s.Granted(1, 11, true, at(1000))
	if !s.Held || !s.Stay || !step.Extend || s.Grant != 11 {
		t.Fatalf("%+v %+v", s, step)
	}
	if _, n, step := s.Send(at(1000), terms); n == 0 || !step.Renew {
		t.Error("the new grant must be cited at once")
	}
	if next, step := s.Tick(at(60_000), terms); step.Fence || !next.MayWrite(1, at(60_000), terms) {
		t.Error("it may stay")
	}
	if _, will := s.FenceAt(terms); will {
		t.Error("it will never be fenced")
	}
}

// A pause ends after the log was away for long: the last renewal is far in the
// past, and the primary is healthy.
func TestStayEndsWithTheFirstCitation(t *testing.T) {
	s, _ := holding(t).Granted(1, 11, true, at(1000))
	s, step := s.Granted(1, 12, false, at(60_000))
	if next, tick := s.Tick(at(60_000), terms); tick.Fence || !next.MayWrite(1, at(60_000), terms) || !step.Extend {
		t.Fatalf("nobody counts before the new grant was cited: %+v %+v", next, tick)
	}
	s, n, step := s.Send(at(60_100), terms)
	if n == 0 || !step.Renew || !step.Extend || s.Stay || s.Expiry != at(63_100) {
		t.Fatalf("the lease counts from the first citation, answered or not: %+v %+v", s, step)
	}
	lost := s.Failed(n, at(60_500), 10*time.Millisecond)
	lost, _, step = lost.Send(at(60_600), terms)
	if step.Extend || lost.Expiry != at(63_100) {
		t.Errorf("a second citation extended a lease that nobody acknowledged: %+v", lost)
	}
	if next, tick := lost.Tick(at(62_600), terms); !tick.Fence || next.Held {
		t.Error("it may not stay any longer, and its lease is over")
	}
	if kept, _ := s.Acknowledged(n, at(60_200), terms); !kept.Held || kept.Expiry != at(63_100) {
		t.Errorf("%+v", kept)
	}
}

func TestStayIsGrantedAgainBeforeItEnded(t *testing.T) {
	s, _ := holding(t).Granted(1, 11, true, at(1000))
	s, _ = s.Granted(1, 12, false, at(60_000))
	s, _ = s.Granted(1, 13, true, at(60_001))
	if s, _, _ = s.Send(at(60_100), terms); !s.Stay {
		t.Error("the newest grant lets it stay")
	}
}

func TestRevokedAndSurrendered(t *testing.T) {
	s, step := holding(t).Revoked()
	if s.Held || !step.Fence || !step.Extend {
		t.Errorf("%+v %+v", s, step)
	}
	if _, step := (State{}).Revoked(); step.Fence {
		t.Error("nothing to fence where nothing was held")
	}
	if s := holding(t).Surrendered(); s.Held || s.MayWrite(1, at(0), terms) || s.Over != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAdopted(t *testing.T) {
	if s := (State{}).Adopted(1, 10, false, at(3000), at(2000)); !s.Held || s.Expiry != at(3000) {
		t.Errorf("a lease that runs: %+v", s)
	}
	s := State{}.Adopted(1, 10, false, at(3000), at(3000))
	if s.Held || s.MayWrite(1, at(3000), terms) {
		t.Errorf("a lease that is over: %+v", s)
	}
	if _, n, _ := s.Send(at(3000), terms); n != 0 {
		t.Error("a term that is over was taken again")
	}
	if s := (State{}).Adopted(1, 10, true, at(3000), at(9000)); !s.MayWrite(1, at(9000), terms) {
		t.Errorf("it may stay: %+v", s)
	}
}

func TestInstants(t *testing.T) {
	a := Instant{Raw: 10, Boot: 20}
	if !a.Reached(Instant{10, 0}) || !a.Reached(Instant{0, 20}) || a.Reached(Instant{9, 19}) {
		t.Error("a moment is reached when either clock says so")
	}
	if got := a.Until(Instant{4, 4}); got != 6 {
		t.Errorf("the shorter wait: %d", got)
	}
	if got := a.Until(Instant{50, 0}); got != 0 {
		t.Errorf("never negative: %d", got)
	}
	if got := a.Since(Instant{15, 21}); got != 5 {
		t.Errorf("the longer time: %d", got)
	}
}

// TestNeverWritesAfterExpiry drives the machine by random inputs, with two
// clocks that run apart, beside a model that knows only this: a lease counts
// from the reading before the last acknowledged publish, each answer within the
// lease that it extends.
func TestNeverWritesAfterExpiry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		var now Instant
		sent := map[uint64]Instant{}
		end := Instant{} // of the lease, by the model
		var term, grant uint64
		var fenced uint64 // highest term that was told to stop
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			d := time.Duration(rapid.IntRange(0, 900).Draw(t, "ms")) * time.Millisecond
			now = Instant{now.Raw + d, now.Boot + d + time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 400}).Draw(t, "suspended"))*time.Millisecond}
			var step Step
			before := s
			switch rapid.IntRange(0, 8).Draw(t, "input") {
			case 0:
				grant++
				if term == 0 || rapid.Bool().Draw(t, "new term") {
					term++
				}
				s, step = s.Granted(term, grant, rapid.IntRange(0, 4).Draw(t, "stay") == 0, now)
			case 1, 2, 3:
				var n uint64
				if s, n, step = s.Send(now, terms); n != 0 {
					sent[n] = now
				}
				if step.Extend { // the first citation of a grant that ends a stay
					end = now.Add(terms.Lease)
				}
			case 4, 5:
				n := s.Pending
				if rapid.IntRange(0, 5).Draw(t, "stray") == 0 {
					n = uint64(rapid.IntRange(0, 20).Draw(t, "n"))
				}
				s, step = s.Acknowledged(n, now, terms)
				if step.Extend {
					end = sent[n].Add(terms.Lease)
				}
			case 6:
				s = s.Failed(s.Pending, now, 10*time.Millisecond)
			case 7:
				s, step = s.Revoked()
			case 8:
				s = s.Surrendered()
			}
			if s, tick := s.Tick(now, terms); tick.Fence {
				step.Fence = true
				_ = s
			}
			if step.Fence {
				fenced = max(fenced, before.Term)
			}
			s, _ = s.Tick(now, terms)
			if s.Held && !s.Stay && s.Expiry != end {
				t.Fatalf("it holds until %v, the acknowledged publish allows %v", s.Expiry, end)
			}
			if s.MayWrite(s.Term, now, terms) {
				if !s.Stay && end.Add(-terms.Budget).Reached(now) {
					t.Fatalf("it may write at %v, and must be stopped by %v", now, end)
				}
				if s.Term <= fenced {
					t.Fatalf("it may write in term %d, which was fenced", s.Term)
				}
			}
		}
	})
}
