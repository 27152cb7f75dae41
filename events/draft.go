package events

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Draft is an event before the log has taken it.
type Draft struct {
	ID     string    // required, UUIDv7: a retry must carry the same one
	Time   time.Time // required
	Source string    // required
	Cause  uint64
	Data   Data
	If     Condition
}

// Check says why a draft cannot be stored: its parts would not survive in a
// NATS subject or header. Every Log refuses it, the one in memory as well, so
// that a test fails where the real log would.
func (d Draft) Check() error {
	if d.Data == nil {
		return fmt.Errorf("a draft needs data")
	}
	kind := d.Data.Kind()
	switch {
	case !plain(kind, "") || !slices.Contains(Classes, d.Data.Class()):
		return fmt.Errorf("kind %q of class %q: the kind must be a plain word and the class one of %v", kind, d.Data.Class(), Classes)
	case !plain(d.Data.Key(), ".*>"):
		return fmt.Errorf("kind %s: key %q (its node or actor) must be one subject token: not empty, no dot, space, * or >", kind, d.Data.Key())
	case !plain(d.ID, ""):
		return fmt.Errorf("kind %s: id %q must be a UUIDv7", kind, d.ID)
	case !plain(d.Source, ""):
		return fmt.Errorf("kind %s: source %q must be agent/<node>, controller/<id> or operator/<who>", kind, d.Source)
	case d.Time.IsZero() || d.Time.Year() > 9999:
		return fmt.Errorf("kind %s: time %s must lie between the years 1 and 9999", kind, d.Time)
	}
	return nil
}

// plain says whether s is a visible ASCII word without any of the bytes in not.
func plain(s, not string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(not, s[i]) >= 0 {
			return false
		}
	}
	return s != "" && len(s) <= 255
}
