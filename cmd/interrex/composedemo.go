package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/fsm"
	"github.com/interrex-ha/interrex/view"
)

// Bounds of one step of the demo, generous: a loaded machine takes longer.
const (
	composeStep  = 90 * time.Second
	composeFirst = 5 * time.Minute // images are built, and the first start
	composeEnd   = 60 * time.Second
)

// lossWindow is how long before a fault a write may have been acknowledged that
// is lost by it: asynchronous standbys are milliseconds behind.
const lossWindow = 2 * time.Second

func newComposeDemoCommand() *cobra.Command {
	var files string
	c := &cobra.Command{
		Use:   "compose-demo",
		Short: "docker-compose.yml's cluster under faults: kill a container, freeze one, cut one off",
		Long: `Builds the image if needed, starts the project under a name of its own, and takes
everything away at the end, also when it fails or is interrupted. Wants Docker,
docker compose (or docker-compose) and the directory of docker-compose.yml.`,
		Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &composeDemo{out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), dir: files}
			return d.run(cmd.Context())
		},
	}
	c.Flags().StringVar(&files, "files", ".", "directory of docker-compose.yml")
	return c
}

// composeDemo is one performance.
type composeDemo struct {
	out, errs io.Writer
	dir       string
	compose   []string // the command and its first words
	env       []string
	project   string
	ids       map[string]string // containers, by service
	faults    []time.Time
	alive     time.Time // when a primary that is cut off was last seen to answer
	reports   int
}

func (d *composeDemo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *composeDemo) run(ctx context.Context) (err error) {
	began := time.Now()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	secrets := filepath.Join(os.TempDir(), d.project)
	d.env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+d.project, "INTERREX_SECRETS="+secrets, "INTERREX_TAG=demo", "INTERREX_API_PORT=") // any free port
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), composeEnd)
		defer cancel()
		_, down := d.composed(end, "down", "-v", "-t", "1", "--remove-orphans")
		err = errors.Join(err, down, os.RemoveAll(secrets))
		if err == nil {
			d.say("\nEverything above was true, and is taken away again (%s). Exit status 0.", time.Since(began).Round(time.Second))
		}
	}()
	if err := makeComposeSecrets(secrets); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"1. docker compose up: five containers, three of them with PostgreSQL", d.start},
		{"2. docker kill: the primary's container", d.kill},
		{"3. docker pause: the primary's container is frozen, and thawed when another one serves", d.freeze},
		{"4. docker network disconnect: the primary is cut off, and lives on", d.cut},
		{"5. Every decision again, from the log", d.replay},
		{"6. What the client was told", d.account},
	} {
		d.say("\n%s", s.name)
		if err := s.do(ctx); err != nil {
			d.say("   not true: %v", err)
			return errors.Join(fmt.Errorf("compose demo, step %q: %w", s.name, err), d.tellWhy(ctx))
		}
	}
	return nil
}

// prepare looks for what the demo stands on.
func (d *composeDemo) prepare(ctx context.Context) error {
	dir, err := filepath.Abs(d.dir)
	if err != nil {
		return err
	}
	d.dir, d.project = dir, fmt.Sprintf("interrex-demo-%d", os.Getpid())
	if !exists(filepath.Join(dir, "docker-compose.yml")) {
		return usage("%s holds no docker-compose.yml: give the project's directory with --files", dir)
	}
	if _, err := d.command(ctx, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("the Docker daemon does not answer; start it, or set DOCKER_HOST: %w", err)
	}
	for _, words := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if _, err := d.command(ctx, words[0], append(slices.Clone(words[1:]), "version")...); err == nil {
			d.compose = words
			return nil
		}
	}
	return errors.New("neither docker compose nor docker-compose is here; install one: scripts/setup.sh compose")
}

// command runs a program to its end and returns its standard output.
func (d *composeDemo) command(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = d.dir, d.env
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		if len(said) > 2000 {
			said = "…" + said[len(said)-2000:]
		}
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said)
	}
	return out.String(), nil
}

func (d *composeDemo) composed(ctx context.Context, args ...string) (string, error) {
	return d.command(ctx, d.compose[0], append(slices.Clone(d.compose[1:]), args...)...)
}

func (d *composeDemo) docker(ctx context.Context, args ...string) (string, error) {
	return d.command(ctx, "docker", args...)
}

// interrex runs a command in the container of the log, as a person would.
func (d *composeDemo) interrex(ctx context.Context, args ...string) (string, error) {
	return d.docker(ctx, append([]string{"exec", d.ids["log"], "interrex"}, args...)...)
}

