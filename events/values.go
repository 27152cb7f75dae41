package events

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LSN is a position in the write-ahead log, written as PostgreSQL writes it:
// "0/3000060". The zero value means unknown.
type LSN uint64

// ParseLSN reads PostgreSQL's notation.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("events: %q is not a WAL position like 0/3000060", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("events: %q is not a WAL position like 0/3000060", s)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("events: %q is not a WAL position like 0/3000060", s)
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string {
	return strings.ToUpper(strconv.FormatUint(uint64(l)>>32, 16) + "/" + strconv.FormatUint(uint64(l)&0xffffffff, 16))
}

// MarshalText writes PostgreSQL's notation.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads PostgreSQL's notation; an empty text is unknown.
func (l *LSN) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*l = 0
		return nil
	}
	v, err := ParseLSN(string(b))
	*l = v
	return err
}

// Behind returns how many bytes l lies behind end, 0 when it does not.
func (l LSN) Behind(end LSN) uint64 {
	if end <= l {
		return 0
	}
	return uint64(end - l)
}

// Duration is a time span that reads "1.5s" in JSON.
type Duration time.Duration

// D returns the value as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's notation: a number with its unit.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("events: %q is not a duration like 500ms or 3s", b)
	}
	*d = Duration(v)
	return nil
}

// ParseBytes reads a number of bytes in PostgreSQL's units: 1048576, 1024kB, 1MB;
// units are multiples of 1024.
func ParseBytes(s string) (uint64, error) {
	digits := strings.TrimRight(s, "kMGTiB")
	var shift uint
	switch s[len(digits):] {
	case "", "B":
	case "kB", "KiB", "kiB":
		shift = 10
	case "MB", "MiB":
		shift = 20
	case "GB", "GiB":
		shift = 30
	case "TB", "TiB":
		shift = 40
	default:
		return 0, fmt.Errorf("events: %q has no unit of bytes", s)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("events: %q is not a number of bytes like 16777216 or 16MB", s)
	}
	if n<<shift>>shift != n {
		return 0, fmt.Errorf("events: %q is too large", s)
	}
	return n << shift, nil
}

// MaxNameLength bounds the names of clusters and nodes.
const MaxNameLength = 32

// CheckName says what is wrong with a cluster's or node's name, if anything:
// names are [a-z0-9][a-z0-9_-]{0,31}, because they become parts of subjects,
// stream names, replication slots and directories.
func CheckName(s string) error {
	if s == "" {
		return fmt.Errorf("a name must not be empty; use a-z, 0-9, _ and -, beginning with a letter or digit")
	}
	if len(s) > MaxNameLength {
		return fmt.Errorf("%q is longer than %d characters", s, MaxNameLength)
	}
	for i, r := range s {
		plain := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		if !plain && (i == 0 || r != '_' && r != '-') {
			return fmt.Errorf("%q must consist of a-z, 0-9, _ and -, beginning with a letter or digit; %q is not allowed there", s, r)
		}
	}
	return nil
}

// SlotName is the replication slot that the primary keeps for a node.
// PostgreSQL allows a-z, 0-9 and _ in slot names.
func SlotName(node string) string {
	return "interrex_" + strings.ReplaceAll(node, "-", "_")
}
