package executors_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
)

// killedRun is what the child process of TestKilledAtEveryStep is told.
type killedRun struct {
	Postgres executors.Postgres
	Upstream executors.Upstream
	How      string
	At       int // the step that it kills itself before, counted from 1
	During   string
	Steps    string // file: the steps that were begun
}

const killedEnv = "INTERREX_TEST_KILLED_RUN"

// TestKilledChild is the child: it kills itself with SIGKILL, as an agent may be
// at any moment.
func TestKilledChild(t *testing.T) {
	text := os.Getenv(killedEnv)
	if text == "" {
		return // this is the parent's run; TestKilledAtEveryStep starts the child
	}
	var k killedRun
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		t.Fatal(err)
	}
	k.Postgres.Runner = local.New()
	var steps []string
	o := executors.RecoverOptions{How: k.How, Decision: 5, Journal: func(step string) error {
		steps = append(steps, step)
		if err := os.WriteFile(k.Steps, []byte(strings.Join(steps, "\n")), 0o600); err != nil {
			return err
		}
		if len(steps) == k.At {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}, Progress: func(step string, done, total uint64) {
		if total > 0 && step == k.During {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}}
	if _, err := executors.Recover(within(t), k.Postgres, k.Upstream, o); err != nil {
		t.Fatal(err)
	}
}

// runKilled reports whether the child was killed, and the steps it began.
func runKilled(t *testing.T, k killedRun) (bool, []string) {
	t.Helper()
	k.Postgres.Runner = nil
	k.Steps = filepath.Join(t.TempDir(), "steps")
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), killedEnv+"="+string(text))
	out, err := cmd.CombinedOutput()
	steps, _ := os.ReadFile(k.Steps)
	killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if err != nil && !killed {
		t.Fatalf("the child failed: %v: %s", err, out)
	}
	return killed, strings.Split(string(steps), "\n")
}

// startByHand starts what has the data directory's name, as an operator or an
// init system would, and reports whether it came up read-write.
func (s solo) startByHand() (how string) {
	s.t.Helper()
	log, err := os.Create(filepath.Join(s.SocketDir, "by-hand.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.BinDir, "postgres"), "-D", s.DataDir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	end := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := executors.Connect(s.t.Context(), s.Postgres); err == nil {
			var recovering bool
			err := c.QueryRow(s.t.Context(), "select pg_is_in_recovery()").Scan(&recovering)
			_ = c.Close(s.t.Context())
			_ = cmd.Process.Kill()
			s.crash()
			<-ended
			if err == nil && !recovering {
				return "read-write"
			}
			return "read-only"
		}
		select {
		case <-ended:
			return "not at all"
		case <-end:
			_ = cmd.Process.Kill()
			s.crash()
			<-ended
			return "not consistent"
		case <-tick.C:
		}
	}
}

// After a kill at any moment, the data directory cannot be started read-write,
// and the next run completes the recovery.
func TestKilledAtEveryStep(t *testing.T) {
	for _, c := range []struct{ how, setting string }{
		{executors.HowRewind, "wal_log_hints = on"},
		{executors.HowBaseBackup, "wal_log_hints = off"},
	} {
		t.Run(c.how, func(t *testing.T) {
			a := newPrimary(t, "db1", c.setting)
			b := standbyOf(t, a, "db2")
			failover(t, a, b, true)
			a.dead(0) // nothing else is ever recovered: standby.signal is there
			saved := a.DataDir + "-as-it-crashed"
			soloRun(t, "cp", "-a", a.DataDir, saved)
			for at := 1; ; at++ {
				k := killedRun{Postgres: a.Postgres, Upstream: a.upstream(b), How: "auto", At: at}
				killed, steps := a.killedAndBack(b, k)
				if !killed {
					if at < 6 {
						t.Fatalf("only %d steps, %q; expected more to kill at", at-1, steps)
					}
					break
				}
				a.restore(saved)
			}
			k := killedRun{Postgres: a.Postgres, Upstream: a.upstream(b), How: "auto", During: c.how}
			a.restore(saved)
			if killed, _ := a.killedAndBack(b, k); !killed {
				t.Fatalf("the child was not killed during %s, expected its progress to be told of", c.how)
			}
		})
	}
}

