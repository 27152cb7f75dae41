package onhost

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/executors"
)

// ProgramOf is the copy's path.
func ProgramOf(h *Host) string { return h.prog.known() }

// StartOrder is an order to start a server read-write as it would be sent now.
func StartOrder(t *testing.T, h *Host, p executors.Postgres) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := order{Act: &executors.Act{Do: "start", Postgres: p}}
	if err := h.order(ctx, &o); err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(Encode(t, o), &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// Encode is an order as it travels.
func Encode(t *testing.T, o any) []byte {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
