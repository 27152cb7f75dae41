package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/executors"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/lab"
)

// perform runs one fault as often as asked and returns its rows; what was
// measured before an error is returned with it.
func (b *bench) perform(c *benchCluster, fault string) ([]row, error) {
	switch fault {
	case "A":
		return b.repeat(c, row{Fault: "A crash of the postmaster, agent alive", Bar: "median ≤ 2.0 × floor, p95 ≤ 500 ms"}, b.crash)
	case "B":
		return b.repeat(c, row{Fault: "B agent and PostgreSQL killed together", Bar: "≤ 3.5 s"}, b.killBoth)
	case "B2":
		return b.repeat(c, row{Fault: "B … with interrex up gone too, a second controller", Bar: "≤ 3.5 s"}, b.killAll)
	case "C":
		return b.freezes(c)
	case "D":
		return b.repeat(c, row{Fault: "D switchover", Bar: "median ≤ 1.5 × floor, 0 lost"}, b.switchover)
	case "E":
		return b.rejoins(c)
	case "F":
		return b.agentOnly(c)
	}
	return nil, usage("fault %q is not known; A to F are", fault)
}

// outcome of one run.
type measured struct {
	took  time.Duration
	lost  int
	split split
}

type runner func(c *benchCluster, client *lab.Client, primary string) (measured, error)

// repeat performs one fault n times, each with a client of its own.
func (b *bench) repeat(c *benchCluster, r row, once runner) ([]row, error) {
	var splits []split
	for i := range b.o.runs {
		m, err := b.once(c, once)
		if err != nil {
			err = fmt.Errorf("run %d: %w", i+1, err)
			r.Note, r.Failed = medianSplit(splits), err.Error()
			return []row{r}, err
		}
		r.Values, r.Lost = append(r.Values, m.took), r.Lost+m.lost
		if m.split.Decision != 0 {
			m.split.Write = m.took
			splits = append(splits, m.split)
		}
		b.say("  %2d: %s, lost %d %s", i+1, ms(m.took), m.lost, m.split)
	}
	r.Note = medianSplit(splits)
	return []row{r}, nil
}

// medianSplit says where the median of each part lies, counted from the fault.
func medianSplit(all []split) string {
	if len(all) == 0 {
		return ""
	}
	at := func(of func(split) time.Duration) string {
		var v []time.Duration
		for _, x := range all {
			v = append(v, of(x))
		}
		return ms(quantile(v, 0.5))
	}
	return fmt.Sprintf("medians since the kill: noticed %s, proved %s, decided %s, promoted %s",
		at(func(x split) time.Duration { return x.Noticed }), at(func(x split) time.Duration { return x.Proved }),
		at(func(x split) time.Duration { return x.Decided }), at(func(x split) time.Duration { return x.Promoted }))
}

func (b *bench) once(c *benchCluster, once runner) (measured, error) {
	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Minute)
	defer cancel()
	s, err := c.healthy(ctx)
	if err != nil {
		return measured{}, err
	}
	client, err := lab.StartClient(ctx, lab.ClientOptions{DSN: c.layout.DSN()})
	if err != nil {
		return measured{}, err
	}
	defer client.Stop()
	warm(ctx, client)
	m, err := once(c, client, s.Primary)
	if err != nil {
		return m, err
	}
	if _, err := c.healthy(ctx); err != nil {
		return m, err
	}
	v, err := client.Verify(ctx)
	if err != nil {
		return m, err
	}
	m.lost = len(v.Lost)
	b.sayLost(client, v.Lost, s.Primary, c)
	return m, b.heal(ctx, c)
}

// sayLost names what was lost: on which node it was acknowledged, and when,
// counted back from the last acknowledgement of that node.
func (b *bench) sayLost(client *lab.Client, lost []int64, primary string, c *benchCluster) {
	acks := client.Acks()
	for _, a := range acks {
		if !slices.Contains(lost, a.ID) {
			continue
		}
		last := a
		for _, o := range acks {
			if o.Port == a.Port {
				last = o
			}
		}
		b.say("      lost: row %d, acknowledged by %s (primary before: %s), %s before that node's last acknowledgement", a.ID, c.layout.NodeAt(a.Port), primary, ms(last.At.Sub(a.At)))
	}
}

