package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/interrex-ha/interrex/fsm"
)

func TestEveryRuleIsOnBothPages(t *testing.T) {
	told, err := tellers(os.DirFS("../../" + storyDir))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := rulesPage(told)
	if err != nil {
		t.Fatal(err)
	}
	machine := machinePage()
	for _, r := range fsm.Rules {
		if !strings.Contains(rules, fmt.Sprintf("\n| %d |", r.ID)) || !strings.Contains(machine, fmt.Sprintf(": %d %s\n", r.ID, r.On)) {
			t.Errorf("rule %d is missing on a page", r.ID)
		}
		if _, err := os.Stat(filepath.Join("../..", storyDir, told[r.ID]+".txt")); err != nil {
			t.Errorf("rule %d: %v", r.ID, err)
		}
	}
	for _, r := range fsm.StatusRules {
		if !strings.Contains(rules, fmt.Sprintf("\n| %d |", r.ID)) || !strings.Contains(machine, fmt.Sprintf(": %d %s\n", r.ID, r.On)) {
			t.Errorf("rule %d is missing on a page", r.ID)
		}
	}
}

func TestRuleWithoutStoryIsAnError(t *testing.T) {
	told, err := tellers(fstest.MapFS{"a.txt": {Data: []byte("101 forming -> healthy: x\n  status db1 0 -> 1 (1101: y)\n")}})
	if err != nil || told[101] != "a" || told[1101] != "a" {
		t.Fatalf("%v %v", told, err)
	}
	if _, err := rulesPage(told); err == nil || !strings.Contains(err.Error(), "rule 103") {
		t.Errorf("%v", err)
	}
}

func TestRunWritesThePages(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "scenarios"), 0o755); err != nil {
		t.Fatal(err)
	}
	stories, err := filepath.Abs("../../" + storyDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(stories, filepath.Join(root, storyDir)); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{root}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"state-machine.md", "rules.md", "configuration.md"} {
		b, err := os.ReadFile(filepath.Join(root, "docs", name))
		if err != nil || len(b) < 1000 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if run(nil) == nil {
		t.Error("no root: accepted")
	}
}
