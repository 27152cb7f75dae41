package onhost_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/local"
	"github.com/interrex-ha/interrex/executors/onhost"
	"github.com/interrex-ha/interrex/internal/unroot"
	"github.com/interrex-ha/interrex/lab"
)

// The test binary is its own copy: called with the verb it serves.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == onhost.Verb {
		if err := onhost.Serve(context.Background(), os.Stdin, os.Stdout, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	unroot.Main(m)
}

// patience bounds what takes milliseconds to seconds.
const patience = 60 * time.Second

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain until %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// host is another host: this one, reached through a runner as another would be.
func host(t *testing.T, program string) *onhost.Host {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	h := onhost.New(local.New(), onhost.Options{Program: program, Where: "the other host"})
	t.Cleanup(h.Close)
	return h
}

func self(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func cluster(t *testing.T, nodes int) *lab.Layout {
	t.Helper()
	dir, err := os.MkdirTemp("", "o")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Create(deadline(t), lab.CreateOptions{Dir: filepath.Join(dir, "c"), Nodes: nodes, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range l.Nodes {
			if err := l.KillAll(context.Background(), n.Name); err != nil {
				t.Error(err)
			}
		}
		_ = os.RemoveAll(l.SocketDir)
		_ = os.RemoveAll(dir)
	})
	return l
}

// TestEveryAction carries out on another host all that needs PostgreSQL's own
// host: what the packages above call is the same as here.
func TestEveryAction(t *testing.T) {
	l, h := cluster(t, 2), host(t, self(t))
	at := func(name string) executors.Postgres {
		p := l.Postgres(name)
		p.Runner = h
		return p
	}
	old, next := at("db1"), at("db2")
	ctx := deadline(t)
	until(t, "the postmaster is seen", func() bool { _, ok, err := executors.Postmaster(old); return err == nil && ok })
	inc, _, err := executors.Postmaster(old)
	if here, ok, hereErr := executors.FindPostmaster(old.DataDir); err != nil || hereErr != nil || !ok || here != inc {
		t.Fatalf("it saw %+v, %v; expected %+v, %v", inc, err, here, hereErr)
	}
	if executors.StoppedCleanly(old) {
		t.Error("it runs, and counts as stopped in order")
	}
	w, err := executors.WatchPostmaster(old, inc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := executors.Start(ctx, old, executors.StartOptions{}); !errors.Is(err, executors.ErrRunning) {
		t.Errorf("starting what runs gave %v, expected ErrRunning", err)
	}
	dead, err := executors.Demote(ctx, nil, old)
	if err != nil || !dead.StandbySignal || !dead.Clean || dead.EndLSN == 0 || dead.SystemID == "" {
		t.Fatalf("demote: %+v, %v", dead, err)
	}
	select {
	case <-w.Done():
	case <-ctx.Done():
		t.Fatal("the end of the postmaster was not told")
	}
	if !executors.StoppedCleanly(old) {
		t.Error("it was stopped in order, and does not count as such")
	}
	if _, err := executors.Promote(ctx, nil, next, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	var steps []string
	got, err := executors.Recover(ctx, old, l.Upstream("db2", "db1"), executors.RecoverOptions{
		Decision: 7, How: "basebackup",
		Journal:  func(step string) error { steps = append(steps, "journal "+step); return nil },
		Progress: func(step string, _, _ uint64) { steps = append(steps, step) },
	})
	if err != nil || got.How != executors.HowBaseBackup || got.Kept == "" || !slices.Contains(steps, "journal basebackup") || !slices.Contains(steps, "basebackup") {
		t.Fatalf("recover: %+v, %v; steps %q", got, err, steps)
	}
	if err := executors.WaitStreaming(ctx, nil, old, l.Upstream("db2", "db1")); err != nil {
		t.Fatal(err)
	}
	if err := executors.Follow(ctx, nil, old, l.Upstream("db2", "db1")); err != nil {
		t.Fatal(err)
	}
	removed, bytes, err := executors.Clean(ctx, old)
	if err != nil || len(removed) != 1 || bytes == 0 {
		t.Errorf("clean removed %q, %d bytes, %v; expected what the base backup replaced", removed, bytes, err)
	}
	if err := executors.Stop(ctx, old, "fast"); err != nil {
		t.Fatal(err)
	}
	if _, err := executors.Start(ctx, old, executors.StartOptions{Standby: true}); err != nil {
		t.Fatal(err)
	}
	if err := executors.WaitAccepting(ctx, old); err != nil {
		t.Fatal(err)
	}
	if n, err := executors.KillPostgres(ctx, old); err != nil || n == 0 {
		t.Errorf("kill: %d, %v", n, err)
	}
	if dead, err = executors.ProveDead(ctx, next, 0); err != nil || dead.Killed == 0 || dead.Clean {
		t.Errorf("prove dead: %+v, %v", dead, err)
	}
	if inc, ok, err := executors.Postmaster(next); err != nil || ok {
		t.Errorf("what was just proved dead is seen as %+v, %t, %v", inc, ok, err)
	}
}

// TestJournalEndsIt: what the caller cannot write down is not begun there.
func TestJournalEndsIt(t *testing.T) {
	l, h := cluster(t, 2), host(t, self(t))
	p := l.Postgres("db2")
	p.Runner = h
	full := errors.New("the disk is full")
	_, err := executors.Recover(deadline(t), p, l.Upstream("db1", "db2"), executors.RecoverOptions{
		How: "basebackup", Journal: func(string) error { return full },
	})
	if !errors.Is(err, full) {
		t.Fatalf("got %v, expected the journal's error", err)
	}
}

// TestSilence: a host that says nothing is not taken for one whose PostgreSQL is
// gone.
func TestSilence(t *testing.T) {
	l, h := cluster(t, 1), host(t, self(t))
	p := l.Postgres("db1")
	p.Runner = h
	seen := func() bool { _, ok, err := executors.Postmaster(p); return err == nil && ok }
	until(t, "the postmaster is seen", seen)
	inc, _, _ := executors.Postmaster(p)
	w, err := executors.WatchPostmaster(p, inc)
	if err != nil {
		t.Fatal(err)
	}
	copies := freeze(t, filepath.Join(os.Getenv("XDG_CACHE_HOME"), "interrex"))
	var last error
	until(t, "the host is not heard of", func() bool { _, _, last = executors.Postmaster(p); return errors.Is(last, executors.ErrNotHeard) })
	if !strings.Contains(last.Error(), "the other host") {
		t.Errorf("the error %q does not name the host", last)
	}
	select {
	case <-w.Done():
		t.Error("silence was taken for the end of the process")
	default:
	}
	for _, pid := range copies {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	until(t, "the postmaster is seen again", seen)
	if err := l.KillAll(t.Context(), "db1"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Done():
	case <-time.After(patience):
		t.Error("the end of the process was not told")
	}
}

// freeze stops the copies that run from a directory.
func freeze(t *testing.T, dir string) (pids []int) {
	t.Helper()
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range exes {
		var pid int
		to, err := os.Readlink(exe)
		if _, scan := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err != nil || scan != nil || filepath.Dir(to) != dir {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		t.Fatalf("no copy runs from %s", dir)
	}
	return pids
}

// TestLeftBehind: an action that a cut connection has left at work ends when the
// next one comes.
func TestLeftBehind(t *testing.T) {
	l, h := cluster(t, 1), host(t, self(t))
	p := l.Postgres("db1")
	p.Runner = h
	if err := executors.Stop(deadline(t), p, "fast"); err != nil {
		t.Fatal(err)
	}
	blocked := p
	blocked.Port++ // nobody listens there: it waits for ever
	if _, err := executors.Start(deadline(t), p, executors.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	over := false
	first := make(chan error, 1)
	go func() {
		err := executors.WaitAccepting(deadline(t), blocked)
		mu.Lock()
		over = true
		mu.Unlock()
		first <- err
	}()
	ended := func() bool { mu.Lock(); defer mu.Unlock(); return over }
	until(t, "the next action has ended the one before", func() bool {
		err := executors.WaitAccepting(deadline(t), p) // the first may come after it, and end it
		return ended() && err == nil
	})
	if err := <-first; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the first one ended with %v, expected that it was killed", err)
	}
}

// TestCopy: a copy that is damaged, or removed, is replaced; one that cannot be
// read here, or run there, is an error that says so.
func TestCopy(t *testing.T) {
	l := cluster(t, 1)
	h := host(t, self(t))
	p := l.Postgres("db1")
	p.Runner = h
	act := func() error { _, _, err := executors.Clean(deadline(t), p); return err }
	if err := act(); err != nil {
		t.Fatal(err)
	}
	copies, err := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "interrex", "interrex-*"))
	if err != nil || len(copies) != 1 {
		t.Fatalf("copies: %q, %v; expected one", copies, err)
	}
	if err := os.Remove(copies[0]); err != nil {
		t.Fatal(err)
	}
	if err := act(); err == nil {
		t.Fatal("it ran without a copy")
	}
	if err := act(); err != nil {
		t.Fatalf("the copy that was removed was not made anew: %v", err)
	}
	if err := os.WriteFile(copies[0]+".half", []byte("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copies[0]+".half", copies[0]); err != nil {
		t.Fatal(err)
	}
	again := onhost.New(local.New(), onhost.Options{Program: self(t), Where: "the other host"})
	defer again.Close()
	p.Runner = again
	if err := act(); err != nil {
		t.Fatalf("the damaged copy was not replaced: %v", err)
	}
	none := onhost.New(local.New(), onhost.Options{Program: "/nowhere/interrex", Where: "the other host"})
	defer none.Close()
	p.Runner = none
	if err := act(); err == nil || !strings.Contains(err.Error(), "/nowhere/interrex") {
		t.Errorf("got %v, expected an error that names the program's file", err)
	}
}

// TestNoSecretOnACommandLine looks at every process while an action runs.
func TestNoSecretOnACommandLine(t *testing.T) {
	l, h := cluster(t, 1), host(t, self(t))
	p := l.Postgres("db1")
	p.Runner, p.Password = h, "very-secret-indeed"
	p.Port++
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = executors.WaitAccepting(ctx, p) }()
	found := false
	until(t, "the copy runs", func() bool {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		running := false
		for _, name := range lines {
			b, _ := os.ReadFile(name)
			running = running || strings.HasSuffix(strings.TrimRight(string(b), "\x00"), "\x00"+onhost.Verb)
			found = found || strings.Contains(string(b), p.Password)
		}
		return running
	})
	cancel()
	<-done
	if found {
		t.Error("the password stands on a command line")
	}
}

// TestBadOrders: what is no order is refused and does nothing.
func TestBadOrders(t *testing.T) {
	for _, bad := range []string{"", "{", "{}", `{"act":{"do":"promote-all"}}`, `{"ask":"what"}`, `{"act":{"do":"stop"},"more":1}`, "\x00\xff"} {
		var out strings.Builder
		err := onhost.Serve(t.Context(), strings.NewReader(bad), &out, nil)
		if err == nil && !strings.Contains(out.String(), `"error"`) {
			t.Errorf("%q: no error, it said %q", bad, out.String())
		}
	}
}

// TestLateOrders: what a cut network delivers after its end, after a newer order,
// or after a boot, begins nothing.
func TestLateOrders(t *testing.T) {
	l := cluster(t, 1)
	h := host(t, self(t))
	p := l.Postgres("db1")
	p.Runner = h
	until(t, "the host is heard of", func() bool { _, _, err := executors.Postmaster(p); return err == nil })
	if _, err := executors.ProveDead(deadline(t), p, 0); err != nil {
		t.Fatal(err)
	}
	program := onhost.ProgramOf(h)
	deliver := func(change func(o map[string]any)) string {
		t.Helper()
		late := onhost.StartOrder(t, h, p) // before the proof that comes now
		if _, err := executors.ProveDead(deadline(t), p, 0); err != nil {
			t.Fatal(err)
		}
		change(late)
		out, err := local.New().Run(deadline(t), executors.Command{Path: program, Args: []string{onhost.Verb}, Stdin: onhost.Encode(t, late)})
		if err != nil {
			t.Fatal(err)
		}
		return string(out.Stdout)
	}
	newest := map[string]any{"boot": "of another caller", "at": 1}
	for name, c := range map[string]struct {
		change func(map[string]any)
		says   string
	}{
		"after a newer order": {func(map[string]any) {}, "a newer order was begun"},
		"after its end": {func(o map[string]any) {
			o["turn"] = newest
			o["until"].(map[string]any)["at"] = 1
		}, "after its end"},
		"after a boot": {func(o map[string]any) {
			o["turn"] = newest
			o["until"].(map[string]any)["boot"] = "an earlier one"
		}, "after its end"},
	} {
		if out := deliver(c.change); !strings.Contains(out, c.says) {
			t.Errorf("%s: it answered %s, expected %q", name, out, c.says)
		}
		if _, running, err := executors.FindPostmaster(p.DataDir); err != nil || running {
			t.Fatalf("%s: a server was started: %t, %v", name, running, err)
		}
	}
}
