package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/executors/ssh"
	"github.com/interrex-ha/interrex/internal/cuttest"
	"github.com/interrex-ha/interrex/internal/sshdtest"
)

// TestCutConnection: a network that goes away closes nothing. What runs ends
// with an error that says so, what is asked meanwhile ends within its own time,
// and when the network is back the next call works.
func TestCutConnection(t *testing.T) {
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	p := cuttest.New(t, "tcp", "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", s.Port))
	port := p.Addr.(*net.TCPAddr).Port
	s.KnownAt(t, port)
	o := at(t, w, port)
	o.ConnectWithin = 2 * time.Second
	r := opened(t, o)
	running := make(chan error, 1)
	lines := make(chan string, 10)
	go func() {
		_, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "echo begun; exec sleep 60"}, Line: func(l string) { lines <- l }})
		running <- err
	}()
	select {
	case <-lines:
	case err := <-running:
		t.Fatal(err)
	}
	ends := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "echo begun; exec sleep 60"}, Timeout: 2 * time.Second, Line: func(l string) { lines <- l }})
		ends <- err
	}()
	<-lines
	p.Cut(true)
	began := time.Now()
	_, err := r.Run(t.Context(), executors.Command{Path: "true", Timeout: time.Second})
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 10*time.Second {
		t.Errorf("a call over the cut connection: %v after %s", err, took)
	}
	t.Logf("after %s: %v", time.Since(began), err)
	err = <-ends
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "whether it runs on is not known") || took > 12*time.Second {
		t.Errorf("a command whose time was over: %v after %s", err, took)
	}
	t.Logf("after %s: %v", time.Since(began), err)
	err = <-running
	if took := time.Since(began); !errors.Is(err, ssh.ErrLost) || !strings.Contains(err.Error(), fmt.Sprintf("connection to %s@127.0.0.1:%d lost", login(t), port)) || took > 15*time.Second {
		t.Errorf("the command that ran: %v after %s", err, took)
	}
	t.Logf("after %s: %v", time.Since(began), err)
	if err := hello(t.Context(), r); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("a new connection through the cut: %v", err)
	}
	p.Cut(false)
	if err := hello(t.Context(), r); err != nil {
		t.Errorf("after the network is back: %v", err)
	}
}

// TestServerGoes: a connection that is closed is noticed at once.
func TestServerGoes(t *testing.T) {
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	r := opened(t, at(t, w, s.Port))
	lines := make(chan string, 10)
	running := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "echo begun; exec sleep 60"}, Line: func(l string) { lines <- l }})
		running <- err
	}()
	select {
	case <-lines:
	case err := <-running:
		t.Fatal(err)
	}
	s.Stop(t)
	if err := <-running; !errors.Is(err, ssh.ErrLost) {
		t.Errorf("got %v, expected ErrLost", err)
	}
	if err := hello(t.Context(), r); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, expected a refused connection", err)
	}
	s.Start(t)
	if err := hello(t.Context(), r); err != nil {
		t.Error(err)
	}
}

func TestMoreCommandsThanSessions(t *testing.T) {
	w := sshdtest.New(t, login(t))
	for _, most := range []int{1, 10} {
		s := w.Serve(t, fmt.Sprintf("MaxSessions %d", most))
		r := opened(t, at(t, w, s.Port))
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if err := hello(t.Context(), r); err != nil {
					t.Errorf("MaxSessions %d: %v", most, err)
				}
			})
		}
		all.Wait()
	}
	none := w.Serve(t, "MaxSessions 0")
	refused(t, at(t, w, none.Port), "run a command", fmt.Sprintf("127.0.0.1:%d", none.Port))
}

