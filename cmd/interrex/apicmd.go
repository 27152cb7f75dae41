package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/api"
	"github.com/interrex-ha/interrex/config"
	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
)

func newAPICommand(g *globals) *cobra.Command {
	var listen, node string
	c := &cobra.Command{
		Use:   "api",
		Short: "Serve the cluster over HTTP: JSON, events, health checks for load balancers, metrics, operators' requests",
		Long: `Serves GET /v1/…, the health checks of Patroni's REST API for each node
(/nodes/NODE/primary, /nodes/NODE/replica?lag=16MB, …), /metrics for Prometheus
and POST /v1/switchover and its like; all of it is described at /v1/openapi.json.

On a loopback address it asks for no token. Any other address needs one:
INTERREX_API_TOKEN_FILE. While the log cannot be reached every answer is 503.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			outliveReaders()
			cfg, err := environment()
			if err != nil {
				return err
			}
			if node != "" {
				t, err := g.partTopology()
				if err != nil {
					return err
				}
				if node, err = memberArg(t, node); err != nil {
					return err
				}
			}
			if _, err := g.address(); err != nil {
				return err // there never was a cluster here, or it is another user's
			}
			if err := dropRoot(g.dir, g.dir); err != nil {
				return err
			}
			oneProcessor()
			d, err := openDoor(cfg.API, cmp.Or(listen, cfg.API.Listen, api.DefaultListen))
			if err != nil {
				return err
			}
			return g.serveAPI(cmd, d, node)
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "HOST:PORT (default $INTERREX_API_LISTEN, else "+api.DefaultListen+")")
	c.Flags().StringVar(&node, "node", "", "answer /primary, /replica, … for this node (name or id); /nodes/NODE/… answers for all")
	return c
}

// door is where the API listens, and whom it lets in.
type door struct {
	net.Listener
	options api.Options
}

// openDoor reads what guards the API and opens its address.
func openDoor(c config.API, listen string) (door, error) {
	var d door
	var err error
	if c.TokenFile != "" {
		if d.options.Token, err = api.ReadToken(c.TokenFile); err != nil {
			return d, err
		}
	}
	if d.options.TLS, err = api.ReadTLS(c.CertFile, c.KeyFile); err != nil {
		return d, err
	}
	d.Listener, err = api.Listen(listen, d.options.Token)
	return d, err
}

// say tells where the API is, once it is there.
func (d door) say(w io.Writer) {
	scheme := "http"
	if d.options.TLS != nil {
		scheme = "https"
	}
	fmt.Fprintf(w, "the API listens on %s://%s\n", scheme, d.Addr())
	if at, ok := d.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() && d.options.TLS == nil {
		fmt.Fprintln(w, "interrex: the API's token travels unencrypted: set INTERREX_API_CERT_FILE and INTERREX_API_KEY_FILE, or put a proxy with TLS before it")
	}
}

// serveAPI serves until the command ends. The log may come later, and may go.
func (g *globals) serveAPI(cmd *cobra.Command, d door, node string) error {
	ctx := cmd.Context()
	reads := g.awaitLater(ctx, natslog.RoleReader)
	defer reads.close()
	asks := g.awaitLater(ctx, natslog.RoleOperator)
	defer asks.close()
	return g.runAPI(ctx, cmd, d, node, reads, asks)
}

// runAPI serves the API from logs that are open, or will be.
func (g *globals) runAPI(ctx context.Context, cmd *cobra.Command, d door, node string, reads, asks events.Log) error {
	o := d.options
	o.Log, o.Ask, o.Node, o.Version, o.Logger = reads, asks, node, version, g.logger(cmd.ErrOrStderr(), "api")
	s, err := api.New(o)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	d.say(cmd.ErrOrStderr())
	return s.Serve(ctx, d)
}

// laterLog is a log that is still being connected to: until it is there it is
// like one that cannot be reached.
type laterLog struct {
	ready chan struct{} // closed when log or err is set
	log   *natslog.Log
	err   error
	stop  context.CancelFunc
	done  sync.WaitGroup
}

var _ events.Log = (*laterLog)(nil)

func (g *globals) awaitLater(ctx context.Context, role natslog.Role) *laterLog {
	ctx, stop := context.WithCancel(ctx)
	l := &laterLog{ready: make(chan struct{}), stop: stop}
	l.done.Add(1)
	go func() {
		defer l.done.Done()
		defer close(l.ready)
		l.log, l.err = g.openLogOf(ctx, nil, role, "api")
	}()
	return l
}

func (l *laterLog) close() {
	l.stop()
	l.done.Wait()
	if l.log != nil {
		l.log.Close()
	}
}

// await waits for the connection, for at most as long as ctx.
func (l *laterLog) await(ctx context.Context) (*natslog.Log, error) {
	select {
	case <-l.ready:
		return l.log, l.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: it was not connected to yet (%w)", events.ErrUnavailable, ctx.Err())
	}
}

// Append implements events.Log.
func (l *laterLog) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	log, err := l.await(ctx)
	if err != nil {
		return events.Event{}, err
	}
	return log.Append(ctx, d)
}

// Last implements events.Log.
func (l *laterLog) Last(ctx context.Context) (uint64, error) {
	log, err := l.await(ctx)
	if err != nil {
		return 0, err
	}
	return log.Last(ctx)
}

// Read implements events.Log.
func (l *laterLog) Read(ctx context.Context, q events.Query, fn func(events.Event) error) error {
	select {
	case <-l.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.err != nil {
		return l.err
	}
	return l.log.Read(ctx, q, fn)
}

// apiWait bounds how long interrex up waits for its API to end.
const apiWait = 10 * time.Second

// apiInside serves the API inside interrex up when an address was given; the
// returned function ends it.
func (g *globals) apiInside(ctx context.Context, cmd *cobra.Command, d *door, srv *natslog.Server) (end func(), err error) {
	if d == nil {
		return func() {}, nil
	}
	reads, err := g.openLogOf(ctx, srv, natslog.RoleReader, "api")
	if err != nil {
		return nil, err
	}
	asks, err := g.openLogOf(ctx, srv, natslog.RoleOperator, "api")
	if err != nil {
		reads.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := g.runAPI(ctx, cmd, *d, "", reads, asks); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "interrex: %v; the cluster goes on without it\n", err)
		}
	}()
	return func() {
		stop()
		select {
		case <-over:
		case <-time.After(apiWait):
		}
		asks.Close()
		reads.Close()
	}, nil
}

// doorOf opens the API's address of interrex up, nil when it has none.
func doorOf(c config.API, listen string) (*door, error) {
	listen = cmp.Or(listen, c.Listen)
	if listen == "" {
		return nil, nil
	}
	d, err := openDoor(c, listen)
	return &d, err
}
