// Command gendocs writes the pages of docs/ that are generated: the state
// machine and the rules from fsm's tables and the stories, the configuration
// from config's table. `go generate ./...` runs it.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/interrex-ha/interrex/config"
)

//go:generate go run . ../..

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: gendocs ROOT, the directory of the repository")
	}
	root := args[0]
	told, err := tellers(os.DirFS(filepath.Join(root, storyDir)))
	if err != nil {
		return err
	}
	rules, err := rulesPage(told)
	if err != nil {
		return err
	}
	docs := filepath.Join(root, "docs")
	if err := os.MkdirAll(docs, 0o755); err != nil {
		return err
	}
	for name, page := range map[string]string{
		"state-machine.md": machinePage(), "rules.md": rules, "configuration.md": config.Markdown(),
	} {
		page = strings.TrimRight(page, "\n") + "\n"
		if err := os.WriteFile(filepath.Join(docs, name), []byte(page), 0o644); err != nil {
			return err
		}
	}
	return nil
}
