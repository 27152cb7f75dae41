package agent

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// detached puts a child into a session of its own: no terminal's Ctrl-C and no
// end of our process group reaches it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// guards reports whether the process is a guardian of the node whose files live
// in dir: a pid alone may belong to anybody by now.
func guards(pid int, dir string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	return len(args) > 1 && args[1] == "guardian" && strings.Contains(string(b), dir)
}

func kill(pid int) { _ = unix.Kill(pid, unix.SIGKILL) }
