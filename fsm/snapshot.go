package fsm

import (
	"encoding/json"
	"fmt"

	"github.com/interrex-ha/interrex/events"
)

// storedRequest is a Request in a snapshot: its kind beside its body, because
// an interface alone cannot be read back.
type storedRequest struct {
	Seq     uint64
	Kind    string
	Version int
	Class   events.Class
	Key     string
	Data    json.RawMessage
}

// MarshalJSON keeps the kind beside the data.
func (r Request) MarshalJSON() ([]byte, error) {
	body, err := events.Encode(r.Data)
	if err != nil {
		return nil, fmt.Errorf("fsm: request %d: %w", r.Seq, err)
	}
	kind := r.Data.Kind()
	return json.Marshal(storedRequest{r.Seq, kind, events.VersionOf(kind), r.Data.Class(), r.Data.Key(), body})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Request) UnmarshalJSON(b []byte) error {
	var s storedRequest
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("fsm: request in a snapshot: %w", err)
	}
	data, err := events.Decode(s.Kind, s.Version, s.Class, s.Key, s.Data)
	if err != nil {
		return fmt.Errorf("fsm: request %d in a snapshot: %w", s.Seq, err)
	}
	r.Seq, r.Data = s.Seq, data
	return nil
}

// Folder folds a log into one state that it owns and changes in place: what a
// replay of a long log needs, where Fold would copy the state for each event.
// It is not safe for concurrent use.
type Folder struct{ s State }

// NewFolder begins with an empty log.
func NewFolder() *Folder { return &Folder{Initial()} }

// Fold is the function Fold on the state that f owns: same result, same error.
func (f *Folder) Fold(e events.Event) error {
	if err := f.s.comesNext(e); err != nil {
		return err
	}
	f.s.apply(e)
	return nil
}

// View returns the state without copying it: it must not be changed, and is
// valid until the next Fold.
func (f *Folder) View() State { return f.s }

// State returns a copy of the state that later folds do not touch.
func (f *Folder) State() State { return f.s.clone() }
