//go:build !linux

package unroot

import "syscall"

// endWithParent does nothing here: the child has its own -test.timeout.
func endWithParent(a *syscall.SysProcAttr) *syscall.SysProcAttr { return a }
