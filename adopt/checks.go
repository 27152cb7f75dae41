package adopt

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/interrex-ha/interrex/config"
)

// checks are the questions about one node, in the order of the report. Each
// reads what was seen and adds findings; none asks anything more.
var checks = []func(v *view, all []view){
	checkVersion, checkRole, checkPassfile, checkReplication, checkAutostart, checkStreaming, checkStandby,
	checkRoom, checkRewind, checkDurability, checkSynchronous, checkSlots, checkDisk,
}

// ownChecks look at files, and are asked where the node is.
var ownChecks = []func(v *view){checkDirectory, checkManagers, checkPlaces}

// judge turns what was seen into a report. What could not be seen of one node
// takes no part in comparisons.
func judge(all []view) Report {
	r := Report{sockets: map[string]string{}, logs: map[string]string{}}
	var primaries []string
	for i := range all {
		v := &all[i]
		r.Nodes = append(r.Nodes, v.node)
		if v.place.socket != "" {
			r.sockets[v.node.Name] = v.place.socket
		}
		if v.log != "" {
			r.logs[v.node.Name] = v.log
		}
		if v.facts != nil && v.facts.Settings != nil && !v.facts.Recovery {
			primaries = append(primaries, v.node.Name)
			r.systemID = v.facts.SystemID
		}
	}
	cluster := checkCluster(all, primaries)
	if len(primaries) == 1 {
		r.Primary = primaries[0]
	}
	for i := range all {
		v := &all[i]
		switch {
		case v.facts == nil:
		case v.facts.Settings == nil: // no superuser: nothing else is known
			checkRole(v, all)
		default:
			for _, check := range checks {
				check(v, all)
			}
		}
		r.Findings = append(r.Findings, v.early...)
	}
	r.Findings = append(r.Findings, cluster...)
	return r
}

// checkCluster asks what only all nodes together can answer.
func checkCluster(all []view, primaries []string) []Finding {
	var out []Finding
	add := func(level Level, check, format string, args ...any) {
		out = append(out, Finding{Level: level, Check: check, Message: fmt.Sprintf(format, args...)})
	}
	ids, versions, ports := map[string][]string{}, map[int][]string{}, map[string]string{}
	silent := 0
	for _, v := range all {
		if v.facts == nil || v.facts.Settings == nil {
			silent++
			continue
		}
		ids[v.facts.SystemID] = append(ids[v.facts.SystemID], v.node.Name)
		versions[v.facts.major()] = append(versions[v.facts.major()], v.node.Name)
		address := fmt.Sprintf("%s:%d", v.node.Host, v.node.Port)
		if other, taken := ports[address]; taken {
			add(Refuse, "address", "%s and %s have the same address %s; correct INTERREX_NODE_*_PORT", other, v.node.Name, address)
		}
		ports[address] = v.node.Name
	}
	switch {
	case len(primaries) == 1:
		add(OK, "primary", "%s is the primary", primaries[0])
	case len(primaries) > 1:
		add(Refuse, "primary", "%s all take writes; exactly one may be a primary: stop the others and make them standbys of it", strings.Join(primaries, ", "))
	case silent > 0:
		add(Refuse, "primary", "no primary was seen; %d nodes could not be looked at", silent)
	default:
		add(Refuse, "primary", "no node takes writes: name the primary as a node too, or promote the standby that shall be it")
	}
	if len(ids) > 1 {
		add(Refuse, "system", "the nodes are not copies of one database system: %s; take out those that do not belong here", groups(ids))
	}
	if len(versions) > 1 {
		add(Refuse, "version", "the nodes have different major versions: %s; streaming replication needs one", groups(versions))
	}
	return out
}

func checkVersion(v *view, _ []view) {
	major := v.facts.major()
	if major < Oldest || major > Newest {
		v.found(Refuse, "version", "", AtOnce, "PostgreSQL %s is not supported: versions %d to %d are", v.facts.Text, Oldest, Newest)
		return
	}
	v.found(OK, "version", "", AtOnce, "PostgreSQL %s, system %s, %s", v.facts.Text, v.facts.SystemID, role(v.facts))
}

func role(f *facts) string {
	if f.Recovery {
		return "a standby"
	}
	return "the primary"
}

func checkDirectory(v *view) {
	if says := v.facts.value("data_directory"); !sameDirectory(says, v.node.DataDirectory) {
		v.found(Refuse, "directory", fmt.Sprintf("INTERREX_NODE_%d_PORT or INTERREX_NODE_%d_DATA_DIRECTORY", v.node.ID, v.node.ID), AtOnce,
			"the server at %s:%d works in %s, not in %s", v.node.Host, v.node.Port, says, v.node.DataDirectory)
	}
	if uid := os.Geteuid(); uid != 0 && uint32(uid) != v.place.owner {
		v.found(Refuse, "directory", "", AtOnce, "%s belongs to uid %d and interrex runs as uid %d; run it as root or as the owner", v.node.DataDirectory, v.place.owner, uid)
	}
}

func checkRole(v *view, _ []view) {
	if v.facts.Settings != nil {
		v.found(OK, "role", "", AtOnce, "%s is a superuser", v.node.User)
		return
	}
	v.found(Refuse, "role", fmt.Sprintf("ALTER ROLE \"%s\" SUPERUSER;", v.node.User), AtOnce,
		"%s is no superuser; this release needs one (stopping sessions, pg_promote, settings, pg_rewind), and nothing more can be said of this node without", v.node.User)
}

