package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/logtest"
)

// rawAs is a plain NATS client with a role's key: what a thief of it would use.
func rawAs(t *testing.T, s *Server, p place, role Role) *nats.Conn {
	t.Helper()
	key, err := readKey(KeyFile(p.keys, role))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.URL(), nats.Nkey(pub, key.Sign), nats.CustomInboxPrefix(inboxPrefix(pub)),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestStrangersAreRefused(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	if nc, err := nats.Connect(s.URL()); err == nil {
		nc.Close()
		t.Error("a client without a key was let in")
	}
	if nc, err := nats.Connect(s.URL(), nats.UserInfo("admin", "admin")); err == nil {
		nc.Close()
		t.Error("a client with a password was let in")
	}
	if nc, err := nats.Connect("", nats.InProcessServer(s.ns)); err == nil {
		nc.Close()
		t.Error("a client of this process was let in without a key")
	}
	other := t.TempDir() + "/keys"
	if err := EnsureKeys(other); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), logtest.Deadline)
	defer cancel()
	_, err := Dial(ctx, DialOptions{URL: s.URL(), KeyFile: KeyFile(other, RoleController), Cluster: "demo"})
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), other) {
		t.Errorf("a foreign key got %v; want ErrDenied that names the key file", err)
	}
	_, err = Dial(ctx, DialOptions{URL: s.URL(), KeyFile: KeyFile(p.keys, RoleAgent), Cluster: "other"})
	if !errors.Is(err, ErrDenied) {
		t.Errorf("a key of this cluster dialled another and got %v; want ErrDenied", err)
	}
}

// dialling are the roles that may read the log; the subscriber has a test of its
// own.
var dialling = slices.DeleteFunc(slices.Clone(Roles), func(r Role) bool { return r == RoleSubscriber })

func TestRolesPublishOnlyTheirOwn(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	may := map[Role]string{
		RoleController: "decision declined deadline policy", RoleAgent: "health lease result",
		RoleOperator: "operator policy", RoleReader: "",
	}
	var want int
	for _, role := range dialling {
		l := dialAs(t, p, role, viaTCP(s))
		for _, class := range events.Classes {
			allowed := slices.Contains(strings.Fields(may[role]), string(class))
			d := logtest.Draft(events.Unknown{KindName: "attempt", Version: 1, ClassIn: class, KeyIn: "x"})
			_, err := l.Append(t.Context(), d)
			switch {
			case allowed && err != nil:
				t.Errorf("%s cannot publish %s: %v", role, class, err)
			case !allowed && !errors.Is(err, ErrDenied):
				t.Errorf("%s publishing %s got %v, want ErrDenied", role, class, err)
			}
			if allowed {
				want++
			}
		}
		if got := logtest.All(t, l, 0); len(got) != want {
			t.Errorf("%s read %d events, want %d", role, len(got), want)
		}
	}
}

// TestNobodyChangesTheStream: neither directly, nor by having the server send
// an answer where the asker could not send itself.
func TestNobodyChangesTheStream(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	log := dialAll(t, p, viaTCP(s))
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 1))
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 2))
	agent := rawAs(t, s, p, RoleAgent)
	// Ammunition: a body that is a request to purge, headers that make a decision.
	forged := nats.NewMsg("interrex.demo.health.db1")
	forged.Data = []byte("{}")
	forged.Header.Set(headerType, "decided")
	forged.Header.Set(headerSchema, "decided/v1")
	if _, err := agent.RequestMsg(forged, logtest.Deadline); err != nil {
		t.Fatal(err)
	}
	targets := []string{
		"interrex.demo.decision.c1", "$JS.API.STREAM.PURGE.interrex-demo", "$JS.API.STREAM.DELETE.interrex-demo",
		"$JS.API.STREAM.UPDATE.interrex-demo", "$JS.API.STREAM.MSG.DELETE.interrex-demo",
	}
	for _, role := range dialling {
		nc := rawAs(t, s, p, role)
		for _, target := range targets {
			for _, body := range []string{"", "{}", `{"seq":1}`} {
				_ = nc.Publish(target, []byte(body))
				_ = nc.PublishRequest("interrex.demo.health.db1", target, []byte(body))
			}
			launder(t, nc, target)
		}
		if err := nc.FlushTimeout(logtest.Deadline); err != nil {
			t.Fatal(err)
		}
	}
	// Everything above was sent before this marker is stored.
	marker := logtest.MustAppend(t, log, logtest.Heartbeat("marker", 1))
	all := logtest.All(t, log, 0)
	if len(all) == 0 || all[0].Seq != 1 || uint64(len(all)) != marker.Seq {
		t.Fatalf("of %d events %d are left", marker.Seq, len(all))
	}
	for _, e := range all {
		if c := e.Data.Class(); c != events.ClassHealth && !(c == events.ClassDecision && e.Source == "") {
			t.Errorf("event %d was published as %s", e.Seq, c)
		}
	}
	for _, e := range logtest.All(t, log, 0, events.ClassDecision) {
		if e.Kind() == "decided" {
			t.Errorf("event %d is a decision that no controller made", e.Seq)
		}
	}
}

