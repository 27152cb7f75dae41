package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/natslog"
	"github.com/interrex-ha/interrex/fsm"
)

// story follows a cluster's log with the reader's key and keeps all of it.
type story struct {
	log  *natslog.Log
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	all  []events.Event
	now  fsm.State
	err  error
	news chan struct{} // closed and replaced at each event
}

// address is DIR/log.json.
type address struct {
	URL     string `json:"url"`
	Cluster string `json:"cluster"`
	PID     int    `json:"pid"`
}

func readAddress(dir string) (address, error) {
	var a address
	b, err := os.ReadFile(filepath.Join(dir, "log.json"))
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(b, &a)
}

// dial opens the log of a cluster's directory in a role.
func dial(dir string, role natslog.Role) (*natslog.Log, error) {
	a, err := readAddress(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return natslog.Dial(ctx, natslog.DialOptions{
		Cluster: a.Cluster, KeyFile: natslog.KeyFile(filepath.Join(dir, "keys"), role), Name: "test",
		Locate: func() (string, error) {
			now, err := readAddress(dir)
			return now.URL, err
		},
	})
}

func follow(dir string) (*story, error) {
	log, err := dial(dir, natslog.RoleReader)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	st := &story{log: log, stop: stop, done: make(chan struct{}), now: fsm.Initial(), news: make(chan struct{})}
	go func() {
		defer close(st.done)
		err := log.Read(ctx, events.Query{Follow: true}, st.take)
		st.mu.Lock()
		defer st.mu.Unlock()
		st.err = fmt.Errorf("the log is not read any more: %w", err)
		close(st.news)
		st.news = make(chan struct{})
	}()
	return st, nil
}

func (st *story) take(e events.Event) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	s, err := fsm.Fold(st.now, e)
	if err != nil {
		return err
	}
	st.now, st.all = s, append(st.all, e)
	close(st.news)
	st.news = make(chan struct{})
	return nil
}

func (st *story) close() {
	st.stop()
	st.log.Close()
	<-st.done
}

func (st *story) state() fsm.State {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.now
}

// since returns the events after a sequence.
func (st *story) since(after uint64) []events.Event {
	st.mu.Lock()
	defer st.mu.Unlock()
	i := len(st.all)
	for i > 0 && st.all[i-1].Seq > after {
		i--
	}
	return st.all[i:len(st.all):len(st.all)]
}

// decisions returns the decisions by a rule after a sequence.
func (st *story) decisions(after uint64) []events.Event {
	var out []events.Event
	for _, e := range st.since(after) {
		if _, ok := e.Data.(events.Decided); ok {
			out = append(out, e)
		}
	}
	return out
}

func (st *story) await(within time.Duration, ok func(fsm.State) bool) (fsm.State, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		st.mu.Lock()
		s, news, err := st.now, st.news, st.err
		st.mu.Unlock()
		if ok(s) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		select {
		case <-news:
		case <-timer.C:
			return s, fmt.Errorf("not within %s; the cluster is %s in term %d, primary %s", within, s.Phase, s.Term, s.Primary)
		}
	}
}

// tail is the end of the log as people read it.
func (st *story) tail(n int) string {
	all := st.since(0)
	var b strings.Builder
	for _, e := range all[max(0, len(all)-n):] {
		fmt.Fprintf(&b, "%6d %s %-16s %s\n", e.Seq, e.Time.Local().Format("15:04:05.000"), e.Source, events.Sentence(e.Data))
	}
	return b.String()
}

// processesAbout returns the processes that work in a directory or below, or
// name it on their command line; zombies are none.
func processesAbout(dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		about := strings.HasPrefix(strings.TrimSuffix(cwd, " (deleted)")+"/", dir+"/") || strings.Contains(string(args), dir)
		if about && len(args) > 0 {
			found = append(found, pid)
		}
	}
	return found
}
