package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events/natslog"
)

// globals are the options that every command has.
type globals struct {
	dir     string
	output  string
	verbose bool
	log     config.Log // of the environment
}

func (g *globals) addFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&g.dir, "dir", "", "directory of the cluster's log, keys and journals (default $INTERREX_DIR, else /var/lib/interrex as root, else the state directory of the user)")
	f.StringVar(&g.output, "output", "text", "text or json")
	f.BoolVar(&g.verbose, "debug", false, "log more to standard error")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if g.output != "text" && g.output != "json" {
			return usage("--output is %q; it must be text or json", g.output)
		}
		g.dir = config.Dir(g.dir, os.Getenv)
		var err error
		if g.log, err = config.LoadLog(os.Environ()); err != nil {
			return codedError{exitUsage, err}
		}
		return nil
	}
}

func (g *globals) json() bool { return g.output == "json" }

func (g *globals) logger(w io.Writer, who string) *slog.Logger {
	level := slog.LevelWarn
	if g.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With("part", who)
}

// Paths inside the cluster's directory.
func keysDir(dir string) string     { return filepath.Join(dir, "keys") }
func storeDir(dir string) string    { return filepath.Join(dir, "log") }
func addressFile(dir string) string { return filepath.Join(dir, "log.json") }
func headFile(dir, who string) string {
	return filepath.Join(dir, "head-"+who+".json")
}

// address is where the log listens; whoever serves it writes the file.
type address struct {
	URL     string `json:"url"`
	Cluster string `json:"cluster"`
	PID     int    `json:"pid"`
}

func readAddress(dir string) (address, error) {
	var a address
	b, err := os.ReadFile(addressFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return a, fmt.Errorf("no Interrex cluster runs in %s: start one with: interrex up --dir %s", dir, dir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return a, fmt.Errorf("%s belongs to another user: run this as that user or as root", dir)
	}
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%s is damaged: %w; restart interrex up to have it written anew", addressFile(dir), err)
	}
	return a, nil
}

// address is where the log is: what INTERREX_LOG_URL says, else what whoever
// serves it on this host has written down.
func (g *globals) address() (address, error) {
	if g.log.URL != "" {
		return address{URL: g.log.URL, Cluster: g.log.Cluster}, nil
	}
	return readAddress(g.dir)
}

// whence says where the address of the log stands, for messages.
func (g *globals) whence() string {
	if g.log.URL != "" {
		return config.Prefix + "LOG_URL"
	}
	return addressFile(g.dir)
}

// keys is the directory of the log's keys.
func (g *globals) keys() string {
	if g.log.Keys != "" {
		return g.log.Keys
	}
	return keysDir(g.dir)
}

func (g *globals) key(role natslog.Role) string {
	if g.log.KeyFile != "" {
		return g.log.KeyFile
	}
	return natslog.KeyFile(g.keys(), role)
}

func writeAddress(dir string, a address) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tmp := addressFile(dir) + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("the log's address cannot be written: %w", err)
	}
	return os.Rename(tmp, addressFile(dir))
}

// answerWait is how long a verb waits for a log that does not answer. The
// process that log.json names may be frozen, or be somebody else's after a boot.
const answerWait = 10 * time.Second

// openLog connects to the cluster's running log; it is an error when the process
// that served it is gone, or does not answer. An agent waits for the next one
// instead: openLogOf.
func (g *globals) openLog(ctx context.Context, role natslog.Role, name string) (*natslog.Log, error) {
	return g.openLogWithin(ctx, answerWait, role, name)
}

func (g *globals) openLogWithin(ctx context.Context, patience time.Duration, role natslog.Role, name string) (*natslog.Log, error) {
	a, err := g.address()
	if err != nil {
		return nil, err
	}
	if a.PID > 0 && errors.Is(syscall.Kill(a.PID, 0), syscall.ESRCH) {
		return nil, fmt.Errorf("interrex up (process %d) does not run any more: start it with: interrex up --dir %s", a.PID, g.dir)
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	log, err := g.openLogOf(wait, nil, role, name)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && g.log.URL != "" {
		return nil, fmt.Errorf("the log at %s (INTERREX_LOG_URL) did not answer for %s: does interrex controller --serve-log run there, with that INTERREX_LOG_LISTEN, and does this host reach it? %w", a.URL, patience, err)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, fmt.Errorf("the log at %s (process %d, by %s) did not answer for %s: is interrex up running? If not, start it with: interrex up --dir %s: %w",
			a.URL, a.PID, addressFile(g.dir), patience, g.dir, err)
	}
	return log, err
}

// openLogOf does so without a network when this very process serves the log.
func (g *globals) openLogOf(ctx context.Context, srv *natslog.Server, role natslog.Role, name string) (*natslog.Log, error) {
	a, err := g.address()
	if err != nil {
		return nil, err
	}
	key := g.key(role)
	if _, err := os.ReadFile(key); err != nil && g.log.KeyFile != "" {
		return nil, fmt.Errorf("INTERREX_LOG_KEY_FILE: the key of the log cannot be read: %w", err)
	} else if err != nil {
		return nil, fmt.Errorf("the key of the log cannot be read: %w; run this as the owner of %s or as root", err, g.dir)
	}
	if srv != nil {
		return natslog.Dial(ctx, natslog.DialOptions{Cluster: a.Cluster, KeyFile: key, Name: name, Server: srv})
	}
	return natslog.Dial(ctx, natslog.DialOptions{
		Cluster: a.Cluster, KeyFile: key, Name: name, CAFile: g.log.TLSCA,
		Locate: func() (string, error) {
			now, err := g.address()
			return now.URL, err
		},
	})
}

// compactJSON is one line.
func compactJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// printJSON writes one indented JSON value.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // a URI's & is to be read, and copied
	return enc.Encode(v)
}
