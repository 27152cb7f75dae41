package api

import (
	"net/url"
	"testing"
	"time"
)

// asks asks every health check of a node: those named must be 200.
func (w *world) asks(when, node string, good ...string) {
	w.t.Helper()
	want := map[string]bool{}
	for _, g := range good {
		want[g] = true
	}
	for name := range checks {
		a := w.get("/nodes/" + node + "/" + name)
		code := 503
		if want[name] {
			code = 200
		}
		if a.code != code {
			w.t.Errorf("%s: %s of %s is %d, want %d\n%s", when, name, node, a.code, code, a.body)
		}
		if h := into[Health](w.t, a); (h.Role == "primary") != want["primary"] {
			w.t.Errorf("%s: %s of %s says role %s", when, name, node, h.Role)
		}
	}
}

var (
	asPrimary = []string{"primary", "master", "leader", "read-write", "read-only", "health", "liveness", "readiness"}
	asReplica = []string{"replica", "read-only", "health", "liveness", "readiness"}
)

// TestHealth walks through a crash: at no moment are two nodes primary, and none
// is while the cluster fences, elects and promotes.
func TestHealth(t *testing.T) {
	w := running(t, nil)
	w.asks("running", "db1", asPrimary...)
	w.asks("running", "db2", asReplica...)
	w.play("crash db1")
	w.asks("crashed", "db1", "liveness")
	w.asks("crashed", "db2", asReplica...)
	w.play("dead db1 end=0/3000148\nposition db3 lsn=0/3000100\nposition db2 lsn=0/3000148")
	w.asks("promoting", "db1", "liveness")
	w.asks("promoting", "db2", "health", "liveness")
	w.play("started db2 promote\nlease db2\nserves db2 tli=2 lsn=0/3000200")
	w.asks("settling", "db2", asPrimary...)
	w.play("done db2 settle\nstandby db3 of=db2 tli=2\nasks detach node=db3")
	w.asks("detached", "db3", "health", "liveness")
	w.play("up db1 standby")
	w.asks("up, and following nobody", "db1", "health", "liveness")
}

func TestSwitchoverHasNoPrimary(t *testing.T) {
	w := running(t, nil)
	w.play("asks switchover node=db2")
	for _, node := range []string{"db1", "db2", "db3"} {
		w.get("/nodes/"+node+"/primary").is(t, node, 503)
		if node != "db1" {
			w.get("/nodes/"+node+"/replica").is(t, node, 200)
		}
	}
}

func TestReplicaLag(t *testing.T) {
	w := running(t, nil)
	w.play("up db1 primary lsn=0/5000000\nstandby db2 of=db1 lsn=0/4000000")
	for lag, code := range map[string]int{"16MB": 200, "16384kB": 200, "16777216": 200, "1GB": 200, "15MB": 503, "0": 503, "1kB": 503} {
		w.get("/nodes/db2/replica?lag="+lag).is(t, "lag="+lag, code)
	}
	w.get("/nodes/db2/replica").is(t, "without a bound", 200)
	for _, lag := range []string{"", "-1", "16 apples", "99999999999999999999", "1e3", "16777216TB"} {
		r := w.request("GET", "/nodes/db2/replica", "")
		r.URL.RawQuery = url.Values{"lag": {lag}}.Encode()
		w.do(r).is(t, "lag="+lag, 400, "lag=")
	}
}

func TestHealthForms(t *testing.T) {
	w := running(t, func(o *Options) { o.Node = "db2" })
	w.get("/replica").is(t, "root form", 200, `"name": "db2"`)
	w.get("/").is(t, "root", 503, "db1 is the primary")
	w.get("/primary").is(t, "root form", 503, "db1 is the primary")
	for method, body := range map[string]bool{"GET": true, "HEAD": false, "OPTIONS": false} {
		for path, code := range map[string]int{"/nodes/db1/primary": 200, "/nodes/db2/primary": 503, "/nodes/db9/primary": 404} {
			a := w.do(w.request(method, path, ""))
			if a.code != code || code != 404 && (a.body != "") != body {
				t.Errorf("%s %s: %d with %q, want %d", method, path, a.code, a.body, code)
			}
		}
	}
	w.do(w.request("POST", "/nodes/db1/primary", "{}")).is(t, "POST", 405, "GET, HEAD, OPTIONS")
	w.get("/nodes/db9/primary").is(t, "unknown node", 404, "db1, db2, db3")

	w.serve(nil)
	w.get("/primary").is(t, "without --node", 404, "--node", "/nodes/NODE/primary")
	w.get("/liveness").is(t, "without --node", 200)
	w.get("/readiness").is(t, "without --node", 200)
}

// TestStale: an API that does not hear the log calls nobody a primary.
func TestStale(t *testing.T) {
	w := running(t, func(o *Options) { o.StaleAfter = time.Second })
	w.asks("heard", "db1", asPrimary...)
	w.log.SetUnavailable(true)
	eventually(t, "the log's silence", func() bool { return w.get("/nodes/db1/primary").code == 503 })
	w.asks("silent", "db1")
	w.asks("silent", "db2")
	w.get("/nodes/db1/primary").is(t, "silent", 503, "at most 1s", `"role": "unknown"`)
	for _, path := range []string{"/v1/cluster", "/v1/nodes", "/v1/nodes/db1", "/v1/decisions", "/v1/decisions/last", "/v1/events", "/v1/events/stream", "/v1/requests/1", "/readiness"} {
		w.get(path).is(t, path, 503, "the log was not heard")
	}
	w.post("/v1/resume", "{}").is(t, "POST", 503, "the log was not heard")
	w.get("/liveness").is(t, "the API itself", 200)
	w.get("/metrics").is(t, "metrics", 200, "interrex_follower_connected 0")
	w.log.SetUnavailable(false)
	eventually(t, "the log again", func() bool { return w.get("/nodes/db1/primary").code == 200 })
	w.get("/metrics").is(t, "metrics", 200, "interrex_follower_connected 1")
}

// TestLeaseRunsOut: the log answers, and the primary's agent is not heard in it.
func TestLeaseRunsOut(t *testing.T) {
	w := newWorld(t, nil)
	w.play("running nodes=3\nbeat db1")
	eventually(t, "the end of the lease", func() bool { return w.get("/nodes/db1/primary").code == 503 })
	w.get("/nodes/db1/primary").is(t, "run out", 503, "was not renewed for")
	w.play("policy lease=1h\nbeat db1")
	w.asks("renewed again", "db1", asPrimary...)
}

// TestOldLog: what was read late is not taken for fresh.
func TestOldLog(t *testing.T) {
	w := running(t, nil) // told as of months ago, with a lease of an hour
	w.serve(nil)
	w.get("/nodes/db1/primary").is(t, "an old renewal", 503, "was not renewed for")
	w.play("beat db1")
	w.get("/nodes/db1/primary").is(t, "a new one", 200)
}