// warm lets the client write for a while before the fault.
func warm(ctx context.Context, client *lab.Client) { acknowledged(ctx, client, 50) }

// acknowledged waits until the client has had n rows acknowledged.
func acknowledged(ctx context.Context, client *lab.Client, n int) {
	for len(client.Acks()) < n && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// heal brings every node back.
func (b *bench) heal(ctx context.Context, c *benchCluster) error {
	s, err := c.healthy(ctx)
	if err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if n.Name == s.Primary {
			continue
		}
		settled, cancel := context.WithTimeout(ctx, 5*time.Second)
		s, err := awaitState(settled, c.log, n.Name+" to follow", func(s fsm.State) bool { return follows(s, n.Name) })
		cancel()
		if err == nil && s.Phase == events.Healthy {
			continue
		}
		if _, err := c.recoverNode(ctx, n.Name, "auto"); err != nil {
			return err
		}
	}
	return c.whole(ctx)
}

func follows(s fsm.State, node string) bool {
	n, _ := s.Node(node)
	return n.Status == fsm.StatusWaiting || n.Status == fsm.StatusUp
}

func (b *bench) crash(c *benchCluster, client *lab.Client, primary string) (measured, error) {
	_, at, err := c.layout.KillPostmaster(primary)
	if err != nil {
		return measured{}, err
	}
	took, err := client.AwaitOutage(b.ctx, at)
	if err != nil {
		return measured{}, err
	}
	if _, err := c.healthy(b.ctx); err != nil {
		return measured{}, err
	}
	x, err := splitSince(b.ctx, c.log, at)
	return measured{took: took, split: x}, err
}

func (b *bench) killBoth(c *benchCluster, client *lab.Client, primary string) (measured, error) {
	at := time.Now()
	if err := c.killAgent(primary); err != nil {
		return measured{}, err
	}
	if err := c.layout.KillAll(b.ctx, primary); err != nil {
		return measured{}, err
	}
	took, err := client.AwaitOutage(b.ctx, at)
	return measured{took: took}, err
}

func (b *bench) killAll(c *benchCluster, client *lab.Client, primary string) (measured, error) {
	at := time.Now()
	if err := c.up.Process.Kill(); err != nil {
		return measured{}, err
	}
	m, err := b.killBoth(c, client, primary)
	if err != nil {
		return m, err
	}
	if took, ok := client.Outage(at); ok {
		m.took = took
	}
	return m, c.again(b.ctx)
}

func (b *bench) switchover(c *benchCluster, client *lab.Client, primary string) (measured, error) {
	if err := c.caughtUp(b.ctx, primary); err != nil {
		return measured{}, err
	}
	at := time.Now()
	if code := run(b.ctx, []string{"switchover", "--reason", "bench", "--yes", "--dir", c.g.dir}, io.Discard, c.stderr); code != exitDone {
		return measured{}, fmt.Errorf("interrex switchover: exit status %d", code)
	}
	pause, _, _ := client.Pause(at)
	return measured{took: pause}, nil
}

// caughtUp waits, as an operator would whose switchover is refused, until no
// standby that has just come back lags by more than half of max_lag.
func (c *benchCluster) caughtUp(ctx context.Context, primary string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	_, err := awaitState(ctx, c.log, "standbys that caught up", func(s fsm.State) bool {
		for _, n := range s.Nodes {
			if n.Name != primary && n.LSN.Behind(s.PrimaryLSN) > s.Policy.MaxLag/2 {
				return false
			}
		}
		return true
	})
	return err
}

// freezes measures C: the outage, and the window in which the thawed old
// primary still acknowledged.
func (b *bench) freezes(c *benchCluster) ([]row, error) {
	late := row{Fault: "C … window in which the thawed old primary still acknowledged", Bar: "≤ 50 ms; the new primary stays"}
	rows, err := b.repeat(c, row{Fault: "C everything of the primary's node frozen, thawed 3.5 s after the first write elsewhere", Bar: "≤ 3.5 s"},
		func(c *benchCluster, client *lab.Client, primary string) (measured, error) {
			m, window, n, err := b.freeze(c, client, primary)
			if err == nil {
				late.Values = append(late.Values, window)
				late.Lost += n
			}
			return m, err
		})
	late.Note = "lost: acknowledged by the old primary after the thaw"
	return append(rows, late), err
}

