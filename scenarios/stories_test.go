package scenarios_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/interrex-ha/interrex/scenarios"
)

// TestStories plays every story and compares what follows with what its file
// says. `go test ./scenarios -run TestStories -rewrite` writes the files anew.
func TestStories(t *testing.T) {
	for _, path := range storyFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			p := scenarios.NewPlayer()
			datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
				out, err := p.Play(td.FullCmd() + "\n" + td.Input)
				if err != nil {
					td.Fatalf(t, "%v", err)
				}
				return out
			})
		})
	}
}

func storyFiles(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no stories in testdata/*.txt: %v", err)
	}
	return paths
}

// TestStoriesByTheOwnReader: what `interrex scenario run` uses, without the test
// framework, reads and judges the same files alike, and each says what it tells.
func TestStoriesByTheOwnReader(t *testing.T) {
	for _, path := range storyFiles(t) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := scenarios.ReadStory(path, f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Run(); err != nil {
			t.Error(err)
		}
		if s.About == "" {
			t.Errorf("%s: a story begins with a comment that tells it", path)
		}
	}
}
