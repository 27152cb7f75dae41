package natslog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTLS: with a certificate the log is read over TLS only by who trusts it;
// the process that serves it needs none.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir)
	keys := filepath.Join(dir, "keys")
	s, err := StartServer(ServerOptions{Cluster: "demo", StoreDir: filepath.Join(dir, "store"), KeysDir: keys, Host: "0.0.0.0", TLSCert: cert, TLSKey: key})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	if !strings.HasPrefix(s.URL(), "tls://127.0.0.1:") {
		t.Errorf("clients of this host are sent to %s", s.URL())
	}
	for _, c := range []struct {
		name string
		o    DialOptions
		ok   bool
	}{
		{"in this process", DialOptions{Server: s}, true},
		{"with the authority", DialOptions{URL: s.URL(), CAFile: cert}, true},
		{"of nobody that is trusted", DialOptions{URL: s.URL()}, false},
		{"in the clear", DialOptions{URL: strings.Replace(s.URL(), "tls://", "nats://", 1)}, false}, // upgraded, and not trusted
	} {
		c.o.Cluster, c.o.KeyFile, c.o.Name = "demo", KeyFile(keys, RoleReader), "test"
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if !c.ok {
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		}
		log, err := Dial(ctx, c.o)
		cancel()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: the error does not speak of the certificate: %v", c.name, err)
		}
		if log != nil {
			log.Close()
		}
	}
	_, err = StartServer(ServerOptions{Cluster: "demo", StoreDir: filepath.Join(dir, "other"), KeysDir: keys, TLSCert: key, TLSKey: key})
	if err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("a certificate that is none: %v", err)
	}
}

func selfSigned(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "log"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &pair.PublicKey, pair)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", private)
}
