package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/interrex-ha/interrex/view"
)

// route is one row of the table that the handlers are registered from and the
// OpenAPI document is made of.
type route struct {
	method  string
	path    string // of http.ServeMux
	summary string
	open    bool // without a token: health checks and metrics
	query   []param
	body    any // of a POST: a value of its type
	answers map[int]any
	plain   string // the media type of a 200 that is no JSON
	handle  func(http.ResponseWriter, *http.Request) error
}

// param is a parameter of the query, or with in set a header.
type param struct {
	name, about, in string
	number          bool
}

var (
	paramAfter = param{name: "after", about: "Only what has a greater sequence.", number: true}
	paramLimit = param{name: "limit", about: "At most so many, 1 to 1000; 100 when not given.", number: true}
	paramLag   = param{name: "lag", about: "A replica that lags further behind is none: bytes, or 16kB, 64MB, 1GB."}
	paramWait  = param{name: "wait", about: "How long to wait for the decision: 0s to 60s, 30s when not given. When it passes, the answer is 202 and the request stands."}
	paramKey   = param{name: "Idempotency-Key", in: "header", about: "Up to 255 visible characters. The same key with the same request has the same answer and is asked once, for ever; with another request it is a 422."}
	paramLast  = param{name: "Last-Event-ID", in: "header", about: "Go on after this event; goes before after=."}
)

// also adds the answers that every guarded route may give.
func also(answers map[int]any) map[int]any {
	maps.Copy(answers, map[int]any{401: Error{}, 403: Error{}, 503: Error{}})
	return answers
}

func (s *Server) routes() []route {
	list := []route{
		{method: "GET", path: "/v1/cluster", summary: "The cluster, as interrex status --output json shows it", answers: also(map[int]any{200: view.Status{}}), handle: s.getCluster},
		{method: "GET", path: "/v1/nodes", summary: "The nodes by id", answers: also(map[int]any{200: Nodes{}}), handle: s.getNodes},
		{method: "GET", path: "/v1/nodes/{node}", summary: "One node, by name or id", answers: also(map[int]any{200: view.Node{}, 404: Error{}}), handle: s.getNode},
		{method: "GET", path: "/v1/decisions", summary: "Decisions, oldest first", query: []param{paramAfter, paramLimit}, answers: also(map[int]any{200: Decisions{}, 400: Error{}}), handle: s.getDecisions},
		{method: "GET", path: "/v1/decisions/{id}", summary: "Why a decision was made and what came of it, as interrex explain --output json shows it; id is its sequence, or last", answers: also(map[int]any{200: view.Explanation{}, 400: Error{}, 404: Error{}}), handle: s.getDecision},
		{method: "GET", path: "/v1/events", summary: "Events of the log, oldest first, as stored", query: []param{paramAfter, paramLimit}, answers: also(map[int]any{200: Events{}, 400: Error{}}), handle: s.getEvents},
		{method: "GET", path: "/v1/events/stream", summary: "Events as they come (server-sent events): id is the sequence, event the kind, data the event as stored. Without after= and Last-Event-ID it begins with what is new", query: []param{paramAfter, paramLast}, answers: also(map[int]any{200: "", 400: Error{}}), plain: "text/event-stream", handle: s.getStream},
		{method: "GET", path: "/v1/requests/{seq}", summary: "What became of an operator's request", answers: also(map[int]any{200: Answer{}, 400: Error{}, 404: Error{}}), handle: s.getRequest},
		{method: "GET", path: "/v1/openapi.json", summary: "This document", open: true, answers: map[int]any{200: map[string]any{}}, handle: s.getDocument},
		{method: "GET", path: "/metrics", summary: "Metrics for Prometheus", open: true, answers: map[int]any{200: ""}, plain: "text/plain", handle: s.getMetrics},
	}
	for _, v := range verbs {
		list = append(list, route{
			method: "POST", path: "/v1/" + v.name, summary: v.summary, query: []param{paramWait, paramKey}, body: v.body(),
			answers: also(map[int]any{200: Answer{}, 202: Answer{}, 400: Error{}, 409: Error{}, 413: Error{}, 415: Error{}, 422: Error{}, 504: Error{}}),
			handle:  func(w http.ResponseWriter, r *http.Request) error { return s.post(w, r, v) },
		})
	}
	return append(list, s.healthRoutes()...)
}

// healthRoutes are the checks of each node, and the same of the server's own.
func (s *Server) healthRoutes() []route {
	var list []route
	add := func(path, summary string, handle func(http.ResponseWriter, *http.Request) error) {
		answers := map[int]any{200: Health{}, 503: Health{}, 400: Error{}, 404: Error{}}
		list = append(list,
			route{method: "GET", path: path, summary: summary, open: true, query: []param{paramLag}, answers: answers, handle: handle},
			route{method: "OPTIONS", path: path, summary: summary + " (the status alone)", open: true, query: []param{paramLag}, answers: map[int]any{200: nil, 503: nil, 400: Error{}, 404: Error{}}, handle: handle})
	}
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		c := checks[name]
		add("/nodes/{node}/"+name, "Health check "+name+" of a node: 200 or 503", func(w http.ResponseWriter, r *http.Request) error {
			return s.healthOf(w, r, r.PathValue("node"), c)
		})
		add("/"+name, "Health check "+name+" of the node of --node, as Patroni's; without --node liveness and readiness are the API's own", func(w http.ResponseWriter, r *http.Request) error {
			return s.ownHealth(w, r, name)
		})
	}
	add("/{$}", "The same as /primary", func(w http.ResponseWriter, r *http.Request) error { return s.ownHealth(w, r, "primary") })
	return list
}

// mux registers the table; what is not in it is a 404, or a 405.
func (s *Server) mux(routes []route) http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			err := error(nil)
			if !rt.open {
				err = s.guarded(r)
			}
			if err == nil {
				err = rt.handle(w, r)
			}
			if err != nil {
				writeError(w, err)
			}
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if allowed := allowed(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			writeError(w, fail(http.StatusMethodNotAllowed, "%s is not allowed for %s; use %s", r.Method, r.URL.Path, strings.Join(allowed, ", ")))
			return
		}
		writeError(w, fail(http.StatusNotFound, "there is no %s; see /v1/openapi.json", r.URL.Path))
	})
	return mux
}

// allowed are the methods that the path of a request has.
func allowed(mux *http.ServeMux, r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions} {
		other := r.Clone(r.Context())
		other.Method = m
		if _, pattern := mux.Handler(other); pattern != "/" && pattern != "" {
			out = append(out, m)
		}
	}
	return out
}

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	return nil
}

func (s *Server) getDocument(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.document)
	return nil
}
