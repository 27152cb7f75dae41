package events

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// RuleSet is the number of the rules that this program decides by. It grows
// with every change of the tables or of what a trigger means.
const RuleSet = 1

// Digest is the running digest of a log from its first event.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Next chains an event to the digest of everything before it. It covers the
// sequence, the identity, the source, the kind and the stored bytes, each with
// its length, so that no two different logs read the same.
func (d Digest) Next(e Event) Digest {
	var buf [1024]byte
	b := append(buf[:0], d[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, e.Cause)
	for _, s := range [...]string{e.ID, e.Source, e.Kind()} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(e.Version))
	b = append(b, e.Body...)
	return sha256.Sum256(b)
}
