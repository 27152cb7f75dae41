// Package api is the cluster over HTTP: what the log says as JSON, its events as
// a stream, health endpoints for load balancers in Patroni's shape, metrics for
// Prometheus, and operators' requests. It follows the log by itself and decides
// nothing: a request becomes an event, and a controller answers it.
//
// Every answer is made of a state that is at most StaleAfter old; when it is
// older, because the log cannot be reached or is still being read, the answer is
// 503 and says why, and no node is called a primary.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/interrex-ha/interrex/events"
)

// DefaultListen is where Patroni's users look for a REST API, on loopback.
const DefaultListen = "127.0.0.1:8008"

// Bounds of one connection and of all of them.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 15 * time.Second
	writeTimeout  = 30 * time.Second // of an answer, and of each piece of a stream
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
	maxBody       = 64 << 10
	maxStreams    = 64
	maxReadings   = 8 // of the log at a time, for answers that are not in memory
	stopTimeout   = 5 * time.Second
)

// Options say what a Server serves, and to whom.
type Options struct {
	Log     events.Log   // read from; required
	Ask     events.Log   // requests are appended to it; nil: they are refused
	Node    string       // /primary and its like are about this node; "": none
	Version string       // of this program
	Token   string       // asked of everybody but health checks and metrics; "": of nobody, for loopback only
	TLS     *tls.Config  // nil: plain HTTP
	Logger  *slog.Logger // required

	StaleAfter time.Duration // 0: the constant
	KeepAlive  time.Duration // between two comments of a stream without news; 0: 15 s
}

// Server answers from one follower of the log.
type Server struct {
	options  Options
	follower *follower
	registry *prometheus.Registry
	handler  http.Handler
	document []byte // OpenAPI

	ended    chan struct{} // closed when streams shall end
	end      sync.Once
	streams  chan struct{}
	readings chan struct{}
}

// New makes a server that follows nothing yet: see Serve.
func New(o Options) (*Server, error) {
	if o.StaleAfter == 0 {
		o.StaleAfter = StaleAfter
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 15 * time.Second
	}
	m := newMetrics()
	s := &Server{
		options: o, follower: newFollower(o.Log, o.StaleAfter, m), registry: prometheus.NewRegistry(),
		ended: make(chan struct{}), streams: make(chan struct{}, maxStreams), readings: make(chan struct{}, maxReadings),
	}
	for _, c := range []prometheus.Collector{
		m.failovers, m.durations, newGauges(s.follower), buildInfo(o.Version),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := s.registry.Register(c); err != nil {
			return nil, fmt.Errorf("api: metrics: %w", err)
		}
	}
	routes := s.routes()
	var err error
	if s.document, err = document(routes, o.Version); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s.handler = s.mux(routes)
	return s, nil
}

// Handler answers requests; for tests, and for whoever has a server already. It
// is of use while Follow runs.
func (s *Server) Handler() http.Handler { return s.handler }

// Follow follows the log until ctx ends; streams end with it.
func (s *Server) Follow(ctx context.Context) {
	s.follower.run(ctx)
	s.end.Do(func() { close(s.ended) })
}

// Serve follows the log and answers on l until ctx ends, then lets what is being
// answered end within 5 s. Streams end at once. It closes l, and returns nil
// after ctx has ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	following, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		s.Follow(following)
		<-following.Done() // a log that failed is told to whoever asks
	}()
	defer wg.Wait()
	if s.options.TLS != nil {
		l = tls.NewListener(l, s.options.TLS)
	}
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		stop()
		return fmt.Errorf("api: %w", err)
	case <-ctx.Done():
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(bye); errors.Is(err, context.DeadlineExceeded) {
		_ = server.Close() // whoever still reads an answer is cut off
	}
	return nil
}
