//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/internal/unroot"
)

func TestRecover(t *testing.T) {
	c := opsUp(t, 2)
	c.part("refused", func(t *testing.T, c *opsCluster) {
		c.refused([]string{"db1 is the primary"}, "recover", "db1", "--yes")
		c.refused([]string{"db2 streams from the primary already"}, "recover", "1", "--yes")
		c.run("recover", "db2", "--how", "magic").says(t, "an unknown way", 2, "auto, rewind or basebackup")
		c.run("recover", "db2").says(t, "without a terminal", 2, "--yes")
	})
	c.part("after a crash", recoverAfterCrash)
	c.part("base backup", recoverBaseBackup)
	c.part("agent killed while it rewinds", func(t *testing.T, c *opsCluster) { recoverKilled(t, c, "auto", "rewind") })
	c.part("agent killed in a base backup", func(t *testing.T, c *opsCluster) { recoverKilled(t, c, "basebackup", "basebackup") })
	c.part("another system identifier", recoverForeign)
	c.part("too little disk", recoverNoSpace)
}

// crash kills the primary under load and waits for the other node to serve.
func (c *opsCluster) crash(t *testing.T) (old, now string) {
	t.Helper()
	s := c.now()
	old, now = s.Primary, c.other(s.Primary)
	c.kill(t, old)
	c.failedOver(s.Term, now)
	return old, now
}

// diverge crashes the primary with WAL that its standby has not received.
func (c *opsCluster) diverge(t *testing.T) (old string) {
	t.Helper()
	s := c.now()
	to := c.other(s.Primary)
	lose := c.deaf(t, to)
	c.sql(t, s.Primary, "create table if not exists lost_with_the_primary ()")
	c.kill(t, s.Primary)
	lose()
	c.failedOver(s.Term, to)
	return s.Primary
}

// deaf stops a standby's receiver where it stands; what lies in its socket by
// the time it goes on is lost, because its end was asked for before.
func (c *opsCluster) deaf(t *testing.T, node string) (lose func()) {
	t.Helper()
	pid := c.receiver(t, node)
	thaw := opsFreeze(t, pid)
	return func() {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatalf("receiver of %s: %v", node, err)
		}
		thaw()
	}
}

func recoverAfterCrash(t *testing.T, c *opsCluster) {
	w := c.client(t)
	old, now := c.crash(t)
	said := c.recover(old)
	if !strings.Contains(said, old+" streams from "+now+" again (") {
		t.Errorf("recover said %q", said)
	}
	w.settle(t)
	var n int
	if err := c.super(t, now).QueryRow(opsContext(t), "select count(*) from pg_stat_replication where state = 'streaming'").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d standbys stream from %s, expected 1 (%v)", n, now, err)
	}
}

// recoverBaseBackup: the old directory stays until it is cleaned away.
func recoverBaseBackup(t *testing.T, c *opsCluster) {
	w := c.client(t)
	old, _ := c.crash(t)
	seq := c.now().Seq
	c.recover(old, "--how", "basebackup")
	done := c.awaitEvent("the base backup's end", seq, orderDone(old, events.ActRecover)).Data.(events.OrderDone)
	w.settle(t)
	if done.How != "basebackup" {
		t.Errorf("it came back by %q, expected basebackup", done.How)
	}
	kept := c.data(t, old) + fmt.Sprintf(".before-%d", done.Decision)
	if _, err := os.Stat(filepath.Join(kept, "PG_VERSION")); err != nil {
		t.Errorf("the old directory was not kept: %v", err)
	}
	if strings.Join(beside(t, c.data(t, old), ".*"), " ") != kept {
		t.Errorf("beside the data directory stand %q, expected %q only", beside(t, c.data(t, old), ".*"), kept)
	}
	c.must("recover", old, "--clean", "--yes")
	if left := beside(t, c.data(t, old), ".*"); len(left) > 0 {
		t.Errorf("recover --clean left %q", left)
	}
	c.healthy()
}

