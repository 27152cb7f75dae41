package events_test

import (
	"strings"
	"testing"

	"github.com/interrex-ha/interrex/events"
)

// TestDecisionsNameTheirNode: what an operator asked for one node names it.
func TestDecisionsNameTheirNode(t *testing.T) {
	decided := events.Decided{Rule: 909, From: events.Healthy, To: events.Healthy, Why: "an operator did something"}
	detach, attach, led := decided, decided, decided
	detach.Detach, attach.Attach = "db2", "db2"
	led.Trigger, led.Orders = "RecoverAsked", []events.Order{{Do: events.ActRecover, Node: "db2"}}
	for name, d := range map[string]events.Decided{"detach": detach, "attach": attach, "recover": led} {
		if got := events.Sentence(d); !strings.HasPrefix(got, "rule 909: an operator did something: db2") {
			t.Errorf("%s: %q does not name db2", name, got)
		}
	}
	if got := events.Sentence(decided); got != "rule 909: an operator did something" {
		t.Errorf("of no node: %q", got)
	}
}
