package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/scenarios"
)

const patience = 60 * time.Second

// place is a real log: an embedded server and the keys that it made.
type place struct {
	*natslog.Server
	keys string
	logs map[events.Class]*natslog.Log
}

func newPlace(t *testing.T) place {
	t.Helper()
	p := place{keys: filepath.Join(t.TempDir(), "keys"), logs: map[events.Class]*natslog.Log{}}
	var err error
	if p.Server, err = natslog.StartServer(natslog.ServerOptions{Cluster: "demo", StoreDir: t.TempDir(), KeysDir: p.keys}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Shutdown)
	for role, classes := range map[natslog.Role][]events.Class{
		natslog.RoleController: {events.ClassDecision, events.ClassDeclined, events.ClassDeadline, events.ClassPolicy},
		natslog.RoleAgent:      {events.ClassHealth, events.ClassLease, events.ClassResult},
		natslog.RoleOperator:   {events.ClassOperator},
	} {
		log := p.dial(t, role)
		for _, c := range classes {
			p.logs[c] = log
		}
	}
	return p
}

func (p place) dial(t *testing.T, role natslog.Role) *natslog.Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	log, err := natslog.Dial(ctx, natslog.DialOptions{URL: p.URL(), KeyFile: natslog.KeyFile(p.keys, role), Cluster: "demo", Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

func (p place) append(t *testing.T, e events.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := p.logs[e.Data.Class()].Append(ctx, events.Draft{ID: e.ID, Time: e.Time, Source: e.Source, Data: e.Data}); err != nil {
		t.Fatal(err)
	}
}

// knock appends decisions that say nothing until somebody hears one.
func (p place) knock(t *testing.T, heard func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; !heard(); i++ {
		<-tick.C
		if time.Now().After(end) {
			t.Fatalf("the subscriber heard nothing within %s", patience)
		}
		e, err := scenarios.Store(uint64(1e6+i), time.Now(), events.Decided{Controller: "knock"})
		if err != nil {
			t.Fatal(err)
		}
		p.append(t, e)
	}
}

// crash is what the rules decide when a primary dies, event by event.
func crash(t *testing.T) (log []events.Event, sentences []string) {
	t.Helper()
	f, err := os.Open("../../scenarios/testdata/crash.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	story, err := scenarios.ReadStory("crash.txt", f)
	if err != nil {
		t.Fatal(err)
	}
	if log, err = story.Run(); err != nil {
		t.Fatal(err)
	}
	for _, e := range log {
		if e.Data.Class() == events.ClassDecision {
			sentences = append(sentences, e.Time.Format(time.RFC3339Nano)+" "+strings.ReplaceAll(events.Sentence(e.Data), "→", "->"))
		}
	}
	return log, sentences
}

// TestEachDecisionIsTold: the program, built and run as a user would, with the
// key that can publish nothing.
func TestEachDecisionIsTold(t *testing.T) {
	p := newPlace(t)
	cmd := exec.Command(build(t), p.URL(), natslog.KeyFile(p.keys, natslog.RoleSubscriber), "demo")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := make(chan string, 10000)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	p.knock(t, func() bool { return len(lines) > 0 })
	log, want := crash(t)
	for _, e := range log {
		p.append(t, e)
	}
	var got []string
	for len(got) < len(want) {
		select {
		case l, open := <-lines:
			if !open {
				t.Fatal("the program ended")
			}
			if !strings.HasSuffix(l, " node status:") {
				got = append(got, l)
			}
		case <-time.After(patience):
			t.Fatalf("heard %d of %d decisions:\n%s", len(got), len(want), strings.Join(got, "\n"))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("heard\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if all := strings.Join(got, "\n"); len(want) < 5 || !strings.Contains(all, "db2 is primary of term 2") {
		t.Errorf("no failover was told:\n%s", all)
	}
}

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "subscriber")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func TestBadInput(t *testing.T) {
	p := newPlace(t)
	key, program := natslog.KeyFile(p.keys, natslog.RoleSubscriber), build(t)
	for name, args := range map[string][]string{
		"no arguments": nil, "no key": {p.URL(), "/no/such/key", "demo"}, "no server": {"nats://127.0.0.1:1", key, "demo"},
		"a bad cluster": {p.URL(), key, "a b"},
	} {
		if out, err := exec.Command(program, args...).CombinedOutput(); err == nil || strings.Contains(string(out), "panic") || len(out) == 0 {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// TestPublishIsRefused: with the subscriber's key, and nothing lands in the log.
func TestPublishIsRefused(t *testing.T) {
	p := newPlace(t)
	key, err := nats.NkeyOptionFromSeed(natslog.KeyFile(p.keys, natslog.RoleSubscriber))
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 10)
	nc, err := nats.Connect(p.URL(), key, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { said <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish("interrex.demo.decision.c1", []byte(`{"why":"because I say so"}`)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-said:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("the server said %v", err)
		}
	case <-time.After(patience):
		t.Error("the server did not complain")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if last, err := p.logs[events.ClassHealth].Last(ctx); last != 0 || err != nil {
		t.Errorf("the log ends at event %d, %v; want an empty one", last, err)
	}
}

// TestAnyClient: the protocol by hand, a line at a time, over a plain socket:
// whatever speaks NATS can listen, with the key's signature and one SUB.
func TestAnyClient(t *testing.T) {
	p := newPlace(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	fmt.Fprintf(conn, "CONNECT %s\r\nSUB interrex.demo.decision.> 1\r\nPING\r\n", signed(t, p, in))
	for line := ""; line != "PONG"; {
		if line = read(t, in); strings.HasPrefix(line, "-ERR") {
			t.Fatal(line)
		}
	}
	log, want := crash(t)
	for _, e := range log {
		p.append(t, e)
	}
	for _, w := range want {
		head, body := message(t, in)
		when, sentence, _ := strings.Cut(w, " ")
		if !strings.Contains(head, "ce-time: "+when+"\r\n") || !strings.Contains(head, "ce-sentence: "+sentence+"\r\n") {
			t.Errorf("heard %s, want %q", head, w)
		}
		if !json.Valid(body) {
			t.Errorf("the body is no JSON: %s", body)
		}
	}
	fmt.Fprintf(conn, "PUB interrex.demo.decision.c1 2\r\n{}\r\n")
	if line := said(t, in); !strings.HasPrefix(line, "-ERR 'Permissions Violation for Publish") {
		t.Errorf("the server said %s", line)
	}
}

// signed answers the server's challenge.
func signed(t *testing.T, p place, in *bufio.Reader) []byte {
	t.Helper()
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(read(t, in), "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	seed, err := os.ReadFile(natslog.KeyFile(p.keys, natslog.RoleSubscriber))
	if err != nil {
		t.Fatal(err)
	}
	key, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"nkey": public, "sig": base64.RawURLEncoding.EncodeToString(sig), "headers": true, "verbose": false, "protocol": 1})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	line, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(line, "\r\n")
}

// said is the next line that is not the server's news of itself.
func said(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	for {
		if line := read(t, in); !strings.HasPrefix(line, "INFO ") {
			return line
		}
	}
}

// message reads HMSG subject sid header-bytes all-bytes, header and body.
func message(t *testing.T, in *bufio.Reader) (head string, body []byte) {
	t.Helper()
	line := said(t, in)
	f := strings.Fields(line)
	if len(f) < 5 || f[0] != "HMSG" {
		t.Fatalf("the server said %s", line)
	}
	first, err := strconv.Atoi(f[len(f)-2])
	if err != nil {
		t.Fatal(err)
	}
	all, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, all+2)
	if _, err := io.ReadFull(in, b); err != nil {
		t.Fatal(err)
	}
	return string(b[:first]), b[first:all]
}
