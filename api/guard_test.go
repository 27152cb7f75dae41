package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestListen(t *testing.T) {
	for _, c := range []struct{ address, token, words string }{
		{"0.0.0.0:0", "", "INTERREX_API_TOKEN_FILE"}, {":0", "", "INTERREX_API_TOKEN_FILE"}, {"[::]:0", "", "INTERREX_API_TOKEN_FILE"},
		{"192.0.2.1:0", "", "INTERREX_API_TOKEN_FILE"}, {"8008", "", "HOST:PORT"}, {"", "", "HOST:PORT"}, {"127.0.0.1:http-nonsense", "", "address"},
	} {
		if l, err := Listen(c.address, c.token); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q: %v, %v; want an error with %q", c.address, l, err, c.words)
		}
	}
	for _, c := range []struct{ address, token string }{{"127.0.0.1:0", ""}, {"localhost:0", ""}, {"0.0.0.0:0", "token"}} {
		l, err := Listen(c.address, c.token)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := Listen(l.Addr().String(), "token"); err == nil || !strings.Contains(err.Error(), "--listen") {
			t.Errorf("a port in use: %v", err)
		}
	}
}

func TestReadToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, c := range []struct {
		text  string
		mode  os.FileMode
		words string
	}{
		{"0123456789abcdef\n", 0o600, ""}, {"0123456789abcdef", 0o400, ""},
		{"0123456789abcdef", 0o640, "chmod 600"}, {"0123456789abcdef", 0o604, "chmod 600"},
		{"short", 0o600, "at least 16"}, {"", 0o600, "at least 16"}, {"0123456789 abcdef0123", 0o600, "without spaces"}, {"0123456789abcdef\nmore-of-it-here", 0o600, "one line"},
	} {
		_ = os.Remove(file)
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		token, err := ReadToken(file)
		if c.words == "" && (err != nil || token != "0123456789abcdef") || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%q with mode %o: %q, %v; want %q", c.text, c.mode, token, err, c.words)
		}
	}
	for _, path := range []string{file + ".not", t.TempDir()} {
		if _, err := ReadToken(path); err == nil || !strings.Contains(err.Error(), "INTERREX_API_TOKEN_FILE") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// pair writes a certificate of its own for 127.0.0.1.
func pair(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key, pool = filepath.Join(dir, "cert"), filepath.Join(dir, "key"), x509.NewCertPool()
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool.AppendCertsFromPEM(public)
	for path, b := range map[string][]byte{cert: public, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, pool
}

// TestServe: the real server, with TLS, ends its streams and then itself.
func TestServe(t *testing.T) {
	cert, key, pool := pair(t)
	if _, err := ReadTLS(cert, ""); err == nil {
		t.Error("a certificate without its key was taken")
	}
	if _, err := ReadTLS(cert, cert); err == nil || !strings.Contains(err.Error(), "INTERREX_API_KEY_FILE") {
		t.Errorf("a certificate for a key: %v", err)
	}
	over, err := ReadTLS(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	w := running(t, nil)
	o := w.server.options
	o.TLS = over
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	get := func(path string) *http.Response {
		res, err := client.Get("https://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	eventually(t, "the cluster over TLS", func() bool { return get("/v1/cluster").StatusCode == 200 })
	get("/v1/events/stream?after=0") // is not read: it must not hold the end
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the server does not end")
	}
}
