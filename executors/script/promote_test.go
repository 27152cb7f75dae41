package script_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/script"
)

// tutorialLine is failover_command of the tutorial's pgpool.conf.
const tutorialLine = " %d %h %p %D %m %M %H %P %r %R"

func (w world) promotion(line, to string, others ...string) script.Promotion {
	p := script.Promotion{
		Command: command(w.t, line), Place: here(), Values: w.values("db1", to),
		Candidate: w.Postgres(to), Within: 20 * time.Second,
	}
	for _, o := range others {
		p.Others = append(p.Others, w.Postgres(o))
	}
	return p
}

// isUnknown: once a script was begun, the candidate may be a primary.
func isUnknown(t *testing.T, err error, parts ...string) {
	t.Helper()
	var unknown *executors.PromoteUnknown
	if !errors.As(err, &unknown) || unknown.Calls == 0 {
		t.Fatalf("got %v, expected an *executors.PromoteUnknown", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q is missing in: %v", p, err)
		}
	}
}

// TestTutorialPromotes: the tutorial's failover_stream.sh, with our candidate.
func TestTutorialPromotes(t *testing.T) {
	w := newWorld(t, 2)
	log := filepath.Join(w.dir, "pgpool", "failover.log")
	asItIs := w.script("tutorial/failover_stream.sh", "/var/log/pgpool/failover.log", log)
	p := w.promotion(asItIs+tutorialLine, "db2", "db1")

	// The primary lives: whoever asked for this was wrong.
	if r, err := script.Promote(within(t), p); r.Verdict != script.Refused || len(r.Runs) != 0 || err == nil || !strings.Contains(err.Error(), "db1 takes writes") {
		t.Fatalf("beside a living primary: %+v, %v", r, err)
	}
	w.kill("db1")

	// As the tutorial has it the directory of its log is missing, and with the
	// redirection the ssh fails as well.
	r, err := script.Promote(within(t), p)
	isUnknown(t, err, "failed", asItIs, "exit code 1", "still in recovery", "failover.log")
	if r.Verdict != script.Failed || r.Runs[0].Exit != 1 || !strings.Contains(r.Runs[0].Stderr, log) || w.ask("db2", "pg_is_in_recovery()") != "true" {
		t.Fatalf("without the directory of its log: %+v", r)
	}

	w.write("pgpool/failover.log", "")
	standbyDied := p
	standbyDied.Values.Detached = w.as("db2")
	standbyDied.Within = 2 * time.Second
	r, err = script.Promote(within(t), standbyDied)
	isUnknown(t, err, "succeeded", "exit status 0")
	if r.Verdict != script.NotDone || r.Runs[0].Exit != 0 {
		t.Fatalf("a script that finds nothing to do: %+v", r)
	}

	r, err = script.Promote(within(t), p)
	if err != nil || r.Verdict != script.Verified || r.Promoted.Timeline != 2 || r.Promoted.LSN == 0 || w.ask("db2", "pg_is_in_recovery()") != "false" {
		t.Fatalf("%+v, %v", r, err)
	}
	one, two := w.as("db1"), w.as("db2")
	want := []string{"0", one.Host, strconv.Itoa(one.Port), one.DataDir, "1", "0", two.Host, "0", strconv.Itoa(two.Port), two.DataDir}
	if !slices.Equal(r.Runs[0].Args, want) {
		t.Errorf("the script got %q, expected %q", r.Runs[0].Args, want)
	}
	if said := w.read(log); !strings.Contains(said, "Node 1 takes over the primary.") || !strings.Contains(said, "NEW_MASTER_NODE_HOST     localhost") {
		t.Errorf("the script's own log says %s", said)
	}
	d := r.Detail()
	if d["verdict"] != "verified" || d["exit"] != "0" || d["timeline"] != "2" || !strings.Contains(d["script"], asItIs+" 0 127.0.0.1") || !slices.Equal(r.Unseen, []string{"db1"}) || d["unseen"] != "db1" {
		t.Errorf("for the log: %q", d)
	}
	if r, err = script.Promote(within(t), p); err != nil || r.Verdict != script.Already || len(r.Runs) != 0 || r.Promoted.Timeline != 2 {
		t.Errorf("once more: %+v, %v", r, err)
	}
}

