package executors

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// RecoverOptions tells Recover what it may do; zero values mean the defaults.
type RecoverOptions struct {
	// How: "auto" (the default) takes the cheapest way that works; "rewind" is
	// the same but never makes a base backup; "basebackup" always makes one;
	// "start" only starts it, or leads it where it runs, and overwrites nothing.
	How      string
	Decision uint64 // numbers what is kept aside: <PGDATA>.before-<decision>
	Progress Progress
	// Connect opens a superuser's connection to the upstream. By default the
	// node's own user and password are used there, or up.Passfile.
	Connect func(context.Context) (*pgx.Conn, error)
	// Journal is called before each step that changes something; its error ends
	// the recovery there, and the next one goes on from what is found.
	Journal      func(step string) error
	AcceptWithin time.Duration // for a started standby to accept connections; default 10 min
	StreamWithin time.Duration // and then to stream, counted anew while its replay advances; default 10 s
}

// Recovered says how a node came back.
type Recovered struct {
	How  string // HowRunning, HowStart, HowRewind or HowBaseBackup
	Why  string // how that was chosen, and what did not work before
	Kept string // the directory that a base backup replaced, empty when none
}

// ErrOtherCluster says that a node and its upstream have different system
// identifiers: they are not copies of one database. Nothing was touched.
var ErrOtherCluster = errors.New("not of the same cluster")

// ErrIsPrimary says that the node serves as a primary. Nothing was touched.
var ErrIsPrimary = errors.New("it runs as a primary")

// Recover makes a node a standby that streams from up, which must be a primary,
// by the cheapest of four ways: it is led there as it runs; it is started; it is
// rewound; it is copied anew. The next one is taken when one does not work.
// Nothing is deleted before a complete standby stands in its place: a base
// backup keeps the old directory, see Clean. At no moment can somebody start the
// data directory read-write. It may be killed at any moment and called again.
//
// The node's own configuration and keys are kept. Where the data directory
// cannot be renamed, because it is a mount point or its parent belongs to
// somebody else, its content is moved into hidden folders of it instead; a base
// backup taken from such a node contains what is kept there. Only for PostgreSQL
// on this host. Only one Recover at a time may work on a node.
func Recover(ctx context.Context, p Postgres, up Upstream, o RecoverOptions) (Recovered, error) {
	if e, ok := elsewhere(p); ok {
		return recoverElsewhere(ctx, e, p, up, o)
	}
	r := recovery{ctx: ctx, p: p, up: up, o: o}
	r.defaults()
	err := r.run()
	if r.src.conn != nil {
		closeConn(r.src.conn)
	}
	if err != nil {
		return r.result, fmt.Errorf("node %s: recover from %s: %w", p.Node, up.Node, err)
	}
	return r.result, nil
}

// recovery is one Recover under way.
type recovery struct {
	ctx    context.Context //nolint:containedctx // of this one call
	p      Postgres
	up     Upstream
	o      RecoverOptions
	at     places
	src    source
	result Recovered
	inside bool // for tests: as if the data directory were a mount point
}

func (r *recovery) defaults() {
	if r.o.How == "" {
		r.o.How = "auto"
	}
	if r.o.Progress == nil {
		r.o.Progress = func(string, uint64, uint64) {}
	}
	if r.o.Journal == nil {
		r.o.Journal = func(string) error { return nil }
	}
	if r.o.AcceptWithin == 0 {
		r.o.AcceptWithin = 10 * time.Minute
	}
	if r.o.StreamWithin == 0 {
		r.o.StreamWithin = 10 * time.Second
	}
}

// step is the place where a recovery can be ended without harm.
func (r *recovery) step(name string) error {
	if err := r.ctx.Err(); err != nil {
		return fmt.Errorf("before %s: %w", name, context.Cause(r.ctx))
	}
	if err := r.o.Journal(name); err != nil {
		return &journalError{fmt.Errorf("journal %s: %w", name, err)}
	}
	r.o.Progress(name, 0, 0)
	return nil
}

// journalError ends a recovery: no dearer way is tried after it.
type journalError struct{ err error }

func (e *journalError) Error() string { return e.err.Error() }
func (e *journalError) Unwrap() error { return e.err }

func (r *recovery) because(format string, args ...any) {
	if r.result.Why != "" {
		r.result.Why += "; "
	}
	r.result.Why += fmt.Sprintf(format, args...)
}

func (r *recovery) run() error {
	running, err := r.inspect()
	if err != nil {
		return err
	}
	if running && r.o.How != HowBaseBackup {
		done, err := r.leadRunning()
		if done || err != nil {
			return err
		}
	}
	if err := r.tidy(); err != nil {
		return err
	}
	if err := r.inspectAgain(); err != nil {
		return err
	}
	if r.o.How == HowStart && !whole(r.at.data) {
		return fmt.Errorf("it cannot simply be started: %s; recover it (interrex recover %s)", r.whyCopy(), r.p.Node)
	}
	if r.o.How == HowBaseBackup || !whole(r.at.data) {
		return r.copyAnew(r.whyCopy())
	}
	v, err := r.stopAndJudge()
	if err != nil {
		return err
	}
	return r.follow(v)
}

