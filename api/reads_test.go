package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/view"
)

// crash is the story of TestHealth to its end: db2 is the primary of term 2.
const crash = `crash db1
dead db1 end=0/3000148
position db3 lsn=0/3000100
position db2 lsn=0/3000148
started db2 promote
lease db2
serves db2 tli=2 lsn=0/3000200
done db2 settle
standby db3 of=db2 tli=2`

// TestSameAsCommands: the API shows what the commands print, byte for byte.
func TestSameAsCommands(t *testing.T) {
	w := running(t, nil)
	w.play(crash)
	status, err := json.MarshalIndent(view.NewStatus(w.player.State()), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if a := w.get("/v1/cluster"); strings.TrimSpace(a.body) != strings.NewReplacer(`\u003e`, ">", `\u003c`, "<", `\u0026`, "&").Replace(string(status)) {
		t.Errorf("/v1/cluster is\n%s\nwant\n%s", a.body, status)
	}
	nodes := into[Nodes](t, w.get("/v1/nodes")).Nodes
	if len(nodes) != 3 || nodes[1].Role != "primary" || nodes[0].Status != 3 {
		t.Errorf("nodes are %+v", nodes)
	}
	w.get("/v1/nodes/2").is(t, "by id", 200, `"name": "db3"`)
	w.get("/v1/nodes/db3").is(t, "by name", 200, `"name": "db3"`)
	w.get("/v1/nodes/db9").is(t, "unknown", 404, "db1, db2, db3")
}

// TestDecisions: every explanation is the one that interrex explain makes of the
// whole log, also when the API has forgotten the events that it is made of.
func TestDecisions(t *testing.T) {
	w := running(t, nil)
	w.play(crash)
	for _, keep := range []int{keepEvents, 4} {
		f := newFollower(w.log, patience, newMetrics())
		f.keep = keep
		if err := w.log.Read(t.Context(), events.Query{}, f.take); err != nil {
			t.Fatal(err)
		}
		s := &Server{options: Options{Log: w.log}, follower: f, readings: make(chan struct{}, 1)}
		n := 0
		for _, e := range w.player.Log() {
			d, ok := e.Data.(events.Decided)
			if !ok {
				continue
			}
			n++
			want := view.Explain(e, d)
			for _, x := range w.player.Log() {
				want.Add(x)
			}
			at, found := f.decision(e.Seq)
			if !found {
				t.Fatalf("decision %d is not known", e.Seq)
			}
			got, err := s.explain(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := fmt.Sprint(got), fmt.Sprint(want.Explanation()); a != b {
				t.Errorf("keeping %d: decision %d is explained as\n%s\nwant\n%s", keep, e.Seq, a, b)
			}
		}
		if n < 7 {
			t.Errorf("only %d decisions in the story", n)
		}
	}
	x := into[view.Explanation](t, w.get("/v1/decisions/last"))
	if x.Decision.Grant == nil || x.Decision.Grant.Node != "db2" || len(x.Evidence) == 0 || len(x.Results) == 0 {
		t.Errorf("the last decision is %+v", x)
	}
	for path, code := range map[string]int{"0": 404, "1": 404, "999999": 404, "x": 400, "-1": 400, "99999999999999999999": 400, "1.5": 400} {
		w.get("/v1/decisions/"+path).is(t, path, code)
	}
}

// TestPages: pages of any size make up the whole.
func TestPages(t *testing.T) {
	w := running(t, nil)
	w.play(crash)
	for _, limit := range []int{1, 3, 1000} {
		var seqs, all []uint64
		for after, more := uint64(0), true; more; {
			p := into[Decisions](t, w.get(fmt.Sprintf("/v1/decisions?after=%d&limit=%d", after, limit)))
			for _, d := range p.Decisions {
				seqs = append(seqs, d.Seq)
			}
			after, more = p.Next, p.More
		}
		for after, more := uint64(0), true; more; {
			p := into[Events](t, w.get(fmt.Sprintf("/v1/events?after=%d&limit=%d", after, limit)))
			for _, e := range p.Events {
				all = append(all, e.Seq)
			}
			after, more = p.Next, p.More
		}
		var want []uint64
		for _, e := range w.player.Log() {
			if e.Kind() == "decided" {
				want = append(want, e.Seq)
			}
		}
		if !slices.Equal(seqs, want) || len(all) != len(w.player.Log()) || !slices.IsSorted(all) {
			t.Errorf("limit %d: decisions %v, want %v; %d events of %d", limit, seqs, want, len(all), len(w.player.Log()))
		}
	}
	for _, q := range []string{"after=x", "after=-1", "after=", "limit=0", "limit=1001", "limit=x"} {
		w.get("/v1/events?"+q).is(t, q, 400)
		w.get("/v1/decisions?"+q).is(t, q, 400)
	}
	w.get("/v1/events?after=999999").is(t, "beyond the end", 400, "the log ends at event")
}

// TestRoutes: what is not in the table is one clear error, and every row of the
// document has a handler.
func TestRoutes(t *testing.T) {
	w := running(t, nil)
	w.get("/nonsense").is(t, "unknown path", 404, "/v1/openapi.json")
	a := w.do(w.request("DELETE", "/v1/cluster", ""))
	a.is(t, "DELETE", 405, "GET, HEAD")
	if a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("Allow is %q", a.header.Get("Allow"))
	}
	w.get("/v1/switchover").is(t, "GET of a verb", 405, "POST")
	if ok, errs := w.valid.ValidateDocument(); !ok {
		for _, e := range errs {
			t.Errorf("the document: %s: %s %v", e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
	var doc struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal(w.server.document, &doc); err != nil {
		t.Fatal(err)
	}
	rows := 0
	for path, methods := range doc.Paths {
		for method := range methods {
			rows++
			r := w.request(strings.ToUpper(method), strings.NewReplacer("{node}", "db1", "{id}", "last", "{seq}", "1").Replace(path), "")
			want := strings.ToUpper(method) + " " + path
			if _, pattern := w.server.handler.(*http.ServeMux).Handler(r); strings.Replace(pattern, "{$}", "", 1) != want {
				t.Errorf("%s is answered by the handler of %q", want, pattern)
			}
		}
	}
	if n := len(w.server.routes()); rows != n {
		t.Errorf("the document has %d operations, the table %d routes", rows, n)
	}
}

func TestMetrics(t *testing.T) {
	w := running(t, nil)
	w.play("standby db2 of=db1 lsn=0/3000060\nup db1 primary lsn=0/3001060")
	w.get("/metrics").is(t, "running", 200, `interrex_node_replication_lag_bytes{node="db2"} 4096`, `interrex_node_role{node="db1",role="primary"} 1`, "interrex_lease_margin_seconds 35")
	w.play(crash)
	w.play("asks switchover node=db3\nwait 1s")
	w.get("/metrics").is(t, "metrics", 200,
		`interrex_phase{phase="switching"} 1`, `interrex_phase{phase="healthy"} 0`, "interrex_term 2", `interrex_node_status{node="db1"} 3`,
		`interrex_node_role{node="db2",role="primary"} 1`, `interrex_failovers_total{kind="automatic"} 1`, `interrex_failovers_total{kind="switchover"} 0`,
		`interrex_phase_duration_seconds_count{phase="electing"} 1`, "interrex_follower_connected 1", fmt.Sprintf("interrex_log_sequence %d", w.player.State().Seq))
	w.play("dead db2 cause=switched clean end=0/3000300\nposition db3 lsn=0/3000300 tli=2")
	w.get("/metrics").is(t, "switched", 200, `interrex_failovers_total{kind="switchover"} 1`, `interrex_failovers_total{kind="automatic"} 1`)
	problems, err := testutil.GatherAndLint(w.server.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}