// recoverKilled kills the node's agent in the middle; the next one goes on.
func recoverKilled(t *testing.T, c *opsCluster, how, step string) {
	w := c.client(t)
	old := c.diverge(t)
	seq := c.now().Seq
	verb := opsStart(t, nil, "recover", old, "--yes", "--how", how, "--dir", c.dir)
	killed := c.awaitEvent("the step "+step, seq, func(e events.Event) bool {
		p, ok := e.Data.(events.OrderProgress)
		return ok && p.Node == old && strings.Contains(p.Step, step)
	})
	n, _ := c.now().Node(old)
	if err := syscall.Kill(n.Agent.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := verb.ended(t, opsWait); code != 0 {
		t.Errorf("recover ended with %d:\n%s", code, verb.out)
	}
	c.healthy()
	w.settle(t)
	started := 0
	for _, e := range c.since(killed.Seq) {
		if d, ok := e.Data.(events.OrderStarted); ok && d.Node == old && d.Action == events.ActRecover {
			started++
		}
		if d, ok := e.Data.(events.Decided); ok && d.Request != 0 {
			t.Errorf("decision %d answers a request: nobody asked again", e.Seq)
		}
	}
	if started != 1 {
		t.Errorf("the order was taken up %d times after the agent was killed, expected once", started)
	}
	for _, f := range beside(t, c.data(t, old), ".interrex-*") {
		t.Errorf("%s was left behind", f)
	}
	for _, f := range beside(t, c.data(t, old), ".before-*") {
		t.Logf("kept: %s", f)
	}
	c.must("recover", old, "--clean", "--yes")
}

// recoverForeign puts another cluster's directory in the node's place.
func recoverForeign(t *testing.T, c *opsCluster) {
	old, now := c.crash(t)
	data := c.data(t, old)
	if err := os.Rename(data, data+".mine"); err != nil {
		t.Fatal(err)
	}
	initdb(t, filepath.Join(c.layout.BinDir, "initdb"), data)
	before := tree(t, data)
	c.run("recover", old, "--yes").says(t, "another cluster's directory", 1, "system identifier", data, "nothing was touched")
	if after := tree(t, data); after != before {
		t.Errorf("the foreign directory was changed:\nbefore %s\nafter %s", before, after)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+".mine", data); err != nil {
		t.Fatal(err)
	}
	c.recover(old)
	if s := c.now(); s.Primary != now {
		t.Errorf("the primary is %s, expected %s", s.Primary, now)
	}
}

// initdb makes a data directory as the server's user.
func initdb(t *testing.T, program, dir string) {
	t.Helper()
	cmd := exec.Command(program, "-D", dir, "-A", "trust", "--no-sync")
	if os.Geteuid() == 0 {
		uid, gid, _, err := unroot.Account()
		if err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		cmd.Dir = "/"
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
}

// tree is a digest of names and times in a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	count, newest := 0, time.Time{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		count++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(count, " entries, newest of ", newest)
}

// recoverNoSpace puts the node's directory on a disk of its own that is too
// small for a second copy, and then on one that fills up half way.
func recoverNoSpace(t *testing.T, c *opsCluster) {
	onlyRoot(t, "it mounts a small disk under a node's directory")
	node := c.other(c.now().Primary)
	c.stop(t)
	disk := filepath.Dir(c.data(t, node))
	mountCopy(t, c, disk, 400<<20)
	c.start()
	c.healthy()
	var free unix.Statfs_t
	if err := unix.Statfs(disk, &free); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(disk, "filler")
	fill(t, filler, int64(free.Bavail)*free.Bsize-(20<<20))
	a := c.run("recover", node, "--yes", "--how", "basebackup")
	a.says(t, "a base backup on a small disk", 1, "needs about", "bytes", "has", "free", disk)
	if !regexp.MustCompile(`needs about \d{7,} bytes`).MatchString(a.stderr) {
		t.Errorf("the bytes that are needed are not named:\n%s", a.stderr)
	}
	c.healthy() // it was refused before anything was stopped
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	fullOnTheWay(t, c, node, disk)
}

// fullOnTheWay fills the disk once the base backup has begun.
func fullOnTheWay(t *testing.T, c *opsCluster, node, disk string) {
	watching, stop := context.WithCancel(context.Background())
	filled := make(chan error, 1)
	go func() {
		made := filepath.Join(disk, "data.interrex-new", "base")
		for watching.Err() == nil {
			if _, err := os.Stat(made); err == nil {
				break
			}
			<-time.After(time.Millisecond)
		}
		filled <- fillUp(disk)
	}()
	a := c.run("recover", node, "--yes", "--how", "basebackup")
	stop()
	if err := <-filled; err != nil {
		t.Fatalf("the disk could not be filled: %v", err)
	}
	a.says(t, "a disk that fills up", 1, "bytes free", "what was there is untouched")
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	n, _ := c.now().Node(node)
	if n.PG.State != events.PostgresUp {
		c.must("recover", node, "--yes")
	}
	c.healthy()
	c.must("recover", node, "--yes", "--how", "basebackup")
	c.must("recover", node, "--yes", "--clean")
}

// fillUp leaves a few megabytes, while somebody else takes them as well.
func fillUp(disk string) error {
	f, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		return err
	}
	defer f.Close()
	for err = unix.ENOSPC; errors.Is(err, unix.ENOSPC); {
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			return err
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, max(int64(st.Bavail)*st.Bsize-(3<<20), 1))
	}
	return err
}

func fill(t *testing.T, path string, bytes int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, bytes); err != nil {
		t.Fatalf("fill %d bytes: %v", bytes, err)
	}
}

// mountCopy puts a directory on a disk of its own. The cluster is stopped.
func mountCopy(t *testing.T, c *opsCluster, dir string, size int64) {
	t.Helper()
	aside := dir + ".aside"
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("mount: %v", err)
	}
	c.whole.Cleanup(func() { // after the cluster was stopped
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			c.whole.Errorf("unmount %s: %v", dir, err)
		}
	})
	if out, err := exec.Command("cp", "-a", aside+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.RemoveAll(aside); err != nil {
		t.Fatal(err)
	}
}

// stop ends interrex up in order, as Ctrl-C does.
func (c *opsCluster) stop(t *testing.T) {
	t.Helper()
	c.stopBy(t, syscall.SIGINT)
}

func (c *opsCluster) stopBy(t *testing.T, s syscall.Signal) {
	t.Helper()
	c.process.signal(s)
	if code := c.process.ended(t, opsWait); code != 0 {
		t.Fatalf("interrex up ended with %d:\n%s", code, c.process.out)
	}
	opsPoll(t, "the end of every agent and server", func() bool {
		for _, n := range c.layout.Nodes {
			if _, err := os.Stat(filepath.Join(n.DataDir, "postmaster.pid")); err == nil {
				return false
			}
		}
		return true
	})
}

// view is `interrex status --output json`.
func (c *opsCluster) view(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(c.must("status", "--output", "json")), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
