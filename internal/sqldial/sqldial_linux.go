// Package sqldial opens the connections by which Interrex gives orders to a
// PostgreSQL.
package sqldial

import (
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Within is how long what was sent may stay without the other host's
// acknowledgement. The kernel would otherwise keep trying for minutes, also for a
// connection that was closed here: a promotion asked for over a network that was
// cut would arrive when it heals, and long after the order has expired.
const Within = 3 * time.Second

// New opens connections whose unacknowledged data is given up with them
// (TCP_USER_TIMEOUT, tcp(7)). What the other kernel has taken is beyond it.
func New() *net.Dialer {
	return &net.Dialer{Control: func(network, _ string, c syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		var err error
		controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(Within.Milliseconds()))
		})
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
}