// launder asks for stored messages to be answered to target.
func launder(t *testing.T, nc *nats.Conn, target string) {
	t.Helper()
	for seq := 1; seq <= 3; seq++ {
		_ = nc.PublishRequest("$JS.API.DIRECT.GET.interrex-demo", target, fmt.Appendf(nil, `{"seq":%d}`, seq))
		_ = nc.PublishRequest("$JS.API.STREAM.MSG.GET.interrex-demo", target, fmt.Appendf(nil, `{"seq":%d}`, seq))
	}
	for _, headersOnly := range []bool{true, false} {
		for _, push := range []string{"", target} {
			name := fmt.Sprintf("evil-%v-%d", headersOnly, len(push))
			config := map[string]any{
				"name": name, "durable_name": name, "deliver_policy": "all", "ack_policy": "none", "headers_only": headersOnly,
			}
			if push != "" {
				config["deliver_subject"] = push
			}
			request, err := json.Marshal(map[string]any{"stream_name": "interrex-demo", "config": config})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Request("$JS.API.CONSUMER.CREATE.interrex-demo."+name, request, logtest.Deadline); err != nil {
				t.Fatal(err)
			}
			_ = nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.interrex-demo."+name, target, []byte(`{"batch":100,"no_wait":true}`))
			_ = nc.Publish("$JS.API.CONSUMER.DELETE.interrex-demo."+name, nil)
		}
	}
}

// TestReaderListens: any NATS client with the reader's key hears of failovers.
func TestReaderListens(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	nc := rawAs(t, s, p, RoleReader)
	sub, err := nc.SubscribeSync("interrex.demo.decision.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(logtest.Deadline); err != nil {
		t.Fatal(err)
	}
	log := dialAll(t, p, viaTCP(s))
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 1))
	want := logtest.MustAppend(t, log, logtest.Decision("c1", 1))
	got, err := sub.NextMsg(logtest.Deadline)
	if err != nil || string(got.Data) != string(want.Body) || got.Header.Get(headerType) != "decided" {
		t.Errorf("heard %v, %v; want the decision", got, err)
	}
}

func TestKeys(t *testing.T) {
	dir := t.TempDir() + "/deep/keys"
	if err := EnsureKeys(dir); err != nil {
		t.Fatal(err)
	}
	before := map[Role]string{}
	for _, role := range Roles {
		info, err := os.Stat(KeyFile(dir, role))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", role, info, err)
		}
		if before[role], err = publicKey(KeyFile(dir, role)); err != nil || !nkeys.IsValidPublicUserKey(before[role]) {
			t.Errorf("%s: public key %q, %v", role, before[role], err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v; want mode 0700", info, err)
	}
	if err := EnsureKeys(dir); err != nil {
		t.Fatal(err)
	}
	for role, pub := range before {
		if again, err := publicKey(KeyFile(dir, role)); err != nil || again != pub {
			t.Errorf("%s: the second call replaced the key (%v)", role, err)
		}
	}
	files, err := fs.Glob(os.DirFS(dir), "*")
	if err != nil || len(files) != len(Roles) {
		t.Errorf("the directory holds %v, %v; want the keys only", files, err)
	}
	if err := os.Chmod(KeyFile(dir, RoleAgent), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := EnsureKeys(dir); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that everybody can read: %v; want a refusal that says how to mend it", err)
	}
}

// TestWildcardSwapOnServer pins what AtDecision relies on: the server evaluates
// a wildcard filter, and refuses the filter without a sequence.
func TestWildcardSwapOnServer(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	log := dialAll(t, p, viaTCP(s))
	logtest.MustAppend(t, log, logtest.Decision("c1", 0))
	logtest.MustAppend(t, log, logtest.Decision("c2", 1))
	js := log.as[events.ClassHealth].now().js
	for seq, code := range map[uint64]jetstream.ErrorCode{0: codeWrongLastSequence, 1: codeWrongLastSequence, 2: 0} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := js.PublishMsg(ctx, nats.NewMsg("interrex.demo.health.x"), jetstream.WithExpectLastSequenceForSubject(seq, "interrex.demo.decision.*"))
		cancel()
		var refused *jetstream.APIError
		if errors.As(err, &refused); (refused == nil) != (code == 0) || refused != nil && refused.ErrorCode != code {
			t.Errorf("expecting decision %d: %v; want code %d", seq, err, code)
		}
	}
}
