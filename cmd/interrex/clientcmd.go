package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/lab"
)

// newPassword returns 24 random characters that need no quoting anywhere.
func newPassword() string {
	var b [18]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func newClientCommand(g *globals) *cobra.Command {
	var passfile string
	c := &cobra.Command{
		Use:   "client",
		Short: "Write a row every 10 ms and count what was acknowledged; report on SIGUSR1 and at the end",
		Long: `Makes its table, writes, and connects again when its session breaks. On SIGUSR1,
and at the end (SIGTERM, SIGINT), reads every row back that it was told was
committed and prints one line of JSON. Exit status 1 when the last report could
not be made.`,
		Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := g.partTopology()
			if err != nil {
				return err
			}
			return runClient(cmd, t.DSN()+"&sslmode=disable&passfile="+passfile)
		},
	}
	c.Flags().StringVar(&passfile, "passfile", "", "file with the password of the role app")
	return c
}

// clientReport is one line of the client.
type clientReport struct {
	Acknowledged int       `json:"acknowledged"`
	Present      int       `json:"present"` // of those
	Unclaimed    int       `json:"unclaimed"`
	Lost         []lostRow `json:"lost"`
	PauseMillis  float64   `json:"pause_ms"` // the longest between two acknowledged writes since the last report
	Error        string    `json:"error,omitempty"`
}

// lostRow was acknowledged and is not there.
type lostRow struct {
	ID int64     `json:"id"`
	At time.Time `json:"at"` // of the acknowledgement
}

func runClient(cmd *cobra.Command, dsn string) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	ctx := cmd.Context()
	client, err := lab.StartClient(ctx, lab.ClientOptions{DSN: dsn})
	if err != nil {
		return err
	}
	since := time.Now()
	for {
		select {
		case <-asked:
			if err := reportClient(cmd, client, since); err != nil {
				return err
			}
			since = time.Now()
		case <-ctx.Done():
			client.Stop()
			return reportClient(cmd, client, since)
		}
	}
}

func reportClient(cmd *cobra.Command, client *lab.Client, since time.Time) error {
	wait, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 30*time.Second)
	defer cancel()
	v, err := client.Verify(wait)
	pause, _, _ := client.Pause(since)
	r := clientReport{Acknowledged: v.Acknowledged, Present: v.Present, Unclaimed: v.Unclaimed, Lost: []lostRow{}, PauseMillis: float64(pause.Microseconds()) / 1000}
	if err != nil {
		r.Error = err.Error()
	}
	at := map[int64]time.Time{}
	for _, a := range client.Acks() {
		at[a.ID] = a.At
	}
	for _, id := range v.Lost {
		r.Lost = append(r.Lost, lostRow{id, at[id]})
	}
	line, jerr := compactJSON(r)
	if jerr != nil {
		return jerr
	}
	fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}
