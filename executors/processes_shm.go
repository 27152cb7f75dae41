package executors

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// sharedMemory returns how many processes are attached to a lock file's
// segment, and whether it exists at all.
func sharedMemory(lock lockFile) (attached uint64, exists bool, err error) {
	if !lock.hasShm {
		return 0, false, nil
	}
	var d unix.SysvShmDesc
	_, err = unix.SysvShmCtl(lock.shmID, unix.IPC_STAT, &d)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIDRM) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("inspect the shared memory segment %d of postmaster.pid: %w", lock.shmID, err)
	}
	if !keyFits(&d, lock.shmKey) {
		return 0, false, nil // the number was given to another segment
	}
	return uint64(d.Nattch), true, nil
}
