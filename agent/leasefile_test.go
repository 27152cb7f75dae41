package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/interrex-ha/interrex/fsm/lease"
)

func openLease(t *testing.T, path, boot string) *LeaseFile {
	t.Helper()
	l, err := OpenLease(path, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var someLease = Lease{
	Expiry: lease.Instant{Raw: 3 * time.Second, Boot: 5 * time.Second}, Budget: time.Second, Held: true, Stay: true, Term: 7, Grant: 99,
}

// TestLeaseFile: what one process writes another reads, also later.
func TestLeaseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lease")
	a, b := openLease(t, path, "boot"), openLease(t, path, "boot")
	if v, ok := a.Read(); !ok || v != (Lease{}) {
		t.Fatalf("a new file says %+v, %t", v, ok)
	}
	a.Write(someLease)
	if v, ok := b.Read(); !ok || v != someLease {
		t.Errorf("read %+v, %t; expected %+v", v, ok, someLease)
	}
	if v, ok := openLease(t, path, "boot").Read(); !ok || v != someLease {
		t.Errorf("opened again it says %+v, %t", v, ok)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != leasePage || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

// TestLeaseFileOfAnotherBoot: clocks of another boot mean nothing.
func TestLeaseFileOfAnotherBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lease")
	a := openLease(t, path, "boot-1")
	a.Write(someLease)
	a.set(wordAgentPID, 42)
	b := openLease(t, path, "boot-2")
	if v, ok := b.Read(); !ok || v != (Lease{}) || b.AgentPID() != 0 {
		t.Errorf("after a boot it says %+v, %t, agent %d", v, ok, b.AgentPID())
	}
	b.Write(someLease)
	b.set(wordVersion, leaseVersion+1)
	if v, _ := openLease(t, path, "boot-2").Read(); v != (Lease{}) {
		t.Errorf("a page of another version was taken: %+v", v)
	}
}

// TestShortLeaseFile: a file that was cut, or never written, is given its page.
func TestShortLeaseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lease")
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	openLease(t, path, "boot").Write(someLease)
	if v, ok := openLease(t, path, "boot").Read(); !ok || v != someLease {
		t.Errorf("read %+v, %t", v, ok)
	}
	if _, err := OpenLease(filepath.Join(t.TempDir(), "no", "lease"), "boot"); err == nil {
		t.Error("a lease file was opened in a directory that does not exist")
	}
}

// halfWritten leaves the file as a writer that was killed in the middle.
func halfWritten(l *LeaseFile, v Lease) {
	l.Write(v)
	l.set(wordChange, l.get(wordChange)+1)
}

// TestHalfWrittenLease: nothing in it is relied on, until it is repaired: then
// nothing is held.
func TestHalfWrittenLease(t *testing.T) {
	l := openLease(t, filepath.Join(t.TempDir(), "lease"), "boot")
	l.Repair()
	l.Write(someLease)
	l.Repair()
	if v, ok := l.Read(); !ok || v != someLease {
		t.Errorf("a repair of a whole lease changed it: %+v, %t", v, ok)
	}
	halfWritten(l, someLease)
	if _, ok := l.Read(); ok {
		t.Fatal("a half-written lease was read")
	}
	l.Repair()
	if v, ok := l.Read(); !ok || v.Held {
		t.Errorf("repaired: %+v, %t; expected that nothing is held", v, ok)
	}
	l.Write(someLease)
	if v, ok := l.Read(); !ok || v != someLease {
		t.Errorf("written after a repair: %+v, %t", v, ok)
	}
	// A writer that was only asleep goes on after the repair: it must not leave
	// every later lease unreadable.
	l.set(wordChange, l.get(wordChange)|1)
	l.Write(someLease)
	if v, ok := l.Read(); !ok || v != someLease {
		t.Errorf("written over a half-written one: %+v, %t", v, ok)
	}
}

// TestLeaseIsReadWhole: a reader never sees parts of two leases.
func TestLeaseIsReadWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lease")
	w, r := openLease(t, path, "boot"), openLease(t, path, "boot")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
				d := time.Duration(n)
				w.Write(Lease{Expiry: lease.Instant{Raw: d, Boot: d}, Budget: d, Held: n%2 == 1, Term: n, Grant: n})
			}
		}
	}()
	whole := 0
	for range 20_000 {
		v, ok := r.Read()
		if !ok {
			continue // the writer never rests
		}
		whole++
		d := time.Duration(v.Term)
		if v.Expiry.Raw != d || v.Expiry.Boot != d || v.Budget != d || v.Grant != v.Term || v.Held != (v.Term%2 == 1) {
			t.Fatalf("parts of two leases: %+v", v)
		}
	}
	close(stop)
	<-done
	if whole == 0 {
		t.Error("no lease was ever read")
	}
}
