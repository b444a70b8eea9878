package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// testTLS makes a certificate that is its own authority, for the loopback
// address, and demands it of both sides.
func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "copycat test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:         true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// Everything works over TLS, with the key proven inside the session; who has no
// TLS, or no certificate of ours, does not get in.
func TestTLS(t *testing.T) {
	t.Parallel()
	c := tcpCluster(t)
	ours, theirs := testTLS(t), testTLS(t)
	start := func(n byte, secured *tls.Config) (*Transport, *recorder) {
		h := newRecorder()
		cfg := c.config(n, h)
		cfg.TLS, cfg.Key = secured, []byte("0123456789abcdef")
		return c.start(cfg), h
	}
	a, _ := start(1, ours)
	_, hb := start(2, ours)
	strange, _ := start(3, theirs)
	plain, _ := start(4, nil)
	for i := range uint64(1000) {
		if err := a.Send(nodeID(2), numbered(1, i, 2000)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(1000) {
		if m := await(t, hb.messages, "message"); number(m) != i {
			t.Fatalf("%d, want %d", number(m), i)
		}
	}
	data := make([]byte, 3<<20)
	if got, err := a.Call(t.Context(), nodeID(2), 1, data); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	r, err := a.Fetch(t.Context(), nodeID(2), data)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, other := range []*Transport{strange, plain} {
		if _, err := other.Call(t.Context(), nodeID(2), 1, nil); !errors.Is(err, ErrPeerDown) {
			t.Fatal(err)
		}
		if _, err := a.Call(t.Context(), other.cfg.Node, 1, nil); !errors.Is(err, ErrPeerDown) {
			t.Fatal(err)
		}
	}
	if ours.MinVersion != 0 {
		t.Fatal("the caller's configuration was changed")
	}
}
