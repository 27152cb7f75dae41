//go:build linux

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/lab"
	"github.com/interrex-ha/interrex/view"
)

// patience is how long anything may take on a loaded machine.
const patience = 60 * time.Second

// cluster is a pair of servers under interrex up, which serves the API.
type cluster struct {
	t      *testing.T
	dir    string
	up     *process
	url    string
	layout *lab.Layout
}

// process is a command that runs until the test ends it.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	said said
	done chan struct{}
}

// said collects what a process says.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// start starts a program in front of nothing of the caller's INTERREX_ variables.
func start(t *testing.T, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(env, program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.WaitDelay = time.Second // agents that outlive an interrex up hold the pipe
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s %q said:\n%s", filepath.Base(program), args, &p.said)
		}
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

func command(env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "INTERREX_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// stop ends a process in order.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%q still runs %s after SIGINT; it said:\n%s", p.cmd.Args, patience, &p.said)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("%q ended with %d; it said:\n%s", p.cmd.Args, code, &p.said)
	}
}

var listens = regexp.MustCompile(`the API listens on (http://\S+)`)

// serves waits until a process says where its API is.
func (p *process) serves() string {
	p.t.Helper()
	var url string
	p.eventually("where the API listens", func() bool {
		if m := listens.FindStringSubmatch(p.said.String()); m != nil {
			url = m[1]
		}
		return url != ""
	})
	return url
}

// eventually waits until something holds, as long as the process lives.
func (p *process) eventually(what string, ok func() bool) {
	p.t.Helper()
	end := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.done:
			p.t.Fatalf("%q ended while %s was waited for; it said:\n%s", p.cmd.Args, what, &p.said)
		case <-tick.C:
		}
		if time.Now().After(end) {
			p.t.Fatalf("not seen within %s: %s", patience, what)
		}
	}
}

// newCluster makes a pair and waits until it is healthy, by its API alone.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "ixa") // a socket's path has about a hundred bytes
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: filepath.Join(base, "c")}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	c.up = start(t, nil, binary, "up", "--dir", c.dir, "--auth", "trust", "--nodes", "2", "--api", "127.0.0.1:0")
	t.Cleanup(c.sweep) // before the kill of whoever does not end in order
	c.url = c.up.serves()
	c.healthy()
	if c.layout, err = lab.Load(c.dir); err != nil {
		t.Fatal(err)
	}
	return c
}

// healthy waits until both nodes serve, one as the primary and one as a replica,
// and returns their names.
func (c *cluster) healthy() (primary, standby string) {
	c.t.Helper()
	c.up.eventually("a primary and a replica", func() bool {
		for _, pair := range [][2]string{{"db1", "db2"}, {"db2", "db1"}} {
			if c.status("/nodes/"+pair[0]+"/primary") == 200 && c.status("/nodes/"+pair[1]+"/replica?lag=1MB") == 200 && c.shows().Phase == "healthy" {
				primary, standby = pair[0], pair[1]
			}
		}
		return primary != ""
	})
	return primary, standby
}

// sweep ends interrex up in order, then kills by its number what is left of it.
func (c *cluster) sweep() {
	c.up.stop()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if bytes.Contains(args, []byte(c.dir)) {
			c.t.Errorf("process %d outlived interrex up: %q", pid, args)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// ask sends a request and returns status and body; 0 when nobody answers.
func ask(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (c *cluster) status(path string) int {
	c.t.Helper()
	code, _ := ask(c.t, http.MethodGet, c.url+path, "")
	return code
}

// wants asks and wants a status and words.
func wants(t *testing.T, code int, words, method, url, body string, headers ...string) string {
	t.Helper()
	got, said := ask(t, method, url, body, headers...)
	if got != code || !strings.Contains(said, words) {
		t.Errorf("%s %s: %d, want %d and %q in\n%s", method, url, got, code, words, said)
	}
	return said
}

// shows is GET /v1/cluster.
func (c *cluster) shows() (s view.Status) {
	c.t.Helper()
	if code, body := ask(c.t, http.MethodGet, c.url+"/v1/cluster", ""); code == 200 {
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			c.t.Fatalf("GET /v1/cluster: %v\n%s", err, body)
		}
	}
	return s
}

// freePort finds the first of n consecutive ports below those that the kernel
// gives to clients, so that they are still free when a server is started again.
func freePort(t *testing.T, n int) int {
	t.Helper()
	const first, last = 21000, 32767
	for p := first + os.Getpid()%8000; p+n-1 <= last; p++ {
		free := 0
		for free < n {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p+free))
			if err != nil {
				break
			}
			_ = l.Close()
			free++
		}
		if free == n {
			return p
		}
	}
	t.Fatalf("there are no %d consecutive free ports between %d and %d", n, first, last)
	return 0
}