// show runs a command there and shows it with its output.
func (d *composeDemo) show(ctx context.Context, args ...string) error {
	d.say("   $ interrex %s", quoted(args))
	out, err := d.interrex(ctx, args...)
	if err == nil {
		_, err = indent{d.out}.Write([]byte(out))
	}
	return err
}

func (d *composeDemo) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, composeFirst)
	defer cancel()
	if _, err := d.composed(ctx, "build", "log"); err != nil {
		return err
	}
	at := time.Now()
	if _, err := d.composed(ctx, "up", "-d", "--no-build"); err != nil {
		return err
	}
	d.ids = map[string]string{}
	for _, service := range []string{"log", "api", "db1", "db2", "db3", "client"} {
		id, err := d.composed(ctx, "ps", "-q", service)
		if err != nil {
			return err
		}
		if d.ids[service] = strings.TrimSpace(id); d.ids[service] == "" {
			return fmt.Errorf("the service %s has no container", service)
		}
	}
	s, err := d.await(ctx, "three nodes that serve", func(s shown) bool { return s.serves("") && s.streaming() == 2 })
	if err != nil {
		return err
	}
	d.say("   db1 was made from nothing, db2 and db3 as copies of it, %s after the containers were started", time.Since(at).Round(100*time.Millisecond))
	if _, err := d.report(ctx); err != nil {
		return err
	}
	d.say("   A client writes a row every 10 ms; the primary is %s", s.Primary)
	if err := d.show(ctx, "status"); err != nil {
		return err
	}
	return d.overHTTP(ctx)
}

