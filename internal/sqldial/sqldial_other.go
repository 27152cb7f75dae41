//go:build !linux

package sqldial

import "net"

// New opens connections whose unacknowledged data the kernel keeps for as long
// as it does for any: there is no TCP_USER_TIMEOUT here.
func New() *net.Dialer { return &net.Dialer{} }
