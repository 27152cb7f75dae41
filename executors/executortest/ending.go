package executortest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for something that normally takes
// milliseconds.
const patience = 20 * time.Second

func itoa(n int) string { return strconv.Itoa(n) }

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// family is a shell that has a child and a grandchild; each writes its number
// into a file of the directory $1.
const family = `echo $$ > "$1/parent"
sh -c 'echo $$ > "$1/child"; sh -c '\''echo $$ > "$1/grandchild"; sleep 600; :'\'' sh "$1"; :' sh "$1"
:`

func (p place) gone(t *testing.T) {
	t.Helper()
	for _, who := range []string{"parent", "child", "grandchild"} {
		pid := strings.TrimSpace(p.sh(t, `cat "$1"`, p.dir+"/"+who))
		eventually(t, who+" "+pid+" has ended", func() bool {
			// A zombie answers kill -0, so its state is read as well.
			out := p.sh(t, `kill -0 "$1" 2>/dev/null && ps -o stat= -p "$1"; :`, pid)
			return strings.TrimSpace(out) == "" || strings.HasPrefix(strings.TrimSpace(out), "Z")
		})
	}
}

func timeout(t *testing.T, p place) {
	c := shell(family, p.dir)
	c.Timeout = time.Second
	began := time.Now()
	_, err := p.Run(t.Context(), c)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "sh") || !strings.Contains(err.Error(), "1s") {
		t.Fatalf("got %v, expected context.DeadlineExceeded, the program's name and the time-out", err)
	}
	if took := time.Since(began); took < c.Timeout || took > patience {
		t.Fatalf("it took %s, expected a little more than %s", took, c.Timeout)
	}
	p.gone(t)
}

func cancellation(t *testing.T, p place) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the order was withdrawn")
	c := shell(family, p.dir)
	c.Timeout = 10 * patience
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(ctx, c)
		done <- err
	}()
	eventually(t, "the grandchild runs", func() bool {
		b, err := p.ReadFile(t.Context(), p.dir+"/grandchild")
		return err == nil && len(b) > 0
	})
	cancel(reason)
	select {
	case err := <-done:
		if !errors.Is(err, reason) {
			t.Fatalf("got %v, expected the cause of the cancellation", err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not return after the cancellation")
	}
	p.gone(t)
}

func overBefore(t *testing.T, p place) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Run(ctx, shell(`echo ran > "$1/ran"`, p.dir)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, expected context.Canceled", err)
	}
	if err := p.WriteFile(ctx, p.dir+"/ran", nil, 0o600); !errors.Is(err, context.Canceled) {
		t.Fatalf("WriteFile gave %v, expected context.Canceled", err)
	}
	if left := p.sh(t, `ls -A "$1"`, p.dir); left != "" {
		t.Fatalf("something ran: %q", left)
	}
}

func streaming(t *testing.T, p place) {
	lines := make(chan string, 100)
	// The program goes on only after the test has answered its first line.
	c := shell(`echo one; while [ ! -e "$1/go" ]; do sleep 0.02; done; echo two >&2; printf three`, p.dir)
	c.Timeout = patience
	c.Line = func(l string) { lines <- l }
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(t.Context(), c)
		done <- err
	}()
	select {
	case l := <-lines:
		if l != "one" {
			t.Fatalf("the first line is %q, expected one", l)
		}
	case <-time.After(patience / 2):
		t.Fatal("no line was delivered while the program ran")
	}
	if err := p.WriteFile(t.Context(), p.dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	rest := map[string]bool{<-lines: true, <-lines: true} // two streams: no order between them
	if !rest["two"] || !rest["three"] || len(lines) != 0 {
		t.Fatalf("then came %v and %d more, expected two and three", rest, len(lines))
	}
}

func daemonLeft(t *testing.T, p place) {
	c := shell(`sleep 600 & echo $! > "$1/daemon"; echo done`, p.dir)
	began := time.Now()
	out, err := p.Run(t.Context(), c)
	pid := strings.TrimSpace(p.sh(t, `cat "$1/daemon"`, p.dir))
	defer p.sh(t, `kill -9 "$1"`, pid)
	if err != nil || string(out.Stdout) != "done\n" {
		t.Fatalf("got %q, %v; expected done", out.Stdout, err)
	}
	if took := time.Since(began); took >= c.Timeout {
		t.Fatalf("it took %s: the caller waited for the daemon's pipes", took)
	}
	p.sh(t, `kill -0 "$1"`, pid)
}
