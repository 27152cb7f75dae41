package executors

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// rewind takes back what the upstream's history lacks. The data directory has
// lost its name from before its own crash recovery until standby.signal and the
// connection to the upstream are durably in it; pg_rewind itself removes
// standby.signal and brings the upstream's configuration.
func (r *recovery) rewind() error {
	if err := r.quarantine(); err != nil {
		return err
	}
	if err := r.recoverCrash(); err != nil {
		return errors.Join(err, r.unquarantine())
	}
	if err := r.step("rewind"); err != nil {
		return err
	}
	dir := r.at.at(placeRejoin)
	if err := r.p.Runner.Rename(r.ctx, r.at.at(placeRecovering), dir); err != nil {
		return err
	}
	if err := r.runRewind(dir); err != nil {
		return err
	}
	own, err := loadConfiguration(r.at.at(placeConf))
	if err != nil {
		return err
	}
	if err := r.step("configure"); err != nil {
		return err
	}
	if err := r.provide(); err != nil {
		return err
	}
	if err := own.write(r.ctx, r.p.Runner, dir); err != nil {
		return err
	}
	if err := configureStandby(r.ctx, r.p, dir, followSettings(r.p, r.up)); err != nil {
		return err
	}
	if err := r.p.Runner.Rename(r.ctx, dir, r.at.at(placeReady)); err != nil {
		return err
	}
	return r.finish(HowRewind)
}

// finish gives the ready directory its name and starts it.
func (r *recovery) finish(how string) error {
	if err := r.swap(); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	r.result.How = how
	return r.forget()
}

func (r *recovery) quarantine() error {
	if err := r.step("quarantine"); err != nil {
		return err
	}
	own, err := readConfiguration(r.at.data)
	if err != nil {
		return err
	}
	if err := saveConfiguration(r.ctx, r.p.Runner, r.at.at(placeConf), own); err != nil {
		return err
	}
	return r.at.setAside(r.ctx, r.at.at(placeRecovering))
}

// unquarantine gives back the name of a directory that is not damaged.
func (r *recovery) unquarantine() error {
	dir := r.at.at(placeRecovering)
	if err := r.p.Runner.WriteFile(r.ctx, filepath.Join(dir, "standby.signal"), nil, 0o600); err != nil {
		return err
	}
	return r.at.bring(r.ctx, dir)
}

// keepAllWAL is the largest wal_keep_size (guc_tables.c).
const keepAllWAL = "2147483647MB"

// recoverCrash has a single-user server replay the node's own WAL to its end,
// which pg_rewind needs and cannot do by itself where the configuration lies
// elsewhere. Nothing is archived; without a signal file nothing is restored; no
// WAL is removed by the checkpoint at its end, since pg_rewind reads back to the
// last checkpoint that both histories have.
func (r *recovery) recoverCrash() error {
	p := r.p
	p.DataDir = r.at.at(placeRecovering)
	c, err := ReadControl(r.ctx, p)
	if err != nil {
		return err
	}
	if err := r.step("crash recovery"); err != nil {
		return err
	}
	for _, name := range []string{"standby.signal", "recovery.signal", "postmaster.pid"} {
		if err := p.Runner.Remove(r.ctx, filepath.Join(p.DataDir, name)); err != nil {
			return err
		}
	}
	if c.State == "shut down" {
		return nil
	}
	config := filepath.Join(p.DataDir, "postgresql.conf")
	if p.ConfigFile != "" {
		config = p.ConfigFile
	}
	args := []string{"--single", "-D", p.DataDir, "-c", "config_file=" + config, "-c", "data_directory=" + p.DataDir,
		"-c", "archive_mode=off", "-c", "wal_keep_size=" + keepAllWAL}
	if p.HBAFile != "" {
		args = append(args, "-c", "hba_file="+p.HBAFile)
	}
	_, err = p.Runner.Run(r.ctx, Command{Path: p.Bin("postgres"), Args: append(args, "template1"), Dir: p.DataDir, Env: []string{"LC_ALL=C"}, Stdin: []byte{}})
	if err != nil {
		return fmt.Errorf("crash recovery of %s: %w", p.DataDir, err)
	}
	if c, err = ReadControl(r.ctx, p); err == nil && c.State != "shut down" {
		err = fmt.Errorf("crash recovery of %s ended, but pg_control says %q, expected \"shut down\"", p.DataDir, c.State)
	}
	return err
}

// runRewind runs pg_rewind as the node's superuser. The password is in a
// passfile for as long as it runs.
func (r *recovery) runRewind(dir string) error {
	passfile := r.up.Passfile
	if r.p.Password != "" {
		passfile = r.at.at(placeAdmin)
		admin := r.up
		admin.User, admin.Password = r.p.User, r.p.Password
		if err := fitsPassfile(admin); err != nil {
			return err
		}
		line, _ := mergePassfile(nil, admin)
		if err := r.p.Runner.WriteFile(r.ctx, passfile, line, 0o600); err != nil {
			return err
		}
		defer os.Remove(passfile)
	}
	db := r.p.Database
	if db == "" {
		db = "postgres"
	}
	// The planner takes pg_rewind's query for the list of files for so dear that
	// compiling it (jit) takes most of a quarter of a second; it runs for 10 ms.
	env := append(clientEnv(passfile), "PGOPTIONS=-c jit=off")
	c := Command{
		Path: r.p.Bin("pg_rewind"),
		Args: []string{"--target-pgdata=" + dir, "--no-ensure-shutdown", "--progress",
			"--source-server=" + clientConninfo(r.up, r.p.User) + " dbname=" + quoteConninfo(db)},
		Dir: dir, Env: env, Line: r.copied(HowRewind),
	}
	out, err := r.p.Runner.Run(r.ctx, c)
	if err != nil {
		return err
	}
	if said := string(out.Stdout) + string(out.Stderr); strings.Contains(said, "no rewind required") {
		return errors.New("pg_rewind finds nothing to do, although the histories differ")
	}
	return nil
}

func clientConninfo(up Upstream, user string) string {
	s := fmt.Sprintf("host=%s port=%d user=%s connect_timeout=5 application_name=%s", quoteConninfo(up.Host), up.Port, quoteConninfo(user), ApplicationName)
	if up.SSLMode != "" && !strings.HasPrefix(up.Host, "/") {
		s += " sslmode=" + quoteConninfo(up.SSLMode)
	}
	return s
}

// clientEnv is the environment of PostgreSQL's programs: messages in English,
// since some are read, and the password's file.
func clientEnv(passfile string) []string {
	env := []string{"LC_ALL=C", "PGCONNECT_TIMEOUT=5"}
	if passfile != "" {
		env = append(env, "PGPASSFILE="+passfile)
	}
	return env
}

var copiedLine = regexp.MustCompile(`(\d+)/(\d+) kB`)

// copied reads the progress that pg_rewind and pg_basebackup print alike.
func (r *recovery) copied(step string) func(string) {
	return func(line string) {
		m := copiedLine.FindStringSubmatch(line)
		if m == nil {
			return
		}
		done, err := strconv.ParseUint(m[1], 10, 54)
		total, err2 := strconv.ParseUint(m[2], 10, 54)
		if err == nil && err2 == nil {
			r.o.Progress(step, done<<10, total<<10)
		}
	}
}
