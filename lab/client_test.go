package lab

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The whole measurement, by hand: the primary crashes, the standby is promoted,
// and what the client feels and loses is known exactly.
func TestClientMeasuresCrash(t *testing.T) {
	ctx := deadline(t)
	l := cluster(t, CreateOptions{Nodes: 2})
	c, err := StartClient(ctx, ClientOptions{DSN: l.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	reader := StartReader(ctx, l.ReaderDSN())
	defer reader.Stop()
	standby, err := l.connect(ctx, l.Nodes[1], Superuser, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close(ctx)
	if err := c.await(ctx, func(acks []Ack) bool { return len(acks) >= 30 }); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Outage(time.Now()); ok {
		t.Error("an outage was measured before there was one")
	}
	// Three writes that the standby never gets: they will be lost.
	if _, err := standby.Exec(ctx, "alter system set primary_conninfo = ''"); err != nil {
		t.Fatal(err)
	}
	if _, err := standby.Exec(ctx, "select pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	if err := poll(ctx, pollEvery, func() bool {
		var n int
		return standby.QueryRow(ctx, "select count(*) from pg_stat_wal_receiver").Scan(&n) == nil && n == 0
	}); err != nil {
		t.Fatal(err)
	}
	cut := len(c.Acks())
	if err := c.await(ctx, func(acks []Ack) bool { return len(acks) >= cut+4 }); err != nil {
		t.Fatal(err)
	}
	_, at, err := l.KillPostmaster("db1")
	if err != nil {
		t.Fatal(err)
	}
	if err := promote(ctx, standby); err != nil {
		t.Fatal(err)
	}
	outage, err := c.AwaitOutage(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("outage %s", outage)
	first, err := c.AwaitPort(ctx, at, l.Nodes[1].Port)
	if err != nil {
		t.Fatal(err)
	}
	if outage != first.At.Sub(at) || outage <= 0 {
		t.Errorf("outage %s, the first write on db2 came after %s", outage, first.At.Sub(at))
	}
	pause, before, after := c.Pause(at)
	if before.Port != l.Nodes[0].Port || after.Port != l.Nodes[1].Port || pause < outage-time.Second {
		t.Errorf("pause %s between ports %d and %d", pause, before.Port, after.Port)
	}
	c.Stop()
	reader.Stop()
	v, err := c.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Lost) < 3 || v.Present+len(v.Lost) != v.Acknowledged || v.Present < 30 {
		t.Errorf("%d acknowledged, %d present, lost %v: want at least 3 lost and nothing else", v.Acknowledged, v.Present, v.Lost)
	}
	if r := reader.Reads(); r.Standby == 0 || r.Longest > 5*time.Second {
		t.Errorf("reads %+v", r)
	}
}

// A frozen first host costs a client its connect time-out and no more; a thawed
// server goes on acknowledging in an open session, and Busy counts it.
func TestFreeze(t *testing.T) {
	ctx := deadline(t)
	l := cluster(t, CreateOptions{Nodes: 2})
	c, err := StartClient(ctx, ClientOptions{DSN: l.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	busy, err := StartBusy(ctx, l.NodeDSN("db1"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Stop()
	standby, err := l.connect(ctx, l.Nodes[1], Superuser, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close(ctx)
	frozen, err := l.FreezePostgres(ctx, "db1", true)
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Thaw()
	if len(frozen.PIDs) < 5 {
		t.Errorf("only the processes %v were frozen", frozen.PIDs)
	}
	if err := promote(ctx, standby); err != nil {
		t.Fatal(err)
	}
	outage, err := c.AwaitOutage(ctx, frozen.At)
	if err != nil {
		t.Fatal(err)
	}
	// 500 ms for the write, 500 ms for the frozen host, and what the machine needs.
	if outage < WriteTimeout || outage > 2500*time.Millisecond {
		t.Errorf("outage %s, want about 1 s", outage)
	}
	t.Logf("outage %s", outage)
	if acks, _ := busy.Since(frozen.At.Add(50 * time.Millisecond)); len(acks) > 0 {
		t.Errorf("%d writes acknowledged by a frozen server", len(acks))
	}
	thawed := time.Now()
	if err := frozen.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := busy.await(ctx, func([]Ack) bool { acks, _ := busy.Since(thawed); return len(acks) > 10 }); err != nil {
		t.Fatal(err)
	}
	if err := l.StopNode(ctx, "db1", Immediate); err != nil {
		t.Fatal(err)
	}
	<-busy.Ended()
	v, err := busy.Verify(ctx, l.NodeDSN("db2"))
	if err != nil || len(v.Lost) < 10 {
		t.Errorf("nobody fenced db1, so its late writes are lost: %+v, %v", v, err)
	}
}

func TestFirstAfter(t *testing.T) {
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	ack := func(ms, opened, port int) Ack { return Ack{At: at(ms), Opened: at(opened), Port: port} }
	for name, c := range map[string]struct {
		acks []Ack
		want int // ms after t0, -1 for none
	}{
		"no writes":                   {nil, -1},
		"none before the fault":       {[]Ack{ack(20, 15, 2)}, -1},
		"only the old connection":     {[]Ack{ack(-10, -50, 1), ack(5, -50, 1)}, -1},
		"same server, new connection": {[]Ack{ack(-10, -50, 1), ack(5, -50, 1), ack(30, 20, 1)}, 30},
		"another server":              {[]Ack{ack(-10, -50, 1), ack(5, -50, 1), ack(40, 20, 2), ack(50, 20, 2)}, 40},
		"opened before, elsewhere":    {[]Ack{ack(-10, -50, 1), ack(40, -5, 2)}, 40},
	} {
		a, ok := firstAfter(c.acks, t0)
		if ok != (c.want >= 0) || ok && !a.At.Equal(at(c.want)) {
			t.Errorf("%s: %v %v, want %d ms", name, a.At.Sub(t0), ok, c.want)
		}
	}
}

// A commit whose wait for a synchronous standby was cancelled is acknowledged
// with a warning: for the client it is no acknowledgement.
func TestWarningIsNoAcknowledgement(t *testing.T) {
	ctx := deadline(t)
	l := cluster(t, CreateOptions{Nodes: 1})
	c, err := StartClient(ctx, ClientOptions{DSN: l.DSN(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	admin, err := l.connect(ctx, l.Nodes[0], Superuser, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(ctx)
	for _, sql := range []string{"alter system set synchronous_standby_names = 'nobody'", "select pg_reload_conf()"} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	var pid int
	if err := poll(ctx, pollEvery, func() bool {
		return admin.QueryRow(ctx, "select pid from pg_stat_activity where application_name = 'lab-client' and wait_event = 'SyncRep'").Scan(&pid) == nil
	}); err != nil {
		t.Fatal(err)
	}
	waiting := len(c.Acks())
	if _, err := admin.Exec(ctx, "select pg_cancel_backend($1)", pid); err != nil {
		t.Fatal(err)
	}
	if err := poll(ctx, pollEvery, func() bool { return len(c.Errors()) > 0 }); err != nil {
		t.Fatal(err)
	}
	if n := len(c.Acks()); n != waiting {
		t.Errorf("%d acknowledgements more", n-waiting)
	}
	for r := range c.Errors() {
		if !strings.Contains(r, "warning") {
			t.Errorf("errors %v", c.Errors())
		}
	}
}

// The connect time-out is spent on each host, not on all of them together.
func TestOpenTriesEachHost(t *testing.T) {
	ctx := deadline(t)
	l := cluster(t, CreateOptions{Nodes: 1})
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	// pgx looks the password up once, for the first host: it stands here.
	dsn := strings.Replace(l.DSN(), "@", ":"+l.Password(AppUser)+"@"+mute.Addr().String()+",", 1)
	began := time.Now()
	s, err := open(ctx, dsn, 300*time.Millisecond, "lab-test")
	if err != nil {
		t.Fatal(err)
	}
	s.discard()
	if took := time.Since(began); took < 300*time.Millisecond || took > 2*time.Second {
		t.Errorf("it took %s, want about 300 ms", took)
	}
}

func TestReason(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err := pgx.Connect(ctx, "postgres://127.0.0.1:1/x")
	if got := reason(err); got != "no answer in time" {
		t.Errorf("%q for %v", got, err)
	}
	if got := reason(&pgconn.PgError{Code: "25006", Message: "read-only"}); got != "25006 read-only" {
		t.Errorf("%q", got)
	}
}
