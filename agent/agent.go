// Package agent stands for one node: it probes its PostgreSQL, holds its lease,
// carries out its orders and reports to the log. It decides nothing about the
// cluster. Everything that happens is a function run by one goroutine (loop);
// what may block (the log, PostgreSQL) runs beside it and posts its outcome.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm/journal"
	"github.com/interrex-ha/interrex/fsm/lease"
	"github.com/interrex-ha/interrex/probes"
)

// turnEvery is how often the loop turns though nothing happens.
const turnEvery = 300 * time.Millisecond

// leaveWithin bounds an orderly end.
const leaveWithin = 5 * time.Second

// ErrRegressed says that the log is older than what this node has seen.
var ErrRegressed = errors.New("the log went backwards")

// Config is all that an agent needs to know.
type Config struct {
	Node     string
	Dir      string // for its journal, lease and locks; beside the data directory
	Log      events.Log
	Postgres executors.Postgres
	Peers    []Peer
	Upstream func(primary string) (executors.Upstream, error)
	// NewCluster says what the first server of a new cluster is made of; nil: this
	// node's servers were made before the log was.
	NewCluster func() executors.NewCluster
	Guardian   []string // command that starts the guardian; empty: none, and no proof by lease
	Created    bool     // Interrex created this PostgreSQL
	Place      string   // how PostgreSQL's host is reached when it is another one; empty: it is this one
	Scripts    Scripts
	Version    string
	Logger     *slog.Logger
}

// Peer is another node as this agent's probes reach it.
type Peer struct {
	Node string
	DSN  string
}

// Agent stands for one node.
type Agent struct {
	cfg         Config
	incarnation string
	bootID      string
	post        chan func()
	ended       chan struct{} // closed when the loop has ended: nothing that is posted runs any more
	out         *outbox
	journal     *journalFile
	leaseFile   *LeaseFile
	prober      *probes.Prober
	probeNow    chan struct{}
	fence       string // name of the fence that survives us, "" while none lives

	probeEvery   atomic.Int64 // of the policy, for the probing goroutines
	probeTimeout atomic.Int64
	primaryName  atomic.Pointer[string]

	// Owned by the loop.
	view       view
	lease      lease.State
	fact       probes.Fact
	seen       events.PostgresSeen // last one emitted
	seenOnce   bool
	probes     summary
	watcher    *executors.Watcher
	watched    executors.Incarnation
	blind      bool      // PostgreSQL's host is another one, and not heard of
	unattended bool      // taking over waits for that host
	heard      time.Time // when the other host was last heard of, or this agent began
	whyUnheard string    // the error of the place that is not heard of
	dead       bool      // proved dead since it last ran
	deadTerm   uint64    // the term that the proof was given for
	leaving    time.Time
	beat       time.Time
	peers      map[string]events.PostgresState

	lastGuardian time.Time // when the last one was started

	spare   spare
	warming bool
	warmed  time.Time

	// Actions on PostgreSQL, one at a time.
	acting  sync.Mutex
	actMu   sync.Mutex
	entered uint64                        // actions so far
	cancels map[uint64]context.CancelFunc // of those that run or wait for their turn
	expect  int                           // actions that stop PostgreSQL themselves
	running map[journal.Mark]bool
}

// New makes an agent.
func New(cfg Config) *Agent {
	a := &Agent{
		cfg: cfg, incarnation: uuid.NewString(), post: make(chan func(), 256), probeNow: make(chan struct{}, 1),
		peers: map[string]events.PostgresState{}, running: map[journal.Mark]bool{}, cancels: map[uint64]context.CancelFunc{},
		ended: make(chan struct{}), heard: time.Now(),
	}
	a.view.policy = events.DefaultPolicy()
	a.probeBy(a.view.policy)
	return a
}