func (b *bench) freeze(c *benchCluster, client *lab.Client, primary string) (measured, time.Duration, int, error) {
	busy, err := lab.StartBusy(b.ctx, c.layout.NodeDSN(primary))
	if err != nil {
		return measured{}, 0, 0, err
	}
	defer busy.Stop()
	f, err := c.freezeNode(b.ctx, primary, true)
	if err != nil {
		return measured{}, 0, 0, err
	}
	took, err := client.AwaitOutage(b.ctx, f.At)
	if err != nil {
		return measured{}, 0, 0, errorsAfter(err, f.Thaw())
	}
	select {
	case <-time.After(3500 * time.Millisecond):
	case <-b.ctx.Done():
	}
	thawed := time.Now()
	if err := f.Thaw(); err != nil {
		return measured{}, 0, 0, err
	}
	select {
	case <-busy.Ended():
	case <-time.After(20 * time.Second):
		return measured{}, 0, 0, fmt.Errorf("the session on the old primary is still alive 20 s after the thaw")
	}
	acks, last := busy.Since(thawed)
	s, err := c.healthy(b.ctx)
	if err == nil && s.Primary == primary {
		err = fmt.Errorf("%s took the cluster back after the thaw", primary)
	}
	return measured{took: took}, last, len(acks), err
}

func errorsAfter(err, second error) error {
	if err == nil {
		return second
	}
	if second != nil {
		return fmt.Errorf("%w; and %w", err, second)
	}
	return err
}

// rejoins measures E.
func (b *bench) rejoins(c *benchCluster) ([]row, error) {
	rows := []row{
		{Fault: "E recover by rewind", Bar: "≤ 1.5 s"},
		{Fault: "E recover by base backup", Bar: "≤ 3 s"},
	}
	for range segmentsKept {
		s, err := c.healthy(b.ctx)
		if err == nil {
			err = c.nextSegment(b.ctx, s.Primary)
		}
		if err != nil {
			return rows, err
		}
	}
	for i, how := range []string{"rewind", "basebackup"} {
		for tries := 0; len(rows[i].Values) < b.o.runs; tries++ {
			took, did, err := b.rejoin(c, how)
			if err == nil && tries > 2*b.o.runs {
				err = fmt.Errorf("the nodes do not diverge: %d of %d runs ended in a %s", len(rows[i].Values), tries, how)
			}
			if err != nil {
				err = fmt.Errorf("run %d: %w", tries+1, err)
				rows[i].Failed = err.Error()
				return rows, err
			}
			if did != how { // the frozen receiver had WAL in its socket, or no whole segment: not what is measured
				b.say("  %s: not counted, it came back otherwise: %s", how, did)
				continue
			}
			rows[i].Values = append(rows[i].Values, took)
			b.say("  %s: %s", how, ms(took))
		}
	}
	return rows, nil
}

// rejoin crashes the primary under a busy session, so that its WAL ends beyond
// the standby's, lets the new primary checkpoint and takes the time of the verb.
// It says as well how the node did come back.
func (b *bench) rejoin(c *benchCluster, how string) (took time.Duration, did string, err error) {
	s, err := c.healthy(b.ctx)
	if err != nil {
		return 0, "", err
	}
	client, err := lab.StartClient(b.ctx, lab.ClientOptions{DSN: c.layout.DSN()})
	if err != nil {
		return 0, "", err
	}
	defer client.Stop()
	warm(b.ctx, client)
	if err := c.nextSegment(b.ctx, s.Primary); err != nil {
		return 0, "", err
	}
	lose, err := c.deaf(b.ctx, s)
	if err != nil {
		return 0, "", err
	}
	acknowledged(b.ctx, client, len(client.Acks())+10) // rows that the standby will never have
	_, at, err := c.layout.KillPostmaster(s.Primary)
	if err = errorsAfter(err, lose()); err != nil {
		return 0, "", err
	}
	if _, err := client.AwaitOutage(b.ctx, at); err != nil {
		return 0, "", err
	}
	now, err := c.healthy(b.ctx)
	if err != nil {
		return 0, "", err
	}
	if now.Primary == s.Primary {
		return 0, "resumed", nil // the standby was no candidate: nothing is to be recovered
	}
	if took, err = c.recoverNode(b.ctx, s.Primary, how); err == nil {
		did, err = c.recovered(b.ctx, s.Primary)
	}
	return took, did, err
}

