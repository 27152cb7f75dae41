package natslog

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/logtest"
)

// subscriber is a plain client with the subscriber's key, and what the server
// complained of to it.
func subscriber(t *testing.T, s *Server, p place) (*nats.Conn, chan error) {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(KeyFile(p.keys, RoleSubscriber))
	if err != nil {
		t.Fatal(err)
	}
	complaints := make(chan error, 1000)
	nc, err := nats.Connect(s.URL(), key, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { complaints <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, complaints
}

// TestSubscriberHearsWhatIsStored: and nothing that was only tried.
func TestSubscriberHearsWhatIsStored(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	nc, complaints := subscriber(t, s, p)
	sub, err := nc.SubscribeSync("interrex.demo.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(logtest.Deadline); err != nil {
		t.Fatal(err)
	}
	log := dialAll(t, p, viaTCP(s))
	decided := events.Decided{
		Controller: "c1", Rule: 401, From: events.Electing, To: events.Promoting, Why: "this standby has the most",
		Grant: &events.Grant{Term: 2, Node: "db2"}, Orders: []events.Order{{Do: events.ActPromote, Node: "db2"}},
	}
	refused := logtest.Draft(decided)
	refused.If = events.Condition{AtTail: true, Seq: 99}
	stored := []events.Event{logtest.MustAppend(t, log, logtest.Heartbeat("db1", 1))}
	if _, err := log.Append(t.Context(), refused); !errors.Is(err, events.ErrConflict) {
		t.Fatalf("a swap that is lost: %v", err)
	}
	stored = append(stored, logtest.MustAppend(t, log, logtest.Draft(decided)))
	for _, want := range stored {
		got, err := sub.NextMsg(logtest.Deadline)
		if err != nil {
			t.Fatal(err)
		}
		if seq := got.Header.Get("Nats-Sequence"); seq != strconv.FormatUint(want.Seq, 10) || string(got.Data) != string(want.Body) {
			t.Fatalf("heard event %s, %s; want event %d, %s", seq, got.Data, want.Seq, want.Body)
		}
		sentence := ""
		if want.Kind() == "decided" {
			sentence = "rule 401, electing -> promoting: this standby has the most; db2 is primary of term 2; orders: promote db2"
		}
		if said := got.Header.Get(headerSentence); said != sentence {
			t.Errorf("event %d says %q, want %q", want.Seq, said, sentence)
		}
	}
	if n, _, err := sub.Pending(); n != 0 || err != nil || len(complaints) != 0 {
		t.Errorf("%d more messages, %d complaints, %v", n, len(complaints), err)
	}
}

// TestSubscriberCanDoNothingElse: no publish on any subject, whatever its reply
// subject, and no subscription beyond the cluster's events.
func TestSubscriberCanDoNothingElse(t *testing.T) {
	p := newPlace(t)
	s := p.start(t)
	log := dialAll(t, p, viaTCP(s))
	logtest.MustAppend(t, log, logtest.Heartbeat("db1", 1))
	agent, err := publicKey(KeyFile(p.keys, RoleAgent))
	if err != nil {
		t.Fatal(err)
	}
	nc, complaints := subscriber(t, s, p)
	var tries []string
	for _, subject := range []string{
		">", "interrex.>", "*.demo.>", "interrex.other.decision.>", "interrex-stored.demo.>", "_INBOX.>", inboxPrefix(agent) + ".>", "$JS.>", "$JS.API.>", "$SYS.>", "x",
	} {
		if _, err := nc.SubscribeSync(subject); err == nil { // the client itself refuses some
			tries = append(tries, "Subscription to \""+subject+"\"")
		}
	}
	publish := append(readAPI("interrex-demo"), "$JS.API.STREAM.PURGE.interrex-demo", "$JS.API.STREAM.DELETE.interrex-demo", "$JS.API.STREAM.UPDATE.interrex-demo",
		"$JS.API.CONSUMER.DURABLE.CREATE.interrex-demo.x", "$JS.API.CONSUMER.MSG.NEXT.interrex-demo.x", "interrex-stored.demo.decision.c1", "_INBOX_"+agent+".x", "x")
	for _, class := range events.Classes {
		publish = append(publish, "interrex.demo."+string(class)+".db1")
	}
	for _, subject := range publish {
		subject = strings.NewReplacer(">", "x", "*", "x").Replace(subject)
		for _, reply := range []string{"", "interrex.demo.decision.c1"} {
			if err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: []byte(`{"seq":1}`)}); err != nil {
				t.Fatal(err)
			}
			tries = append(tries, "Publish to \""+subject+"\"")
		}
	}
	if err := nc.FlushTimeout(logtest.Deadline); err != nil {
		t.Fatal(err)
	}
	for len(tries) > 0 {
		select {
		case err := <-complaints:
			if errors.Is(err, nats.ErrPermissionViolation) {
				said := strings.ToLower(err.Error())
				tries = slices.DeleteFunc(tries, func(try string) bool { return strings.Contains(said, strings.ToLower(try)) })
			}
		case <-time.After(logtest.Deadline):
			t.Fatalf("not refused: %q", tries)
		}
	}
	if all := logtest.All(t, log, 0); len(all) != 1 {
		t.Errorf("the log holds %d events, want the one of the agent", len(all))
	}
	ctx, cancel := context.WithTimeout(t.Context(), logtest.Deadline)
	defer cancel()
	l, err := Dial(ctx, DialOptions{URL: s.URL(), KeyFile: KeyFile(p.keys, RoleSubscriber), Cluster: "demo"})
	if err == nil {
		l.Close()
	}
	if !errors.Is(err, ErrDenied) {
		t.Errorf("the subscriber's key dialled the log: %v; want ErrDenied", err)
	}
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{"a → b": "a -> b", "ü…\r\nx\t\x7f\x00": "??  x ? ", "": ""} {
		if got := plainText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
