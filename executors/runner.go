// Package executors carries out orders on a PostgreSQL: one file for each
// action (what is done), and a Runner for the place (where it runs). An
// executor inspects before it acts and verifies afterwards; it believes no exit
// status alone. It decides nothing: whether an order may be carried out is for
// the agent to check before it calls.
package executors

import (
	"context"
	"io/fs"
	"time"
)

// Command is one program run, with its limits.
type Command struct {
	Path    string   // program, absolute or found in the runner's PATH; never a shell line
	Args    []string // passed as they are: quotes, spaces and newlines reach no shell
	Env     []string // KEY=VALUE, added to the runner's own environment
	Dir     string   // working directory, the runner's own when empty
	Stdin   []byte
	Timeout time.Duration     // 0: only ctx bounds it; when it passes, the process group is killed
	Keep    int               // bytes of stdout and of stderr that are kept, the tail; 0 means 64 KiB
	Line    func(line string) // called for each line of stdout and stderr as it appears; may be nil
}

// Output is what a finished command left.
type Output struct {
	ExitCode int // of the program; -1 when a signal ended it
	Stdout   []byte
	Stderr   []byte
	Took     time.Duration
}

// Runner is a place where commands run and files live: this host, another one
// over ssh, a container. Runners differ in nothing else, and pass the suite in
// executortest.
//
// Run returns an *ExitError when the program ran and failed, and another error
// when it could not be run or was ended by its time-out or ctx. WriteFile is
// atomic and durable: temporary file, fsync, rename, fsync of the directory.
type Runner interface {
	Run(ctx context.Context, c Command) (Output, error)
	ReadFile(ctx context.Context, path string) ([]byte, error)
	WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error
	Remove(ctx context.Context, path string) error     // of one file; nil when it is absent
	Rename(ctx context.Context, from, to string) error // durable: both directories fsynced
	Stat(ctx context.Context, path string) (fs.FileInfo, error)
}
