package natslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/interrex-ha/interrex/events"
)

// ServerOptions says where an embedded log lives and listens.
type ServerOptions struct {
	Cluster  string // required
	StoreDir string // required: made 0700 when missing; one server at a time
	KeysDir  string // required: see EnsureKeys
	Host     string // 127.0.0.1 when empty
	Port     int    // 0: any free one, see Server.URL
	TLSCert  string // file; with TLSKey clients over TCP must use TLS
	TLSKey   string
	Logger   *slog.Logger // of the server's warnings and errors; nil: slog.Default()

	// lazySync leaves writes to the page cache, so that a benchmark can fill a
	// large log in seconds. Never set outside of tests.
	lazySync bool
}

// Server is an embedded NATS server that holds one cluster's log. Every
// acknowledged event is on disk: it syncs before it acknowledges.
type Server struct {
	ns   *server.Server
	lock *os.File
	url  string
	once sync.Once
}

// startTimeout bounds the server's start: a store of a million events whose
// index is lost takes about 2 s to read.
const startTimeout = 60 * time.Second

// tlsTimeout bounds a client's handshake.
const tlsTimeout = 2 * time.Second

// StartServer starts the log of a cluster and returns when clients can connect.
// It makes keys and stream at the first start. It fails, naming the cause, when
// the cluster's name is not allowed, another server uses the store, the port is
// in use, keys are readable by others, or the stored stream is configured so
// that it could lose events.
func StartServer(o ServerOptions) (*Server, error) {
	if err := events.CheckName(o.Cluster); err != nil {
		return nil, fmt.Errorf("natslog: cluster name: %w", err)
	}
	if o.StoreDir == "" {
		return nil, errors.New("natslog: the store directory is not given")
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := EnsureKeys(o.KeysDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("natslog: make the store directory: %w", err)
	}
	lock, err := lockStore(o.StoreDir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock}
	if err := s.start(o); err != nil {
		s.Shutdown()
		return nil, err
	}
	return s, nil
}

// start brings the server up without a listener, so that no client sees it
// before its stream is made and checked.
func (s *Server) start(o ServerOptions) error {
	if err := portFree(o.Host, o.Port); err != nil {
		return err
	}
	admin, err := nkeys.CreateUser()
	if err != nil {
		return fmt.Errorf("natslog: make the admin key: %w", err)
	}
	defer admin.Wipe()
	opts, err := serverOptions(o, admin)
	if err != nil {
		return err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("natslog: configure the server: %w", err)
	}
	s.ns = ns
	logger := &serverLogger{to: o.Logger}
	ns.SetLoggerV2(logger, false, false, false)
	go ns.Start()
	if !ns.ReadyForConnections(startTimeout) {
		return fmt.Errorf("natslog: the server on %s did not start within %s: %w", o.StoreDir, startTimeout, errors.Join(logger.failed(), errors.New("see its warnings above")))
	}
	if err := logger.failed(); err != nil {
		return fmt.Errorf("natslog: start the server on %s: %w", o.StoreDir, err)
	}
	if c := ns.JetStreamConfig(); c == nil || c.SyncAlways == o.lazySync {
		return fmt.Errorf("natslog: sync_interval is not always: an acknowledged event could be lost in a power cut")
	}
	if err := s.prepareStream(o.Cluster, admin); err != nil {
		return err
	}
	ns.AcceptLoop(make(chan struct{}))
	if err := logger.failed(); err != nil {
		return fmt.Errorf("natslog: listen on %s: %w", net.JoinHostPort(o.Host, strconv.Itoa(o.Port)), err)
	}
	s.url = reachable(ns.Addr(), o.TLSCert != "")
	return nil
}

// reachable is the URL of a listener for clients of this host: one on every
// address is no address to connect to.
func reachable(a net.Addr, tls bool) string {
	scheme, at := "nats://", a.String()
	if tls {
		scheme = "tls://"
	}
	if tcp, ok := a.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		at = net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
	}
	return scheme + at
}

func serverOptions(o ServerOptions, admin nkeys.KeyPair) (*server.Options, error) {
	pub, err := admin.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("natslog: admin key: %w", err)
	}
	who, err := accounts(o.Cluster, o.KeysDir, pub)
	if err != nil {
		return nil, err
	}
	opts := &server.Options{}
	if err := opts.ProcessConfigString(who); err != nil {
		return nil, fmt.Errorf("natslog: configure the accounts: %w", err)
	}
	opts.ServerName = "interrex-" + o.Cluster
	opts.Host, opts.Port = o.Host, o.Port
	if o.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	opts.DontListen = true
	opts.NoSigs = true
	opts.JetStream = true
	opts.StoreDir = o.StoreDir
	opts.SyncAlways = !o.lazySync
	if o.TLSCert != "" {
		opts.TLS, opts.TLSTimeout = true, tlsTimeout.Seconds()
		if opts.TLSConfig, err = server.GenTLSConfig(&server.TLSConfigOpts{CertFile: o.TLSCert, KeyFile: o.TLSKey, Timeout: opts.TLSTimeout}); err != nil {
			return nil, fmt.Errorf("natslog: certificate %s and key %s of the log's server: %w", o.TLSCert, o.TLSKey, err)
		}
	}
	return opts, nil
}

// portFree gives a clear error early; NATS itself only says it in its log.
func portFree(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("natslog: the log's server cannot listen: %w; stop what uses the port, or choose another one", err)
	}
	return l.Close()
}

// prepareStream makes or checks the stream over a private connection. Its key
// is forgotten afterwards: no client can change the stream.
func (s *Server) prepareStream(cluster string, admin nkeys.KeyPair) error {
	pub, err := admin.PublicKey()
	if err != nil {
		return fmt.Errorf("natslog: admin key: %w", err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(s.ns), nats.Nkey(pub, admin.Sign), nats.NoReconnect())
	if err != nil {
		return fmt.Errorf("natslog: connect to the own server: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("natslog: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return ensureStream(ctx, js, cluster)
}

// URL is where clients connect, for example "nats://127.0.0.1:4222".
func (s *Server) URL() string { return s.url }

// Shutdown stops the server and waits until its files are closed and the store
// is free for another one. It may be called more than once.
func (s *Server) Shutdown() {
	s.once.Do(func() {
		if s.ns != nil {
			s.ns.Shutdown()
			s.ns.WaitForShutdown()
		}
		s.lock.Close()
	})
}
