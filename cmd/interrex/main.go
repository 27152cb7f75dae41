// Command interrex keeps a PostgreSQL streaming-replication cluster writable.
// This package wires the parts and talks to people; it decides nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build (Taskfile.yml).
var version = "dev"

// Exit codes of every command.
const (
	exitDone = iota
	exitFailed
	exitUsage
	exitRefused // by a rule: the answer says which
	exitLate    // not decided in time
)

// codedError carries the exit code that an error asks for.
type codedError struct {
	code int
	err  error
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

func refused(format string, args ...any) error {
	return codedError{exitRefused, fmt.Errorf(format, args...)}
}

func usage(format string, args ...any) error {
	return codedError{exitUsage, fmt.Errorf(format, args...)}
}

func late(format string, args ...any) error {
	return codedError{exitLate, fmt.Errorf(format, args...)}
}

// forgetLibpq keeps the shell's libpq settings (PostgreSQL documentation 34.15)
// from this program, the servers it starts and the tools it runs: a PGOPTIONS or
// PGHOSTADDR that somebody exported for psql would reach them all.
func forgetLibpq() {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
}

func main() {
	forgetLibpq()
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup stays what it is
		ends = append(ends, syscall.SIGHUP) // the terminal is gone: an end in order as well
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "interrex: %v\n", err)
	if c := (codedError{}); errors.As(err, &c) {
		return c.code
	}
	return exitFailed
}

func newRootCommand() *cobra.Command {
	g := new(globals)
	root := &cobra.Command{
		Use:   "interrex",
		Short: "Keeps a PostgreSQL streaming-replication cluster writable, and can say why",
		Long: `Interrex notices that the primary is gone, makes sure that it is really gone,
promotes the right standby, brings the old primary back, and can prove
afterwards why it did each of these things.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule, 4 not decided in time.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return codedError{exitUsage, err} })
	g.addFlags(root)
	root.AddCommand(
		newDemoCommand(g), newUpCommand(g), newAgentCommand(g), newControllerCommand(g), newAPICommand(g), newGuardianCommand(), newOnHostCommand(),
		newInContainerCommand(g), newComposeSecretsCommand(), newClientCommand(g), newComposeDemoCommand(),
		newStatusCommand(g), newLogCommand(g), newExplainCommand(g), newReplayCommand(g),
		newSwitchoverCommand(g), newFailoverCommand(g), newRecoverCommand(g), newDetachCommand(g), newAttachCommand(g),
		newPauseCommand(g), newResumeCommand(g), newPolicyCommand(g), newDSNCommand(g), newSubscriberCommand(g), newBenchCommand(g), newVersionCommand(g),
	)
	usageErrors(root)
	return root
}

// usageErrors gives wrong arguments their exit code.
func usageErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				if !cmd.HasAvailableSubCommands() || len(args) == 0 {
					return codedError{exitUsage, fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
				}
				return codedError{exitUsage, unknownVerb(cmd, args[0])}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageErrors(sub)
	}
}

func unknownVerb(parent *cobra.Command, verb string) error {
	parent.SuggestionsMinimumDistance = 2
	said := strings.TrimPrefix(parent.CommandPath()+" "+verb, "interrex ")
	if s := parent.SuggestionsFor(verb); len(s) > 0 {
		return fmt.Errorf("there is no command %q; did you mean: %s %s", said, parent.CommandPath(), s[0])
	}
	return fmt.Errorf("there is no command %q; see: %s --help", said, parent.CommandPath())
}