// Run works until ctx ends, and then leaves in order within 5 s: a primary that
// goes on without its agent does so only under a grant that lets it stay; else
// its guardian stops it at the lease's end. Errors: another agent stands for
// the node, files that cannot be used, a log that went backwards.
func (a *Agent) Run(ctx context.Context) error {
	lock, err := waitLock(ctx, lockFile(a.cfg.Dir))
	if err != nil {
		return fmt.Errorf("agent %s: %w; stop the other agent of this node first", a.cfg.Node, err)
	}
	defer lock.Close()
	if a.journal, err = openJournal(a.cfg.Dir, a.cfg.Node); err != nil {
		return err
	}
	if a.bootID, err = executors.BootID(); err != nil {
		return fmt.Errorf("agent %s: %w", a.cfg.Node, err)
	}
	if a.leaseFile, err = OpenLease(LeasePath(a.cfg.Dir), a.bootID); err != nil {
		return err
	}
	defer a.leaseFile.Close()
	a.leaseFile.set(wordQuit, 0) // a guardian that an earlier agent told to end, and that has not read it yet, stays
	a.leaseFile.set(wordAgentPID, uint64(os.Getpid()))
	a.leaseFile.set(wordAgentTick, uint64(Now().Boot))
	a.prober = probes.New(probes.Config{DSN: a.cfg.Postgres.DSN("interrex-agent")})
	defer a.prober.Close()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	a.out = newOutbox(a.cfg.Log, "agent/"+a.cfg.Node, a.cfg.Logger)
	go a.out.run(work)
	failed := make(chan error, 1)
	go func() { failed <- a.follow(work) }()
	go a.probeLoop(work)
	go a.peerLoops(work)
	return a.loop(ctx, work, failed)
}

func (a *Agent) loop(ctx, work context.Context, failed <-chan error) error {
	defer close(a.ended)
	timer := time.NewTimer(turnEvery)
	defer timer.Stop()
	gone := ctx.Done()
	for {
		select {
		case err := <-failed:
			return err
		case fn := <-a.post:
			fn()
		case <-timer.C:
		case <-gone:
			gone = nil
			a.leave()
		}
		timer.Reset(a.turn(work))
		if !a.leaving.IsZero() && a.mayGo() {
			return ctx.Err()
		}
	}
}

// turn does what is due and returns how long the loop may sleep.
func (a *Agent) turn(ctx context.Context) time.Duration {
	now := Now()
	a.leaseFile.set(wordAgentTick, uint64(now.Boot))
	a.checkGuardian(ctx)
	a.stepLease(ctx, now)
	a.heartbeat()
	wait := turnEvery
	if at, ok := a.lease.FenceAt(a.terms()); ok {
		wait = min(wait, at.Until(now))
	}
	if a.lease.Grant != 0 && a.lease.Pending == 0 {
		wait = min(wait, a.lease.NextSend.Until(now))
	}
	return max(wait, time.Millisecond)
}

// probeBy tells the probing goroutines the times of a policy.
func (a *Agent) probeBy(p events.Policy) {
	a.probeEvery.Store(int64(p.ProbeEvery))
	a.probeTimeout.Store(int64(p.ProbeTimeout))
}

// do posts a function to the loop. When the loop has ended it is not run. The
// loop itself must not call it: it would wait for itself.
func (a *Agent) do(fn func()) {
	select {
	case a.post <- fn:
	case <-a.ended:
	}
}

// ask runs a function in the loop and returns what it says, or otherwise when
// the loop has ended. The loop itself must not call it.
func ask[T any](a *Agent, otherwise T, fn func() T) T {
	answer := make(chan T, 1)
	a.do(func() { answer <- fn() })
	select {
	case v := <-answer:
		return v
	case <-a.ended:
		return otherwise
	}
}

// errLeft is what an action is told whose agent has ended.
var errLeft = errors.New("the agent has ended")

// emit appends an observation or a result, in order, for as long as it takes.
func (a *Agent) emit(d events.Data) { a.out.put(d, 0) }

func (a *Agent) leave() {
	a.leaving = time.Now().Add(leaveWithin)
	a.emit(events.AgentStopped{Node: a.cfg.Node, Incarnation: a.incarnation, Reason: "told to stop"})
}

// mayGo: everything is reported, and PostgreSQL is either down, not ours to
// guard, or allowed to stay. What counts is what the guardian knows: a lease
// that was given up ends there only with the proof that PostgreSQL is dead.
func (a *Agent) mayGo() bool {
	late := time.Now().After(a.leaving)
	left, ok := a.leaseFile.Read()
	safe := !a.expecting() && (a.watcher == nil || ok && (!left.Held || left.Stay))
	if !late && (!a.out.empty() || !safe) {
		return false
	}
	if safe {
		a.leaseFile.set(wordQuit, 1)
	} else {
		a.cfg.Logger.Warn("leaving without a grant that lets PostgreSQL stay: its guardian stops it at the lease's end")
	}
	return true
}

// waitLock waits a little for an agent that is just being replaced.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	for end := time.Now().Add(3 * time.Second); ; {
		f, err := tryLock(path)
		if err == nil || !errors.Is(err, errLocked) || time.Now().After(end) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
