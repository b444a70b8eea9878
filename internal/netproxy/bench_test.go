package netproxy

import (
	"net"
	"os"
	"testing"
)

func BenchmarkOwner(b *testing.B) {
	if err := Supported(); err != nil {
		b.Skip(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var who Processes
	who.Add(os.Getpid(), 1)
	for b.Loop() {
		if _, err := who.Owner(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()); err != nil {
			b.Fatal(err)
		}
	}
}