// inspect checks everything that can be checked before anything is touched.
func (r *recovery) inspect() (running bool, err error) {
	if r.o.How != "auto" && r.o.How != HowStart && r.o.How != HowRewind && r.o.How != HowBaseBackup {
		return false, fmt.Errorf("the way %q is not known; use auto, start, rewind or basebackup", r.o.How)
	}
	if !onThisHost(r.p.Runner) {
		return false, errors.New("only PostgreSQL of this very host can be recovered: use the runner local")
	}
	if r.at, err = findPlaces(r.p); err != nil {
		return false, err
	}
	r.at.inside = r.at.inside || r.inside
	if r.o.Connect == nil {
		r.o.Connect = func(ctx context.Context) (*pgx.Conn, error) { return connect(ctx, adminDSN(r.p, r.up)) }
	}
	if r.src, err = openSource(r.ctx, r.o.Connect); err != nil {
		return false, err
	}
	if err := r.sameCluster(); err != nil {
		return false, err
	}
	if !whole(r.at.data) {
		return false, nil
	}
	_, running, err = FindPostmaster(r.p.DataDir)
	if err != nil || !running {
		return false, err
	}
	return true, r.noPrimary()
}

// inspectAgain repeats what could not be seen while things lay about half moved.
func (r *recovery) inspectAgain() error {
	if err := r.sameCluster(); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.at.data)
	if whole(r.at.data) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into the data directory: %w", err)
	}
	for _, e := range entries {
		if !ours(e.Name()) {
			return fmt.Errorf("%s holds %q but is no whole data directory, with PG_VERSION and global; move its content aside", r.at.data, e.Name())
		}
	}
	return nil
}

// sameCluster looks at whatever of the node there is, wherever a killed run has
// left it. What cannot be read proves nothing, and is only ever set aside.
func (r *recovery) sameCluster() error {
	for _, dir := range []string{r.at.data, r.at.at(placeRecovering), r.at.at(placeRejoin), r.at.at(placeReady)} {
		if !exists(filepath.Join(dir, "PG_VERSION")) {
			continue
		}
		p := r.p
		p.DataDir = dir
		c, err := ReadControl(r.ctx, p)
		if err != nil {
			continue
		}
		if c.SystemID != r.src.systemID {
			return fmt.Errorf("%w: %s has the system identifier %s, the upstream at %s:%d has %s; nothing was touched, check the node's address and data directory", ErrOtherCluster, dir, c.SystemID, r.up.Host, r.up.Port, r.src.systemID)
		}
	}
	return nil
}

// noPrimary asks the running server, or, where it does not answer, its control
// file.
func (r *recovery) noPrimary() error {
	var recovering bool
	err := withConn(r.ctx, nil, r.p, func(c *pgx.Conn) error {
		return c.QueryRow(r.ctx, "SELECT pg_is_in_recovery()").Scan(&recovering)
	})
	if err == nil && recovering {
		return nil
	}
	if err == nil {
		return fmt.Errorf("%w; demote or fence it first", ErrIsPrimary)
	}
	c, cerr := ReadControl(r.ctx, r.p)
	if cerr != nil {
		return errors.Join(err, cerr)
	}
	if c.State == "in archive recovery" {
		return nil
	}
	return fmt.Errorf("%w, or may: it does not answer (%w) and pg_control says %q; demote or fence it first", ErrIsPrimary, err, c.State)
}

// leadRunning tries the cheapest way: a reload.
func (r *recovery) leadRunning() (bool, error) {
	err := r.followRunning()
	if err == nil {
		r.result.How = HowRunning
		return true, nil
	}
	if r.ended(err) {
		return false, err
	}
	r.because("as it ran it could not be led: %v", err)
	return false, nil
}

func (r *recovery) followRunning() error {
	conn, err := Connect(r.ctx, r.p)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	var pos Position
	look := detaching{p: r.p, conn: conn}
	if err := look.read(r.ctx, &pos); err != nil {
		return err
	}
	v, err := r.compare(pos.Timeline, pos.Replay)
	if err != nil {
		return err
	}
	if v.how != HowStart {
		return errors.New(v.why)
	}
	if err := r.step("follow"); err != nil {
		return err
	}
	if r.up.Slot != "" {
		if err := ensureSlot(r.ctx, r.src.conn, r.up.Slot); err != nil {
			return err
		}
	}
	if err := Follow(r.ctx, conn, r.p, r.up); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(r.ctx, r.o.StreamWithin)
	defer cancel()
	r.because("%s", v.why)
	return WaitStreaming(limited, conn, r.p, r.up)
}

func (r *recovery) whyCopy() string {
	switch {
	case r.o.How == HowBaseBackup:
		return "a base backup was asked for"
	case whole(r.at.at(placeRejoin)):
		return "a rewind was killed half way, which leaves the directory damaged"
	}
	return "there is no data directory"
}