func (s solo) killedAndBack(primary solo, k killedRun) (killed bool, steps []string) {
	s.t.Helper()
	killed, steps = runKilled(s.t, k)
	if killed {
		how := s.startByHand()
		s.t.Logf("killed before %q; by hand it starts %s", steps[len(steps)-1], how)
		if how == "read-write" {
			s.t.Fatal("expected that it never starts read-write")
		}
	}
	got, err := executors.Recover(within(s.t), s.Postgres, s.upstream(primary), executors.RecoverOptions{Decision: 6})
	if err != nil {
		s.t.Fatalf("killed at %q; the next run: %+v: %v", steps, got, err)
	}
	s.isStandbyOf(primary)
	return killed, steps
}

// restore puts the node back to where it crashed.
func (s solo) restore(saved string) {
	s.t.Helper()
	s.crash()
	left, _ := filepath.Glob(s.DataDir + ".*")
	// Its postmaster may be a zombie for a second, and without postmaster.pid
	// nothing tells that the lock beside the socket is stale.
	locks, _ := filepath.Glob(filepath.Join(s.SocketDir, ".s.PGSQL.*"))
	for _, dir := range append(append(left, locks...), s.DataDir) {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Fatal(err)
		}
	}
	soloRun(s.t, "cp", "-a", saved, s.DataDir)
}

// failing is a runner whose renames fail from one on, and then everything: as if
// the process had been killed there.
type failing struct {
	local.Runner
	left *int
}

var errKilled = errors.New("killed here")

func (f failing) Rename(ctx context.Context, from, to string) error {
	if *f.left--; *f.left <= 0 {
		return errKilled
	}
	return f.Runner.Rename(ctx, from, to)
}

func (f failing) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	if *f.left <= 0 {
		return errKilled
	}
	return f.Runner.WriteFile(ctx, path, data, mode)
}

func (f failing) Run(ctx context.Context, c executors.Command) (executors.Output, error) {
	if *f.left <= 0 {
		return executors.Output{}, errKilled
	}
	return f.Runner.Run(ctx, c)
}

// Where a data directory cannot be renamed its entries are moved one by one: the
// moves stop at each, the next run goes on from there.
func TestHalfMovedInsideAMountPoint(t *testing.T) {
	every := 5
	if testing.Short() {
		every = 25
	}
	for _, setting := range []string{"wal_log_hints = on", "wal_log_hints = off"} {
		a := newPrimary(t, "db1", setting)
		b := standbyOf(t, a, "db2")
		failover(t, a, b, true)
		a.dead(0)
		saved := a.DataDir + "-as-it-crashed"
		soloRun(t, "cp", "-a", a.DataDir, saved)
		for n := 1; ; n += every {
			left := n
			p := a.Postgres
			p.Runner = failing{left: &left}
			_, err := executors.RecoverInside(within(t), p, a.upstream(b), executors.RecoverOptions{Decision: 5})
			if err == nil {
				if n < 2*every {
					t.Fatalf("there were only %d renames, expected some dozens", n)
				}
				break
			}
			if !errors.Is(err, errKilled) {
				t.Fatalf("stopped at rename %d: %v, expected only what the test does", n, err)
			}
			if how := a.startByHand(); how == "read-write" {
				t.Fatalf("stopped at rename %d: started by hand it came up read-write", n)
			}
			got, err := executors.RecoverInside(within(t), a.Postgres, a.upstream(b), executors.RecoverOptions{Decision: 6})
			if err != nil {
				t.Fatalf("stopped at rename %d; the next run: %+v, %v", n, got, err)
			}
			a.isStandbyOf(b)
			a.restore(saved)
		}
	}
}