// checkPassfile: libpq ignores a password file that others may read, without
// failing, and pg_rewind and the walreceiver are libpq.
func checkPassfile(v *view, _ []view) {
	if v.node.Passfile == "" {
		return
	}
	info, err := os.Stat(v.node.Passfile)
	if err != nil {
		v.found(Refuse, "passfile", "", AtOnce, "the password file cannot be read: %v", err)
		return
	}
	if info.Mode().Perm()&0o077 != 0 {
		v.found(Refuse, "passfile", "chmod 0600 "+v.node.Passfile, AtOnce,
			"others may read %s (mode %04o); PostgreSQL's programs ignore such a file", v.node.Passfile, info.Mode().Perm())
	}
}

func checkReplication(v *view, _ []view) {
	f := v.facts
	if len(f.HBAErrors) > 0 {
		v.found(Refuse, "hba", f.value("hba_file"), Reload, "pg_hba.conf has errors, so that no change of it takes effect: %s", strings.Join(f.HBAErrors, "; "))
	}
	if v.replicas == nil {
		v.found(OK, "hba", "", AtOnce, "%s may replicate from here", v.node.User)
		return
	}
	fix, takes := connectFix(v.node, "replication", v.replicas)
	if v.node.Passfile == "" {
		fix, takes = peerLine(v.node, "replication"), Reload
	}
	var pg *pgconn.PgError
	if errors.As(v.replicas, &pg) && pg.Code == "42501" {
		fix = fmt.Sprintf("ALTER ROLE \"%s\" REPLICATION;", v.node.User)
	}
	v.found(Refuse, "hba", strings.Replace(fix, "pg_hba.conf", f.value("hba_file"), 1), takes,
		"the other nodes could not replicate from here once it is primary: %v", brief(v.replicas))
}

func checkAutostart(v *view, _ []view) {
	switch {
	case v.boot.auto:
		v.found(Refuse, "autostart", v.boot.fix, AtOnce,
			"%s: after a crash of the host an old primary would take writes before anybody asked whether it still is one", v.boot.how)
	case v.boot.how != "":
		v.found(OK, "autostart", "", AtOnce, "%s: only Interrex starts it", v.boot.how)
	default:
		v.found(Warn, "autostart", "", AtOnce, "no unit is known that starts this server; make sure that nothing but Interrex does (INTERREX_NODE_%d_SERVICE names a unit)", v.node.ID)
	}
}

// checkStreaming looks at a standby's receiver.
func checkStreaming(v *view, all []view) {
	if !v.facts.Recovery {
		return
	}
	rc := v.facts.Receiver
	if rc == nil || rc.Status != "streaming" {
		v.found(Warn, "streaming", "", AtOnce, "this standby does not stream now; until it does it is no candidate")
		return
	}
	for _, p := range all {
		if p.facts == nil || p.facts.Settings == nil || p.facts.Recovery {
			continue
		}
		if rc.Port != p.node.Port && rc.Port != p.facts.number("port") {
			v.found(Warn, "streaming", "", AtOnce, "it streams from %s:%d, not from the primary %s; Interrex will lead it to the primary", rc.Host, rc.Port, p.node.Name)
			return
		}
	}
	v.found(OK, "streaming", "", AtOnce, "it streams from %s:%d", rc.Host, rc.Port)
}

// checkStandby looks at settings that stand in the way of leading a standby.
func checkStandby(v *view, _ []view) {
	f := v.facts
	for _, name := range []string{"primary_conninfo", "primary_slot_name", "recovery_target_timeline"} {
		if f.Settings[name].Source == "command line" {
			v.found(Refuse, "conninfo", fmt.Sprintf("remove -c %s=… from what starts the server", name), Restart,
				"%s stands on the server's command line, where no change reaches it: this standby could not be told to stop following an old primary", name)
		}
	}
	if t := f.value("recovery_target_timeline"); t != "latest" {
		v.found(Refuse, "timeline", "recovery_target_timeline = 'latest' in "+v.node.ConfigFile, Restart,
			"recovery_target_timeline is '%s'; a standby could not follow a promotion", t)
	}
	checkEndOfRecovery(v)
	if d := f.value("recovery_min_apply_delay"); d != "0" && d != "" {
		v.found(Warn, "delay", "recovery_min_apply_delay = 0 in "+f.whence("recovery_min_apply_delay", v.node.ConfigFile), Reload,
			"recovery_min_apply_delay is %s ms: a delayed standby takes so long to be promoted", d)
	}
	if f.value("hot_standby") == "off" {
		v.found(Refuse, "hot_standby", "hot_standby = on in "+f.whence("hot_standby", v.node.ConfigFile), Restart, "a standby that takes no connections cannot be probed")
	}
	if f.Recovery && f.value("restore_command") != "" {
		v.found(OK, "restore", "", AtOnce, "restore_command is left as it is; Interrex saves and restores it where it must be off for a moment")
	}
}

// checkEndOfRecovery refuses what could make a standby end its recovery by
// itself: a second primary that nobody decided on.
func checkEndOfRecovery(v *view) {
	f := v.facts
	for _, name := range []string{"promote_trigger_file", "recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"} {
		value := f.value(name)
		if value == "" {
			continue
		}
		fix := fmt.Sprintf("%s = '' in %s", name, f.whence(name, v.node.ConfigFile))
		if f.Recovery || v.node.Executor == config.ExecutorDocker { // a container that is killed as a whole gets standby.signal and nothing more
			v.found(Refuse, "recovery_target", fix, Restart, "%s is '%s': this standby could end its recovery without a decision", name, value)
		} else {
			v.found(Warn, "recovery_target", fix, Reload, "%s is '%s'; Interrex makes it void in postgresql.auto.conf before this node becomes a standby", name, value)
		}
	}
}

// whence is the file that a setting comes from; where none is known, the one
// to write it to.
func (f facts) whence(name, otherwise string) string {
	if file := f.Settings[name].File; file != "" {
		return file
	}
	return otherwise
}
