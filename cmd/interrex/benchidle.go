package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// idleTime is how long an idle cluster is watched.
const idleTime = 20 * time.Second

// measureIdle watches an idle cluster of three: processor time and memory of
// every process of Interrex, and events per second. PostgreSQL is not counted.
func (b *bench) measureIdle() error {
	b.say("idle cluster of 3, %s", idleTime)
	dir, err := os.MkdirTemp("", "interrex-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g := *b.g
	g.dir = dir
	c, err := openBenchCluster(b.ctx, &g, b.log, 3, false)
	if err != nil {
		return err
	}
	defer c.close()
	s, err := c.healthy(b.ctx)
	if err != nil {
		return err
	}
	pids := []int{c.up.Process.Pid}
	for _, n := range s.Nodes {
		l, err := c.lease(n.Name)
		if err != nil {
			return err
		}
		pids = append(pids, l.AgentPID(), l.GuardianPID())
		l.Close()
	}
	idle(b.ctx, 5*time.Second) // after the start
	first, err := lastOf(b.ctx, c.log)
	if err != nil {
		return err
	}
	cpu, began := cpuTime(pids), time.Now()
	idle(b.ctx, idleTime)
	took := time.Since(began)
	cpu = cpuTime(pids) - cpu
	last, err := lastOf(b.ctx, c.log)
	if err != nil {
		return err
	}
	var pss uint64
	for _, p := range pids {
		pss += proportionalSet(p)
	}
	b.notes = append(b.notes, fmt.Sprintf(
		"Idle `interrex up` with 3 nodes (%d processes, without PostgreSQL): %.1f %% of one core (bar ≤ 3 %%), %d MB proportional set size (bar ≤ 100 MB), %.1f events/s (bar ≤ 5).",
		len(pids), 100*cpu.Seconds()/took.Seconds(), pss>>20, float64(last-first)/took.Seconds()))
	return nil
}

func idle(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// clockTick is the unit of /proc/PID/stat: USER_HZ is 100 on every Linux that Go
// runs on.
const clockTick = 10 * time.Millisecond

// cpuTime is the user and system time of the processes.
func cpuTime(pids []int) time.Duration {
	var sum time.Duration
	for _, p := range pids {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p) + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{11, 12} { // utime, stime: fields 14 and 15 of proc(5)
			n, err := strconv.Atoi(f[i])
			if err == nil {
				sum += time.Duration(n) * clockTick
			}
		}
	}
	return sum
}

// proportionalSet is the memory of a process, its share of shared pages: the
// processes run one binary.
func proportionalSet(pid int) uint64 {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
			n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}
