package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// Listen opens the address that an API serves on. Whoever may ask it commands
// the database: without a token it must be a loopback address. An empty host or
// 0.0.0.0 is every address of this host, and no loopback.
func Listen(address, token string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("api: the address %q must be HOST:PORT, like %s: %w", address, DefaultListen, err)
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("api: the address %q: %w", address, err)
	}
	if token == "" && (host == "" || !at.IP.IsLoopback()) {
		return nil, fmt.Errorf("api: %s is no loopback address, and whoever reaches the API commands the cluster: set INTERREX_API_TOKEN_FILE, or listen on %s", address, DefaultListen)
	}
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("api: listen on %s: %w; choose another address with --listen (interrex api) or --api (interrex up)", address, err)
	}
	return l, nil
}

// minToken is the shortest token that is taken: shorter ones are guessed.
const minToken = 16

// ReadToken reads a token's file: one line, at least 16 characters. Others than
// its owner must have no right to it (mode 0600).
func ReadToken(path string) (string, error) {
	const name = "INTERREX_API_TOKEN_FILE"
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if st.Mode()&(fs.ModeType|0o077) != 0 {
		return "", fmt.Errorf("%s=%s has mode %s; it must be a file that only its owner may read: chmod 600 %s", name, path, st.Mode(), path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%s=%s must hold one line of at least %d visible ASCII characters without spaces, for example from: openssl rand -hex 32", name, path, minToken)
	}
	return token, nil
}

// ReadTLS reads a certificate and its key; without both files it returns nil.
func ReadTLS(certFile, keyFile string) (*tls.Config, error) {
	if certFile == "" && keyFile == "" {
		return nil, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, errors.New("INTERREX_API_CERT_FILE and INTERREX_API_KEY_FILE belong together: set both, or neither")
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("INTERREX_API_CERT_FILE=%s, INTERREX_API_KEY_FILE=%s: %w", certFile, keyFile, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// guarded lets a request through to what commands or shows the cluster.
func (s *Server) guarded(r *http.Request) error {
	if err := s.known(r); err != nil {
		return err
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return fail(http.StatusForbidden, "this request comes from a page of another origin (%v): a browser must not command the cluster", err)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return fail(http.StatusUnsupportedMediaType, "the Content-Type is %q; it must be application/json", r.Header.Get("Content-Type"))
	}
	return nil
}

// known asks for the token, or, without one, for a name of this host: a page
// whose name was led here (DNS rebinding) has its own.
func (s *Server) known(r *http.Request) error {
	if s.options.Token == "" {
		if !ownName(r.Host) {
			return fail(http.StatusForbidden, "the Host is %q; without a token the API answers to localhost and loopback addresses only", r.Host)
		}
		return nil
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || given == "" {
		return fail(http.StatusUnauthorized, "this needs the token: Authorization: Bearer …")
	}
	want, have := sha256.Sum256([]byte(s.options.Token)), sha256.Sum256([]byte(strings.TrimSpace(given)))
	if subtle.ConstantTimeCompare(want[:], have[:]) != 1 {
		return fail(http.StatusUnauthorized, "the token is not the API's")
	}
	return nil
}

// ownName: HTTP/1.0 clients send none at all, browsers always do.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
