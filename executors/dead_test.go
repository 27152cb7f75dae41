package executors_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
)

// load is busy writers, and a backend that only computes: it looks neither at
// the postmaster nor at its connection.
type load struct {
	mu    sync.Mutex
	acked events.LSN // the highest position that a commit was acknowledged at
	n     int
	wg    sync.WaitGroup
}

func (s solo) load(writers int) *load {
	s.t.Helper()
	s.exec("create table if not exists busy (v text)")
	s.exec(`create or replace function spin() returns void language plpgsql as
		'declare n bigint := 0; begin while n < 1e15 loop n := n + 1; end loop; end'`)
	l := &load{}
	for range writers {
		c := s.connect()
		l.wg.Go(func() {
			for {
				var at string
				// Its own statement and commit: the LSN is read after the commit before.
				if _, err := c.Exec(s.t.Context(), "insert into busy values (repeat('x', 500))"); err != nil {
					return
				}
				l.count(0)
				if err := c.QueryRow(s.t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&at); err != nil {
					return
				}
				if lsn, err := events.ParseLSN(at); err == nil {
					l.count(lsn)
				}
			}
		})
	}
	spin := s.connect()
	l.wg.Go(func() { _, _ = spin.Exec(s.t.Context(), "select spin()") })
	soloUntil(s.t, "the writers are busy", func() bool { n, _ := l.seen(); return n > 200 })
	return l
}

func (l *load) count(lsn events.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	l.acked = max(l.acked, lsn)
}

func (l *load) seen() (int, events.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n, l.acked
}

// nothingLives fails when anything of the server is left.
func (s solo) nothingLives() {
	s.t.Helper()
	if left := s.processes(); len(left) > 0 {
		s.t.Errorf("still alive: %v", left)
	}
	if free, err := executors.SharedMemoryFree(s.DataDir); !free || err != nil {
		s.t.Errorf("the shared memory has users, %v", err)
	}
}

// readOnlyByHand starts it as a person would, after the proof.
func (s solo) readOnlyByHand() {
	s.t.Helper()
	soloRun(s.t, s.Bin("pg_ctl"), "-D", s.DataDir, "-w", "-t", "60", "-l", s.ServerLog(), "start")
	if s.text("pg_is_in_recovery()") != "true" {
		s.t.Error("started by hand it is not read-only: two primaries")
	}
	c := s.connect()
	_, err := c.Exec(s.t.Context(), "create table forbidden (v int)")
	if err == nil || !strings.Contains(err.Error(), "25006") {
		s.t.Errorf("a write gave %v, expected a refusal", err)
	}
}

func TestProveDeadWithBusyWriters(t *testing.T) {
	s := newSolo(t)
	started := s.up(false)
	l := s.load(4)
	_, from := l.seen()
	soloUntil(t, "more is written", func() bool { _, at := l.seen(); return at > from+(64<<10) })
	soloSignal(t, started.PID, syscall.SIGKILL) // the backends live on
	d := s.dead(from)
	s.nothingLives()
	l.wg.Wait()
	n, acked := l.seen()
	if d.EndLSN < acked || d.Clean || d.Killed == 0 || d.PID != started.PID || d.Timeline != 1 || !d.StandbySignal || d.SystemID == "" {
		t.Errorf("%+v; acknowledged were %s, the spinning backend at least had to be killed", d, acked)
	}
	t.Logf("proved dead in %s: killed %d, %d answers, end %s", d.Took, d.Killed, n, d.EndLSN)

	again := s.dead(from)
	if again.EndLSN != d.EndLSN || again.Killed != 0 || again.PID != d.PID {
		t.Errorf("the second time %+v, expected the same with nothing killed", again)
	}
	s.readOnlyByHand()
	if replayed := s.lsn("pg_last_wal_replay_lsn()"); replayed != d.EndLSN {
		t.Errorf("recovery replayed up to %s, the proof said %s", replayed, d.EndLSN)
	}
}

// Nothing that was acknowledged lies behind the end that a proof reports. How
// long it takes is what a failover waits for.
func TestProveDeadOfABusyPostmaster(t *testing.T) {
	s := newSolo(t)
	for range 5 {
		pid := s.up(false).PID
		l := s.load(4)
		_, from := l.seen()
		soloSignal(t, pid, syscall.SIGKILL)
		d := s.dead(from)
		l.wg.Wait()
		if _, acked := l.seen(); d.EndLSN < acked {
			t.Errorf("end %s, acknowledged %s", d.EndLSN, acked)
		}
		t.Logf("proved dead in %s", d.Took)
	}
}

