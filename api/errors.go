package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/interrex-ha/interrex/fsm"
)

// Error is the body of every answer that is no success.
type Error struct {
	Error   string `json:"error"`
	Status  int    `json:"status"`
	Request uint64 `json:"request,omitempty"` // the operator's event, when one was stored
}

// failure is an error with its HTTP status.
type failure struct {
	status  int
	text    string
	request uint64
}

func (e failure) Error() string { return e.text }

func fail(status int, format string, args ...any) error {
	return failure{status: status, text: fmt.Sprintf(format, args...)}
}

func bad(format string, args ...any) error { return fail(http.StatusBadRequest, format, args...) }

func unavailable(err error) error { return fail(http.StatusServiceUnavailable, "%v", err) }

func unknownNode(s fsm.State, node string) error {
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	return fail(http.StatusNotFound, "there is no node %q; the cluster has %s", node, strings.Join(names, ", "))
}

// writeError writes the one clear error of an answer.
func writeError(w http.ResponseWriter, err error) {
	f := failure{status: http.StatusInternalServerError, text: err.Error()}
	errors.As(err, &f)
	switch f.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="interrex"`)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	_ = writeJSON(w, f.status, Error{Error: strings.ReplaceAll(f.text, "\n", "; "), Status: f.status, Request: f.request})
}

// writeJSON writes one indented JSON value, as the commands do.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // whoever asked is gone
	return nil
}
