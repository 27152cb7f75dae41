package agent

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/fsm/lease"
)

// LeaseFile is the memory that agent, guardian and `interrex up` share, a
// mapped file of one page beside the data directory. The agent alone writes the
// lease; the guardian writes its own tick and its mark; others read. Readings
// of another boot are void: the boot id is part of it.
type LeaseFile struct {
	words []uint64 // the mapped page
	page  []byte
	file  *os.File
}

// The words of the page.
const (
	wordVersion = iota // leaseVersion
	wordChange         // odd while the agent writes the words below
	wordRaw            // end of the lease, CLOCK_MONOTONIC_RAW, ns
	wordBoot           // end of the lease, CLOCK_BOOTTIME, ns
	wordHeld
	wordStay
	wordBudget // how long before the end the fence begins, ns
	wordTerm
	wordGrant
	wordQuit         // the guardian shall end
	wordAgentTick    // CLOCK_BOOTTIME of the agent's last turn of its loop
	wordGuardianTick // of the guardian's
	wordFenced       // CLOCK_BOOTTIME at which the guardian fenced
	wordAgentPID
	wordGuardianPID
	leaseWords
)

const (
	leaseVersion = 1
	leasePage    = 4096
	bootOffset   = 2048
)

// Lease is what the page says of the lease.
type Lease struct {
	Expiry lease.Instant
	Budget time.Duration
	Held   bool
	Stay   bool
	Term   uint64
	Grant  uint64
}

// OpenLease maps the file, making it when it is absent. What an earlier boot
// left is wiped.
func OpenLease(path, bootID string) (*LeaseFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("agent: lease file: %w", err)
	}
	if err := fill(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("agent: lease file %s: %w", path, err)
	}
	page, err := unix.Mmap(int(f.Fd()), 0, leasePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("agent: lease file %s: mmap: %w", path, err)
	}
	l := &LeaseFile{page: page, file: f, words: unsafe.Slice((*uint64)(unsafe.Pointer(&page[0])), leaseWords)}
	if string(page[bootOffset:bootOffset+len(bootID)]) != bootID || l.words[wordVersion] != leaseVersion {
		clear(page)
		copy(page[bootOffset:], bootID)
		l.words[wordVersion] = leaseVersion
	}
	return l, nil
}

// fill gives a new file its page on disk. A hole would do, but a store into it
// ends the process by SIGBUS when the disk is full.
func fill(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() >= leasePage {
		return err
	}
	_, err = f.WriteAt(make([]byte, leasePage-info.Size()), info.Size())
	return err
}

// Close unmaps the page; the file stays.
func (l *LeaseFile) Close() error {
	_ = unix.Munmap(l.page)
	return l.file.Close()
}

func (l *LeaseFile) get(w int) uint64    { return atomic.LoadUint64(&l.words[w]) }
func (l *LeaseFile) set(w int, v uint64) { atomic.StoreUint64(&l.words[w], v) }

// Write publishes the lease to the guardian.
func (l *LeaseFile) Write(v Lease) {
	change := l.get(wordChange) | 1 // whatever an earlier writer, or Repair, left
	l.set(wordChange, change)
	l.set(wordRaw, uint64(v.Expiry.Raw))
	l.set(wordBoot, uint64(v.Expiry.Boot))
	l.set(wordBudget, uint64(v.Budget))
	l.set(wordHeld, truth(v.Held))
	l.set(wordStay, truth(v.Stay))
	l.set(wordTerm, v.Term)
	l.set(wordGrant, v.Grant)
	l.set(wordChange, change+1)
}

// Read returns a consistent copy; ok is false when the writer was killed in the
// middle of a write, and then nothing in it may be relied on.
func (l *LeaseFile) Read() (v Lease, ok bool) {
	for range 1000 {
		before := l.get(wordChange)
		v = Lease{
			Expiry: lease.Instant{Raw: time.Duration(l.get(wordRaw)), Boot: time.Duration(l.get(wordBoot))},
			Budget: time.Duration(l.get(wordBudget)),
			Held:   l.get(wordHeld) == 1, Stay: l.get(wordStay) == 1, Term: l.get(wordTerm), Grant: l.get(wordGrant),
		}
		if before%2 == 0 && before == l.get(wordChange) {
			return v, true
		}
	}
	return v, false
}

// Repair ends a write that a killed agent left half-done: nothing is held.
func (l *LeaseFile) Repair() {
	if l.get(wordChange)%2 == 1 {
		l.set(wordHeld, 0)
		atomic.AddUint64(&l.words[wordChange], 1)
	}
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// AgentIdle is how long ago the agent's loop turned, by CLOCK_BOOTTIME.
func (l *LeaseFile) AgentIdle() time.Duration {
	return Now().Boot - time.Duration(l.get(wordAgentTick))
}

// AgentPID is the process id that the agent wrote.
func (l *LeaseFile) AgentPID() int { return int(l.get(wordAgentPID)) }

// GuardianPID is the process id that the guardian wrote.
func (l *LeaseFile) GuardianPID() int { return int(l.get(wordGuardianPID)) }
