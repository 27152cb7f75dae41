package events

import (
	"encoding/json"
	"fmt"
)

// Unknown is an event of a kind, or of a version, that this program does not
// know. Observations of that sort are kept and skipped; decisions and policies
// stop this controller from deciding.
type Unknown struct {
	KindName string
	Version  int
	ClassIn  Class
	KeyIn    string
	Reason   string
}

func (u Unknown) Kind() string { return u.KindName }
func (u Unknown) Class() Class { return u.ClassIn }
func (u Unknown) Key() string  { return u.KeyIn }
func (Unknown) data()          {}

// kind is one row of the registry.
type kind struct {
	name    string
	version int // the newest version that this program writes and reads
	decode  func([]byte) (Data, error)
}

func of[T Data]() kind {
	var zero T
	return kind{zero.Kind(), 1, func(b []byte) (Data, error) {
		var v T
		err := json.Unmarshal(b, &v)
		return v, err
	}}
}

// registry lists every kind in the order of the story they tell.
var registry = []kind{
	of[ClusterFormed](), of[RulesActivated](), of[PolicySet](),
	of[AgentStarted](), of[AgentStopped](), of[PostgresSeen](), of[Heartbeat](),
	of[PostgresExited](), of[PostgresDead](), of[FenceFailed](), of[PeerSeen](), of[PositionReported](),
	of[LeaseAcquired](), of[LeaseRenewed](), of[LeaseRefused](),
	of[SwitchoverRequested](), of[FailoverRequested](), of[RecoverRequested](), of[DetachRequested](),
	of[AttachRequested](), of[PauseRequested](), of[ResumeRequested](), of[ShutdownRequested](), of[StartupRequested](),
	of[DeadlineReached](), of[Decided](), of[Declined](),
	of[OrderStarted](), of[OrderProgress](), of[OrderDone](), of[OrderFailed](), of[OrderRefused](),
}

var byName = func() map[string]kind {
	m := make(map[string]kind, len(registry))
	for _, k := range registry {
		m[k.name] = k
	}
	return m
}()

// Kinds returns every kind's name in the order of the registry.
func Kinds() []string {
	names := make([]string, len(registry))
	for i, k := range registry {
		names[i] = k.name
	}
	return names
}

// VersionOf returns the schema version that this program writes for a kind.
func VersionOf(name string) int { return byName[name].version }

// Decode turns a stored body into its kind. An unknown kind or a version from
// the future becomes Unknown, never an error: whether that matters is for the
// reader to say. An error means a body that is not what its kind promises.
func Decode(name string, version int, class Class, key string, body []byte) (Data, error) {
	k, ok := byName[name]
	if !ok {
		return Unknown{name, version, class, key, "unknown kind"}, nil
	}
	if version > k.version {
		return Unknown{name, version, class, key, fmt.Sprintf("version %d is newer than %d", version, k.version)}, nil
	}
	data, err := k.decode(body)
	if err != nil {
		return nil, fmt.Errorf("events: kind %s: %w", name, err)
	}
	return data, nil
}

// Encode turns data into the body that is stored.
func Encode(d Data) ([]byte, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("events: kind %s: %w", d.Kind(), err)
	}
	return b, nil
}