func TestProveDeadKillsWhatIsFrozen(t *testing.T) {
	s := newSolo(t)
	started := s.up(false)
	l := s.load(2)
	procs, err := executors.ProcessesOf(s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		soloSignal(t, p.PID, syscall.SIGSTOP)
	}
	soloUntil(t, "the postmaster is frozen", func() bool { return executors.Stopped(started.Incarnation) })
	if err := executors.Stop(t.Context(), s.Postgres, "fast"); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("Stop of a frozen server gave %v, expected an error at once", err)
	}
	_, acked := l.seen()
	d := s.dead(0)
	s.nothingLives()
	if d.Killed < len(procs) || d.EndLSN < acked {
		t.Errorf("%+v; expected at least %d killed and an end behind %s", d, len(procs), acked)
	}
	l.wg.Wait()
}

func TestProveDeadAfterACleanStop(t *testing.T) {
	s := newSolo(t)
	s.up(false)
	s.records(9)
	if err := executors.Stop(t.Context(), s.Postgres, "fast"); err != nil {
		t.Fatal(err)
	}
	d := s.dead(0)
	if !d.Clean || d.Killed != 0 || d.PID != 0 {
		t.Errorf("%+v, expected a clean one with nothing to kill", d)
	}
	s.readOnlyByHand()
	if replayed := s.lsn("pg_last_wal_replay_lsn()"); replayed != d.EndLSN {
		t.Errorf("recovery replayed up to %s, the proof said %s", replayed, d.EndLSN)
	}
}

// What is left over from a restore, or from another tool's failover, ends the
// recovery of a standby; a primary never looks at it.
func TestNothingPromotesAfterAProof(t *testing.T) {
	s := newSolo(t)
	version := s.version()
	s.configure("recovery_target = 'immediate'", "recovery_target_action = 'promote'")
	if version < 16 {
		s.configure("promote_trigger_file = 'trigger'")
		if err := os.WriteFile(filepath.Join(s.DataDir, "trigger"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.up(false)
	s.records(8)
	s.dead(0)
	s.readOnlyByHand()
	if got := s.text("current_setting('recovery_target')"); got != "" {
		t.Errorf("recovery_target is %q, expected nothing that ends a recovery", got)
	}
}

func TestNoProof(t *testing.T) {
	prove := func(s solo) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d, err := executors.ProveDead(ctx, s.Postgres, 0)
		if err == nil {
			t.Errorf("%+v, expected no proof", d)
			return errors.New("none")
		}
		return err
	}
	t.Run("of a directory that is none", func(t *testing.T) {
		s := newSolo(t)
		s.DataDir = filepath.Dir(s.DataDir)
		if err := prove(s); !strings.Contains(err.Error(), "PG_VERSION") {
			t.Errorf("%v, expected an error that names PG_VERSION", err)
		}
		if _, err := os.Stat(filepath.Join(s.DataDir, "standby.signal")); err == nil {
			t.Error("a file was written into a foreign directory")
		}
	})
	t.Run("when the directory cannot be written", func(t *testing.T) {
		s := newSolo(t)
		pid := s.up(false).PID
		if err := os.Chmod(s.DataDir, 0o500); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Chmod(s.DataDir, 0o700) }()
		if err := prove(s); !strings.Contains(err.Error(), "standby.signal") {
			t.Errorf("%v, expected an error that names standby.signal", err)
		}
		if err := syscall.Kill(pid, 0); err != nil {
			t.Error("it was killed though nothing would keep it from coming back read-write")
		}
	})
	t.Run("while somebody is attached", func(t *testing.T) {
		s := newSolo(t)
		s.up(false)
		b, err := os.ReadFile(filepath.Join(s.DataDir, "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(strings.Split(string(b), "\n")[6])
		id, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		mem, err := unix.SysvShmAttach(id, 0, 0) // as a backend that has left the directory
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := executors.KillAll(short, s.DataDir); err == nil || !strings.Contains(err.Error(), "shared memory") {
			t.Errorf("KillAll gave %v, expected an error that names the shared memory", err)
		}
		if err := prove(s); !strings.Contains(err.Error(), "shared memory") {
			t.Errorf("%v, expected an error that names the shared memory", err)
		}
		if _, err := executors.Start(t.Context(), s.Postgres, executors.StartOptions{Standby: true}); err == nil {
			t.Error("it was started while somebody is attached")
		}
		if err := unix.SysvShmDetach(mem); err != nil {
			t.Fatal(err)
		}
		s.dead(0)
	})
	t.Run("on another host", func(t *testing.T) {
		s := newSolo(t)
		s.Runner = elsewhere{s.Runner}
		if err := prove(s); !strings.Contains(err.Error(), "host") {
			t.Errorf("%v, expected an error that speaks of the host", err)
		}
	})
}
