package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/adopt"
	"github.com/interrex-ha/interrex/executors/onhost"
)

// newOnHostCommand is the copy's side of executors/onhost: one order on standard
// input. SIGPIPE stays as it is: who is not heard any more ends.
func newOnHostCommand() *cobra.Command {
	return &cobra.Command{
		Use: onhost.Verb, Short: "Carry out one order here on behalf of an agent of another host", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return onhost.Serve(cmd.Context(), os.Stdin, os.Stdout, adopt.Questions())
		},
	}
}