// TestScriptsThatLie: what a script says, and what it did.
func TestScriptsThatLie(t *testing.T) {
	w := newWorld(t, 3)
	w.kill("db1")

	// One that hangs is ended with its children.
	pids := filepath.Join(w.dir, "pids")
	p := w.promotion(w.write("hang.sh", "#!/bin/sh\necho waiting; sleep 600 & echo $$ $! >"+pids+"\nwait"), "db2", "db1", "db3")
	p.Within = time.Second
	began := time.Now()
	r, err := script.Promote(within(t), p)
	isUnknown(t, err, "hang.sh", "did not end within", "still in recovery")
	if r.Verdict != script.Failed || r.Runs[0].Exit != -1 || r.Runs[0].Stdout != "waiting\n" {
		t.Errorf("a script that hangs: %+v", r)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, field := range strings.Fields(w.read(pids)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		until(t, "process "+field+" has ended", func() bool {
			stat, err := os.ReadFile("/proc/" + field + "/stat")
			return err != nil || strings.Contains(string(stat), ") Z ") || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		})
	}

	// The right to promote ends while the script runs: it is ended.
	gone := errors.New("the lease is over")
	var asked atomic.Int32
	p = w.promotion(w.write("slow.sh", "#!/bin/sh\nsleep 600"), "db2", "db1", "db3")
	p.Check = func() error {
		if asked.Add(1) > 5 {
			return gone
		}
		return nil
	}
	r, err = script.Promote(within(t), p)
	isUnknown(t, err, "slow.sh")
	if !errors.Is(err, gone) || r.Verdict != script.Unknown || r.Runs[0].Exit != -1 || r.Runs[0].Took > 10*time.Second {
		t.Errorf("without the right: %+v, %v", r, err)
	}
	if r, err = script.Promote(within(t), p); !errors.Is(err, gone) || r.Verdict != script.Refused || errors.As(err, new(*executors.PromoteUnknown)) {
		t.Errorf("begun without the right: %+v, %v", r, err)
	}

	// A script that is not there.
	p = w.promotion("/no/such/script.sh %d", "db2", "db1", "db3")
	r, err = script.Promote(within(t), p)
	isUnknown(t, err, "/no/such/script.sh")
	if r.Verdict != script.Failed {
		t.Errorf("a script that is not there: %+v", r)
	}

	// A data directory that a shell would read as two: nothing runs.
	ran := filepath.Join(w.dir, "ran")
	for _, odd := range []string{"/data dir", "/data/$(touch " + ran + ")", "/data\n/etc", "/d'q'"} {
		p = w.promotion(w.write("odd.sh", "#!/bin/sh\ntouch "+ran+"; eval echo $1")+" %R", "db2", "db1", "db3")
		p.Values.Main.DataDir = odd
		if r, err = script.Promote(within(t), p); err == nil || r.Verdict != script.Refused || !strings.Contains(err.Error(), "node 1") {
			t.Errorf("%q: %+v, %v; expected a refusal that names the node", odd, r, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a script ran with an odd value")
	}

	// It promotes another node, and says that all is well.
	p = w.promotion(w.write("other.sh", "#!/bin/sh\npg_ctl -D "+w.as("db3").DataDir+" -w promote"), "db2", "db1", "db3")
	r, err = script.Promote(within(t), p)
	isUnknown(t, err, "db3")
	if !errors.Is(err, script.ErrOtherPromoted) || r.Verdict != script.Unsafe || r.Runs[0].Exit != 0 {
		t.Errorf("another was promoted: %+v, %v", r, err)
	}

	// The effect counts, and the exit status is recorded.
	p = w.promotion(w.write("three.sh", "#!/bin/sh\npg_ctl -D $1 -w promote; echo 'no e-mail was sent' >&2; exit 3")+" %R", "db2", "db1")
	r, err = script.Promote(within(t), p)
	if err != nil || r.Verdict != script.Despite || r.Runs[0].Exit != 3 || !strings.Contains(r.Detail()["stderr"], "no e-mail") || r.Promoted.Timeline != 2 {
		t.Errorf("done, with exit status 3: %+v, %v", r, err)
	}
}

// TestPrimaryWithoutTimeline: a script that starts the candidate as a primary
// in place of promoting it makes two histories that look alike.
func TestPrimaryWithoutTimeline(t *testing.T) {
	w := newWorld(t, 2)
	w.kill("db1")
	p := w.promotion(w.write("restart.sh", "#!/bin/sh\nrm $1/standby.signal; pg_ctl -D $1 -w -m fast -l $1.log restart")+" %R", "db2", "db1")
	r, err := script.Promote(within(t), p)
	isUnknown(t, err, "timeline 1")
	if !errors.Is(err, script.ErrSameTimeline) || r.Verdict != script.Unsafe {
		t.Errorf("%+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.kill("db2")
	if r, err := script.Promote(ctx, p); r.Verdict != script.Refused || err == nil {
		t.Errorf("a candidate that is down: %+v, %v", r, err)
	}
}
