package unroot

import (
	"runtime"
	"syscall"
)

// endWithParent has the kernel end the child when go test kills its parent. The
// signal is bound to the thread that starts the child, which therefore has to
// live as long as this process.
func endWithParent(a *syscall.SysProcAttr) *syscall.SysProcAttr {
	runtime.LockOSThread()
	a.Pdeathsig = syscall.SIGKILL
	return a
}