func TestClosed(t *testing.T) {
	w := sshdtest.New(t, login(t))
	s := w.Serve(t)
	r := opened(t, at(t, w, s.Port))
	running := make(chan error, 1)
	lines := make(chan string, 10)
	go func() {
		_, err := r.Run(t.Context(), executors.Command{Path: "sh", Args: []string{"-c", "echo begun; exec sleep 60"}, Line: func(l string) { lines <- l }})
		running <- err
	}()
	select {
	case <-lines:
	case err := <-running:
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-running; err == nil {
		t.Error("a command survived the end of its connection")
	}
	if err := hello(t.Context(), r); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v, expected that the runner is closed", err)
	}
}

// TestLargeFile is a program of the size of this one, which is copied to each
// host.
func TestLargeFile(t *testing.T) {
	w := sshdtest.New(t, login(t))
	r := opened(t, at(t, w, w.Serve(t).Port))
	if err := hello(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcde\n"), 45<<16)
	file := filepath.Join("/tmp", filepath.Base(filepath.Dir(w.Key))+".large")
	defer func() { _ = r.Remove(context.Background(), file) }()
	began := time.Now()
	if err := r.WriteFile(t.Context(), file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB written within %s", len(data)>>20, time.Since(began))
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes arrived, %v", len(got), err)
	}
	began = time.Now()
	if got, err := r.ReadFile(t.Context(), file); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	t.Logf("read within %s", time.Since(began))
}

// TestSecretsOnNoCommandLine looks at all processes of this host, which is the
// other host as well, while commands with secrets come and go.
func TestSecretsOnNoCommandLine(t *testing.T) {
	w := sshdtest.New(t, login(t))
	r := opened(t, at(t, w, w.Serve(t).Port))
	const secret = "very-secret-indeed"
	done := make(chan struct{})
	var seen atomic.Int64
	go func() {
		defer close(done)
		for i := 0; i < 15 || i < 200 && seen.Load() == 0; i++ {
			_, err := r.Run(t.Context(), executors.Command{
				Path: "sh", Args: []string{"-c", `read -r x; [ "$x" = "$Y" ] && [ "${#x}" -gt 9 ] && exec sleep 0.05`},
				Stdin: []byte(secret + "\n"), Env: []string{"Y=" + secret}, Timeout: 20 * time.Second,
			})
			if err != nil {
				t.Error(err)
			}
			if err := r.WriteFile(t.Context(), "/tmp/"+filepath.Base(filepath.Dir(w.Key))+".secret", []byte(secret), 0o600); err != nil {
				t.Error(err)
			}
		}
		_ = r.Remove(t.Context(), "/tmp/"+filepath.Base(filepath.Dir(w.Key))+".secret")
	}()
	looked := 0
	for running := true; running; looked++ {
		select {
		case <-done:
			running = false
		default:
		}
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range lines {
			b, _ := os.ReadFile(name)
			if bytes.Contains(b, []byte("IFS= read -r ix_n")) {
				seen.Add(1)
			}
			if bytes.Contains(b, []byte(secret)) {
				t.Fatalf("a secret stands on a command line: %q", b)
			}
		}
	}
	if seen.Load() == 0 {
		t.Errorf("in %d looks no shell of the runner was seen: the test has looked in the wrong place", looked)
	}
	t.Logf("%d looks, %d shells seen", looked, seen.Load())
}

// TestOutputIsWholeForASlowReader: what a program has printed arrives however
// long after its end.
func TestOutputIsWholeForASlowReader(t *testing.T) {
	w := sshdtest.New(t, login(t))
	r := opened(t, at(t, w, w.Serve(t).Port))
	lines := 0
	out, err := r.Run(t.Context(), executors.Command{
		Path: "sh", Args: []string{"-c", `i=0; while [ $i -lt 1500 ]; do printf '%0200d\n' $i; i=$((i+1)); done`}, Keep: 1 << 20, Timeout: time.Minute,
		Line: func(string) { lines++; time.Sleep(time.Millisecond) },
	})
	if err != nil || lines != 1500 || len(out.Stdout) != 1500*201 {
		t.Errorf("%d lines and %d bytes, %v; expected 1500 and %d", lines, len(out.Stdout), err, 1500*201)
	}
}
