package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Table is where the measuring clients write.
const Table = "interrex_lab"

const createTable = `create table if not exists ` + Table + ` (id bigint primary key, run text not null, at timestamptz not null default now())`

// insertRow returns the port of the server that the row was written on: behind
// a gateway or a list of hosts the client would not know.
const insertRow = `insert into ` + Table + ` (id, run) values ($1, $2) returning coalesce(inet_server_port(), current_setting('port')::int)`

// Ack is one write that a server acknowledged.
type Ack struct {
	ID     int64
	At     time.Time // when the client had the acknowledgement
	Opened time.Time // when the client began to open the connection
	Port   int       // of the server
}

// journal keeps what one run of a client wrote and was told.
type journal struct {
	run string

	mu     sync.Mutex
	acks   []Ack
	next   int64
	errors map[string]int
	news   chan struct{} // closed and replaced at each acknowledgement
}

func newJournal(run string) *journal {
	// The upper bits tell runs apart, the lower 24 count the writes of one.
	return &journal{run: run, next: rand.Int64N(1<<38) << 24, errors: map[string]int{}, news: make(chan struct{})}
}

func (j *journal) id() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next++
	return j.next
}

func (j *journal) ack(a Ack) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acks = append(j.acks, a)
	close(j.news)
	j.news = make(chan struct{})
}

func (j *journal) failed(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.errors[reason(err)]++
}

// reason is a short name for an error, so that they can be counted.
func reason(err error) string {
	var server *pgconn.PgError
	switch {
	case errors.As(err, &server):
		return server.Code + " " + server.Message
	case pgconn.Timeout(err), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// Acks returns all acknowledged writes so far, in order.
func (j *journal) Acks() []Ack {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.acks)
}

// Errors counts the failures so far by their reason.
func (j *journal) Errors() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := make(map[string]int, len(j.errors))
	for k, v := range j.errors {
		counts[k] = v
	}
	return counts
}

// await waits until find says that the acknowledgements so far suffice.
func (j *journal) await(ctx context.Context, find func([]Ack) bool) error {
	for {
		j.mu.Lock()
		acks, news := j.acks, j.news
		j.mu.Unlock()
		if find(acks) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-news:
		}
	}
}

// insert writes one row and waits for the end of its transaction. A commit that
// was only acknowledged locally, because the wait for a synchronous standby was
// cancelled, comes with a warning: it is no acknowledgement.
func insert(ctx context.Context, c *session, j *journal) error {
	id := j.id()
	c.warned = ""
	var port int
	if err := c.QueryRow(ctx, insertRow, pgx.QueryExecModeExec, id, j.run).Scan(&port); err != nil {
		return err
	}
	if c.warned != "" {
		return fmt.Errorf("acknowledged with a warning: %s", c.warned)
	}
	j.ack(Ack{ID: id, At: time.Now(), Opened: c.opened, Port: port})
	return nil
}

// session is one connection of a client.
type session struct {
	*pgx.Conn
	opened time.Time
	warned string // the last warning of the server, "" when there was none
}

// open connects; each host has perHost to answer, and they are tried in turn.
func open(ctx context.Context, dsn string, perHost time.Duration, application string) (*session, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("lab: the connection string cannot be read; expected postgres://user@host:port/database")
	}
	s := &session{opened: time.Now()}
	config.ConnectTimeout = perHost
	config.DialFunc = dial
	config.RuntimeParams["application_name"] = application
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			s.warned = n.Message
		}
	}
	s.Conn, err = pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// dial refuses a connection that met itself: a client that tries a dead port of
// this host some thousand times is given that very port as its own, and would
// keep the server from starting there again.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok && c.LocalAddr().String() == c.RemoteAddr().String() {
		_ = tcp.SetLinger(0)
		c.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Addr: c.RemoteAddr(), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return c, nil
}

// discard ends a session without waiting for the server.
func (s *session) discard() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Close(ctx)
}

// Verification compares what was acknowledged with what is there.
type Verification struct {
	Acknowledged int
	Present      int     // of those acknowledged
	Unclaimed    int     // rows that are there though their acknowledgement never came: allowed
	Lost         []int64 // acknowledged, and not there
}

// verify reads the rows of a run back.
func (j *journal) verify(ctx context.Context, dsn string) (Verification, error) {
	acks := j.Acks() // before the reading: the client may still be writing
	var ids []int64
	err := retry(ctx, func() error {
		c, err := open(ctx, dsn, 2*time.Second, "lab-verify")
		if err != nil {
			return err
		}
		defer c.discard()
		rows, err := c.Query(ctx, `select id from `+Table+` where run = $1 order by id`, pgx.QueryExecModeExec, j.run)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	if err != nil {
		return Verification{}, fmt.Errorf("lab: read the rows of run %s back: %w", j.run, err)
	}
	v := Verification{Acknowledged: len(acks)}
	for _, a := range acks {
		if _, there := slices.BinarySearch(ids, a.ID); there {
			v.Present++
		} else {
			v.Lost = append(v.Lost, a.ID)
		}
	}
	v.Unclaimed = len(ids) - v.Present
	return v, nil
}

// retry tries until it works or ctx ends; the last error tells why it did not.
func retry(ctx context.Context, try func() error) error {
	var last error
	err := poll(ctx, 20*time.Millisecond, func() bool {
		err := try()
		if err != nil && (ctx.Err() == nil || last == nil) {
			last = err
		}
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("%w; the last try: %w", err, last)
	}
	return nil
}
