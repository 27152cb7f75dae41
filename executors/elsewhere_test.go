package executors

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// TestStoppedCleanly: the state is the fifth 4-byte word of pg_control.
func TestStoppedCleanly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "global", "pg_control")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if stoppedCleanly(dir) {
		t.Error("without pg_control: clean")
	}
	// DBState: starting up, shut down, shut down in recovery, shutting down, in
	// crash recovery, in archive recovery, in production.
	for state, clean := range []bool{false, true, true, false, false, false, false} {
		b := binary.NativeEndian.AppendUint64(nil, 7300000000000000001)
		b = binary.NativeEndian.AppendUint32(b, 1300)
		b = binary.NativeEndian.AppendUint32(b, 202209061)
		b = binary.NativeEndian.AppendUint32(b, uint32(state))
		if err := os.WriteFile(path, append(b, make([]byte, 8192-len(b))...), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := stoppedCleanly(dir); got != clean {
			t.Errorf("state %d: %t, expected %t", state, got, clean)
		}
	}
	if err := os.WriteFile(path, make([]byte, 19), 0o600); err != nil {
		t.Fatal(err)
	}
	if stoppedCleanly(dir) {
		t.Error("a pg_control that was cut: clean")
	}
}
