package sqldial

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGivesUpUnheardData looks at the option that the kernel has, and that a
// Unix socket, which has no such thing, is dialled all the same.
func TestGivesUpUnheardData(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = t.TempDir() + "/s"
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := New().DialContext(t.Context(), network, l.Addr().String())
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		defer c.Close()
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			continue
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var ms int
		if err := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil {
			t.Fatal(err)
		}
		if err != nil || time.Duration(ms)*time.Millisecond != Within {
			t.Errorf("TCP_USER_TIMEOUT is %d ms, %v; expected %s", ms, err, Within)
		}
	}
}