// segmentsKept is more than wal_keep_size holds back.
const segmentsKept = 6

// nextSegment leaves the WAL segment in use behind: every timeline of the runs
// before has a copy of it, which no checkpoint removes and pg_rewind copies. A
// cluster that is not failed over twenty times in a minute has none of them.
func (c *benchCluster) nextSegment(ctx context.Context, primary string) error {
	conn, err := executors.Connect(ctx, c.layout.Postgres(primary))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT txid_current(), pg_switch_wal()") // an empty segment is not left
	if err == nil {
		err = executors.Checkpoint(ctx, conn, c.layout.Postgres(primary))
	}
	return errorsAfter(err, conn.Close(ctx))
}

// deaf stops the receiver of every standby, so that what the primary writes from
// here on is its own: without that there would seldom be anything to rewind. The
// function it returns ends those receivers.
func (c *benchCluster) deaf(ctx context.Context, s fsm.State) (lose func() error, err error) {
	var pids []int
	for _, n := range s.Nodes {
		if n.Name == s.Primary {
			continue
		}
		conn, err := executors.Connect(ctx, c.layout.Postgres(n.Name))
		if err != nil {
			return nil, err
		}
		var pid int
		err = conn.QueryRow(ctx, "SELECT pid FROM pg_stat_wal_receiver").Scan(&pid)
		if err = errorsAfter(err, conn.Close(ctx)); err != nil {
			return nil, fmt.Errorf("the receiver of %s: %w", n.Name, err)
		}
		pids = append(pids, pid)
	}
	f, err := lab.Freeze(ctx, pids...)
	if err != nil {
		return nil, err
	}
	return func() error {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGTERM) // taken when it is thawed
		}
		return f.Thaw()
	}, nil
}

// agentOnly measures F: the agent is killed, or frozen, and PostgreSQL is busy.
func (b *bench) agentOnly(c *benchCluster) ([]row, error) {
	var rows []row
	for _, how := range []string{"killed", "frozen"} {
		failovers := 0
		r, err := b.repeat(c, row{Fault: "F only the agent " + how + ": longest pause between two writes", Bar: "0 failovers"},
			func(c *benchCluster, client *lab.Client, primary string) (measured, error) {
				took, moved, err := b.loseAgent(c, client, primary, how)
				failovers += moved
				return measured{took: took}, err
			})
		r[0].Note = fmt.Sprintf("%d failovers", failovers)
		rows = append(rows, r...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func (b *bench) loseAgent(c *benchCluster, client *lab.Client, primary, how string) (time.Duration, int, error) {
	before, err := c.healthy(b.ctx)
	if err != nil {
		return 0, 0, err
	}
	old, _ := before.Node(primary)
	at := time.Now()
	if how == "killed" {
		err = c.killAgent(primary)
	} else {
		_, err = lab.Freeze(b.ctx, old.Agent.PID)
	}
	if err != nil {
		return 0, 0, err
	}
	wait, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	s, err := awaitState(wait, c.log, "a new agent of "+primary+" with the lease", func(s fsm.State) bool {
		n, _ := s.Node(primary)
		return n.AgentSeq > old.AgentSeq && s.Phase == events.Healthy && (s.Primary != primary || s.Grant.Renewed > n.AgentSeq)
	})
	if err != nil {
		return 0, 0, err
	}
	moved := 0
	if s.Term != before.Term {
		moved = 1
	}
	pause, _, _ := client.Pause(at)
	return pause, moved, nil
}
