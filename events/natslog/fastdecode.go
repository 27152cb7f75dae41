package natslog

import (
	jsonv2 "github.com/go-json-experiment/json"

	"github.com/interrex-ha/interrex/events"
)

// strict leaves every body with a member that is not spelled exactly as ours to
// events.Decode: encoding/json matches names more loosely than this decoder.
var strict = jsonv2.RejectUnknownMembers(true)

// decodeData is events.Decode, faster for the two kinds that nearly all of a
// log consists of: encoding/json bounds a replay (LIMITS §2). Whatever the fast
// decoder does not take, events.Decode judges, so that both always agree.
func decodeData(kind string, version int, class events.Class, key string, body []byte) (events.Data, error) {
	if version == 1 {
		switch kind {
		case "heartbeat":
			var v events.Heartbeat
			if jsonv2.Unmarshal(body, &v, strict) == nil {
				return v, nil
			}
		case "lease-renewed":
			var v events.LeaseRenewed
			if jsonv2.Unmarshal(body, &v, strict) == nil {
				return v, nil
			}
		}
	}
	return events.Decode(kind, version, class, key, body)
}
