package executors_test

import (
	"testing"

	"github.com/interrex-ha/interrex/internal/unroot"
)

// One TestMain for the whole package, external and internal tests.
func TestMain(m *testing.M) { unroot.Main(m) }