// overHTTP asks the API as a load balancer does, through the port that is
// published on loopback, and whether it keeps its token.
func (d *composeDemo) overHTTP(ctx context.Context) error {
	where, err := d.docker(ctx, "port", d.ids["api"], "8008/tcp")
	if err != nil {
		return err
	}
	where, _, _ = strings.Cut(strings.TrimSpace(where), "\n")
	s, err := d.await(ctx, "a healthy cluster", func(s shown) bool { return s.serves("") && s.streaming() == 2 })
	if err != nil {
		return err
	}
	for _, q := range []struct {
		path string
		want int
	}{{"/nodes/" + s.Primary + "/primary", http.StatusOK}, {"/nodes/" + s.Primary + "/replica", http.StatusServiceUnavailable}, {"/v1/cluster", http.StatusUnauthorized}} {
		got, err := awaitCode(ctx, "http://"+where+q.path, q.want)
		d.say("   $ curl http://%s%s   → %d", where, q.path, got)
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitCode asks until the answer is the one wanted: the API may have to catch up.
func awaitCode(ctx context.Context, url string, want int) (got int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if got = res.StatusCode; got == want {
				return got, nil
			}
		}
		select {
		case <-ctx.Done():
			return got, errors.Join(fmt.Errorf("%s answers %d, expected %d: %w", url, got, want, context.Cause(ctx)), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// shown is what `interrex status` says.
type shown struct{ view.Status }

// serves reports whether the cluster has a primary other than the one named.
func (s shown) serves(old string) bool {
	return s.Phase == string(events.Healthy) && s.Primary != "" && s.Primary != old && s.up(s.Primary)
}

func (s shown) up(node string) bool {
	return slices.ContainsFunc(s.Nodes, func(n view.Node) bool {
		return n.Name == node && (n.Status == fsm.StatusWaiting || n.Status == fsm.StatusUp)
	})
}

func (s shown) streaming() int {
	count := 0
	for _, n := range s.Nodes {
		if n.Role == "standby" && s.up(n.Name) {
			count++
		}
	}
	return count
}

// await looks at the status until it is as wanted. It returns the primary's name
// with it.
func (d *composeDemo) await(ctx context.Context, what string, ok func(shown) bool) (shown, error) {
	ctx, cancel := context.WithTimeout(ctx, composeStep)
	defer cancel()
	var s shown
	for {
		out, err := d.interrex(ctx, "status", "--output", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		if err == nil && ok(s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("waited for %s; the cluster is %s, its primary %s: %w", what, s.Phase, s.Primary, errors.Join(context.Cause(ctx), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// primary is who takes writes now.
func (d *composeDemo) primary(ctx context.Context) (string, error) {
	s, err := d.await(ctx, "a healthy cluster", func(s shown) bool { return s.serves("") && s.streaming() == 2 })
	return s.Primary, err
}

// fault does something to the primary and waits until another node serves.
func (d *composeDemo) fault(ctx context.Context, break_ func(old string) error, meanwhile func(ctx context.Context, old string, at time.Time) error) (old string, err error) {
	if old, err = d.primary(ctx); err != nil {
		return "", err
	}
	at := time.Now()
	if err := break_(old); err != nil {
		return old, err
	}
	d.faults = append(d.faults, at)
	if meanwhile != nil {
		if err := meanwhile(ctx, old, at); err != nil {
			return old, err
		}
	}
	s, err := d.await(ctx, "another primary than "+old, func(s shown) bool { return s.serves(old) })
	if err != nil {
		return old, err
	}
	r, err := d.report(ctx)
	if err != nil {
		return old, err
	}
	d.say("   %s → %s; outage that the client felt: %.0f ms; rows acknowledged %d, present %d, lost %d", old, s.Primary, r.PauseMillis, r.Acknowledged, r.Present, len(r.Lost))
	if err := d.show(ctx, "status"); err != nil {
		return old, err
	}
	return old, d.show(ctx, "explain")
}

// rejoin asks for the old primary's recovery until its agent is there to be asked.
func (d *composeDemo) rejoin(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, composeStep)
	defer cancel()
	began := time.Now()
	for {
		out, err := d.interrex(ctx, "recover", node, "--yes")
		if err == nil {
			d.say("   $ interrex recover %s --yes\n   %s", node, strings.TrimSpace(out))
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not come back: %w", node, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
	_, err := d.await(ctx, node+" to be a standby", func(s shown) bool { return s.serves(node) && s.up(node) && s.streaming() == 2 })
	if err == nil {
		d.say("   %s is a standby again, %s after it was let back in", node, time.Since(began).Round(100*time.Millisecond))
	}
	return err
}

func (d *composeDemo) kill(ctx context.Context) error {
	old, err := d.fault(ctx, func(old string) error { _, err := d.docker(ctx, "kill", d.ids[old]); return err }, nil)
	if err != nil {
		return err
	}
	if _, err := d.docker(ctx, "start", d.ids[old]); err != nil {
		return err
	}
	return d.rejoin(ctx, old)
}

func (d *composeDemo) freeze(ctx context.Context) error {
	old, err := d.fault(ctx, func(old string) error { _, err := d.docker(ctx, "pause", d.ids[old]); return err }, nil)
	if err != nil {
		return err
	}
	if _, err := d.docker(ctx, "unpause", d.ids[old]); err != nil {
		return err
	}
	d.say("   thawed: %s finds its lease over and may write nothing more", old)
	return d.rejoin(ctx, old)
}

func (d *composeDemo) cut(ctx context.Context) error {
	network := d.project + "_private"
	old, err := d.fault(ctx, func(old string) error {
		_, err := d.docker(ctx, "network", "disconnect", network, d.ids[old])
		return err
	}, d.watchEnd)
	if err != nil {
		return err
	}
	if err := d.inTime(ctx, old); err != nil {
		return err
	}
	if _, err := d.docker(ctx, "network", "connect", "--alias", old, network, d.ids[old]); err != nil {
		return err
	}
	d.say("   healed: %s is connected again", old)
	return d.rejoin(ctx, old)
}

// watchEnd asks a primary that is cut off, inside of its container, until it
// answers no more. It notes when it was last seen alive, and when gone.
func (d *composeDemo) watchEnd(ctx context.Context, old string, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, composeStep)
	defer cancel()
	for {
		asked := time.Now()
		_, err := d.docker(ctx, "exec", d.ids[old], "pg_isready", "-q", "-h", "127.0.0.1", "-t", "1")
		var exit *exec.ExitError
		switch {
		case err == nil:
			d.alive = asked
		case errors.As(err, &exit) && exit.ExitCode() == 2:
			d.say("   cut off, %s stopped its own PostgreSQL: gone %.1f s after the cut", old, time.Since(at).Seconds())
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s goes on although it is cut off: %w", old, errors.Join(context.Cause(ctx), err))
		}
	}
}

// inTime compares with the moment from which another primary could take writes.
func (d *composeDemo) inTime(ctx context.Context, old string) error {
	out, err := d.interrex(ctx, "log", "--output", "json")
	if err != nil {
		return err
	}
	cut := d.faults[len(d.faults)-1]
	named, err := namedAfter(out, cut)
	if err != nil {
		return err
	}
	if named.IsZero() || d.alive.After(named) {
		return fmt.Errorf("%s was alive %s after the cut, and another primary was named %s after it", old, d.alive.Sub(cut), named.Sub(cut))
	}
	d.say("   it was last alive %.1f s after the cut; another primary was named %.1f s after it", d.alive.Sub(cut).Seconds(), named.Sub(cut).Seconds())
	return nil
}

// namedAfter finds when a new primary was named after a moment, in the lines of
// interrex log; zero when none was yet.
func namedAfter(lines string, at time.Time) (time.Time, error) {
	dec := json.NewDecoder(strings.NewReader(lines))
	for {
		var e struct {
			Time time.Time       `json:"time"`
			Kind string          `json:"kind"`
			Data json.RawMessage `json:"data"`
		}
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) {
			return time.Time{}, nil
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("interrex log: %w", err)
		}
		if e.Kind != (events.Decided{}).Kind() || !e.Time.After(at) {
			continue
		}
		var x events.Decided
		if err := json.Unmarshal(e.Data, &x); err != nil {
			return time.Time{}, fmt.Errorf("interrex log: a decision: %w", err)
		}
		if x.Grant != nil && view.Story(x) {
			return e.Time, nil
		}
	}
}

func (d *composeDemo) replay(ctx context.Context) error { return d.show(ctx, "replay") }

// report asks the client to read back what it was told was committed.
func (d *composeDemo) report(ctx context.Context) (clientReport, error) {
	ctx, cancel := context.WithTimeout(ctx, composeStep)
	defer cancel()
	asked := time.Time{}
	for {
		out, err := d.docker(ctx, "logs", d.ids["client"])
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err == nil && out != "" && len(lines) > d.reports {
			d.reports = len(lines)
			return readReport(lines[len(lines)-1])
		}
		// It begins to listen when its first write was acknowledged; before that the
		// signal ends it, and compose starts it again.
		if time.Since(asked) > 20*time.Second {
			asked = time.Now()
			if _, err := d.docker(ctx, "kill", "-s", "USR1", d.ids["client"]); err != nil {
				return clientReport{}, err
			}
		}
		select {
		case <-ctx.Done():
			return clientReport{}, fmt.Errorf("the client does not report: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func readReport(line string) (clientReport, error) {
	var r clientReport
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return r, fmt.Errorf("the client said %q: %w", line, err)
	}
	if r.Error != "" {
		return r, errors.New("the client could not read its rows back: " + r.Error)
	}
	return r, nil
}

// account ends the client and goes through what it was told. Replication is
// asynchronous: a row may be lost that was acknowledged just before a fault.
// Any other would be a lie.
func (d *composeDemo) account(ctx context.Context) error {
	if _, err := d.docker(ctx, "stop", "-t", "60", d.ids["client"]); err != nil {
		return err
	}
	out, err := d.docker(ctx, "logs", d.ids["client"])
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) <= d.reports {
		return errors.New("the client ended without its last report")
	}
	r, err := readReport(lines[len(lines)-1])
	if err != nil {
		return err
	}
	if err := judgeLost(r, d.faults); err != nil {
		return err
	}
	d.say("   rows acknowledged %d, present %d, lost %d", r.Acknowledged, r.Present, len(r.Lost))
	if len(r.Lost) > 0 {
		d.say("   each lost row was acknowledged within %s before a fault: the asynchronous mode's promise, see interrex status; no other is missing", lossWindow)
	} else {
		d.say("   acknowledged = present")
	}
	return nil
}

// judgeLost says which lost row no fault explains.
func judgeLost(r clientReport, faults []time.Time) error {
	if r.Acknowledged == 0 || r.Present+len(r.Lost) != r.Acknowledged {
		return fmt.Errorf("of %d rows acknowledged %d are there and %d are not: the sum is wrong", r.Acknowledged, r.Present, len(r.Lost))
	}
	for _, row := range r.Lost {
		explained := slices.ContainsFunc(faults, func(at time.Time) bool {
			return row.At.After(at.Add(-lossWindow)) && row.At.Before(at.Add(lossWindow/2))
		})
		if !explained {
			return fmt.Errorf("row %d was acknowledged at %s, and is lost, though no fault was near: an acknowledged write outside of the one history", row.ID, row.At.Format(time.RFC3339Nano))
		}
	}
	return nil
}

// tellWhy shows what the containers said when a step was not true.
func (d *composeDemo) tellWhy(ctx context.Context) error {
	if ctx.Err() != nil || d.ids == nil {
		return nil
	}
	out, err := d.composed(ctx, "logs", "--no-color", "--tail", "15")
	fmt.Fprintln(d.errs, out)
	if events, err := d.interrex(ctx, "log"); err == nil {
		lines := strings.Split(events, "\n")
		fmt.Fprintln(d.errs, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return err
}
