package adopt

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// spare is how many senders and slots there must be beyond one for each node: a
// base backup takes two while it runs.
const spare = 2

// checkRoom: every node has to be able to serve all others as primary.
func checkRoom(v *view, all []view) {
	f := v.facts
	if level := f.value("wal_level"); level == "minimal" {
		v.found(Refuse, "wal_level", "wal_level = replica in "+f.whence("wal_level", v.node.ConfigFile), Restart, "wal_level is minimal: this node cannot feed a standby")
	}
	enough := true
	for _, name := range []string{"max_wal_senders", "max_replication_slots"} {
		if has, want := f.number(name), len(all)+spare; has < want {
			enough = false
			v.found(Refuse, "room", fmt.Sprintf("%s = %d in %s", name, max(want, 10), f.whence(name, v.node.ConfigFile)), Restart,
				"%s is %d; with %d nodes it must be at least %d on every node", name, has, len(all), want)
		}
	}
	if enough {
		v.found(OK, "room", "", AtOnce, "max_wal_senders %d, max_replication_slots %d", f.number("max_wal_senders"), f.number("max_replication_slots"))
	}
	checkSameLimits(v, all)
}

// checkSameLimits: a standby refuses to run with less of these than its primary
// has, so a node with more cannot be primary for the others.
func checkSameLimits(v *view, all []view) {
	for _, name := range []string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"} {
		most, whose := v.facts.number(name), v.node.Name
		for _, o := range all {
			if o.facts != nil && o.facts.Settings != nil && o.facts.number(name) > most {
				most, whose = o.facts.number(name), o.node.Name
			}
		}
		if has := v.facts.number(name); has < most {
			v.found(Refuse, "limits", fmt.Sprintf("%s = %d in %s", name, most, v.facts.whence(name, v.node.ConfigFile)), Restart,
				"%s is %d here and %d at %s: as a standby of it this node would stop", name, has, most, whose)
		}
	}
}

func checkRewind(v *view, _ []view) {
	f := v.facts
	switch {
	case f.value("data_checksums") == "on":
		v.found(OK, "rewind", "", AtOnce, "data checksums are on: an old primary can come back by pg_rewind")
	case f.value("wal_log_hints") == "on":
		v.found(OK, "rewind", "", AtOnce, "wal_log_hints is on: an old primary can come back by pg_rewind")
	default:
		v.found(Warn, "rewind", "wal_log_hints = on in "+f.whence("wal_log_hints", v.node.ConfigFile), Restart,
			"neither data checksums nor wal_log_hints: an old primary comes back by a whole base backup only")
	}
}

func checkDurability(v *view, _ []view) {
	for _, c := range []struct{ name, why string }{
		{"fsync", "after a crash of the host this server is not what it acknowledged"},
		{"full_page_writes", "after a crash of the host pages may be torn, also on a standby that is promoted"},
	} {
		if v.facts.value(c.name) == "off" {
			v.found(Refuse, c.name, c.name+" = on in "+v.facts.whence(c.name, v.node.ConfigFile), Reload, "%s is off: %s", c.name, c.why)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.facts.Settings)) {
		if v.facts.Settings[name].Pending {
			v.found(Warn, "pending", "", Restart, "%s was changed in the file and waits for a restart; at the next failover it takes effect", name)
		}
	}
}

// checkSynchronous: the standbys of a primary that is taken over connect anew,
// with their nodes' names as application_name. Names that fit none of them would
// make every write wait for ever.
func checkSynchronous(v *view, all []view) {
	value := v.facts.value("synchronous_standby_names")
	if value == "" {
		return
	}
	names := synchronousNames(value)
	met := slices.Contains(names, "*") || slices.ContainsFunc(all, func(o view) bool {
		return o.node.Name != v.node.Name && slices.Contains(names, o.node.Name)
	})
	if !met && !v.facts.Recovery && len(all) > 1 {
		v.found(Refuse, "synchronous", fmt.Sprintf("synchronous_standby_names = '*' in %s, or the names that it lists into INTERREX_NODE_*_NAME", v.facts.whence("synchronous_standby_names", v.node.ConfigFile)), Reload,
			"synchronous_standby_names = '%s' names no node; a standby connects with its node's name, so every write would wait for ever", value)
		return
	}
	v.found(Warn, "synchronous", "", AtOnce,
		"synchronous_standby_names = '%s' is left as it is, and not counted on: Interrex promises what asynchronous replication does; while the standbys named are away, writes wait, also after a failover to this node", value)
}

// synchronousNames takes "FIRST 2 (db2, \"db3\")" apart. PostgreSQL compares
// without regard to case.
func synchronousNames(value string) []string {
	if _, list, ok := strings.Cut(value, "("); ok {
		value = strings.TrimSuffix(strings.TrimSpace(list), ")")
	}
	var out []string
	for _, name := range strings.Split(value, ",") {
		out = append(out, strings.ToLower(strings.Trim(strings.TrimSpace(name), `"`)))
	}
	return out
}

// checkManagers looks for what other failover managers have left in the server.
func checkManagers(v *view) {
	for _, lib := range strings.Split(v.facts.value("shared_preload_libraries"), ",") {
		lib = strings.TrimSpace(lib)
		if lib == "repmgr" || lib == "pgautofailover" {
			v.found(Refuse, "manager", fmt.Sprintf("take %s out of shared_preload_libraries in %s", lib, v.facts.whence("shared_preload_libraries", v.node.ConfigFile)), Restart,
				"the library %s belongs to another failover manager; only one may decide", lib)
		}
	}
	for _, file := range []string{"patroni.dynamic.json", "pg_autoctl.cfg"} {
		if exists(filepath.Join(v.node.DataDirectory, file)) {
			v.found(Warn, "manager", "", AtOnce, "%s in the data directory is a trace of another failover manager; make sure that it is gone for good", file)
		}
	}
}

func checkPlaces(v *view) {
	for _, name := range []string{"config_file", "hba_file"} {
		file := v.facts.value(name)
		if file != "" && !within(file, v.node.DataDirectory) {
			v.found(OK, "places", "", AtOnce, "%s is %s, outside the data directory: it is left where it is and kept when the directory is made anew", name, file)
		}
	}
	if v.place.mount {
		v.found(Warn, "places", "", AtOnce, "%s is a mount point and cannot be renamed: making it anew takes place inside it, and is slower", v.node.DataDirectory)
	}
	if v.place.walLink {
		v.found(Warn, "places", "", AtOnce, "pg_wal is a symbolic link; a base backup puts pg_wal into the data directory")
	}
	if len(v.facts.Tablespaces) > 0 {
		v.found(Warn, "places", "", AtOnce, "the tablespaces %s lie outside the data directory; a base backup onto the host they are on fails, pg_rewind works", strings.Join(v.facts.Tablespaces, ", "))
	}
}

func within(file, dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	rel, err := filepath.Rel(dir, file)
	return err == nil && filepath.IsLocal(rel)
}

func checkSlots(v *view, all []view) {
	if had := v.facts.value("primary_slot_name"); v.facts.Recovery && had != "" && had != v.slot() {
		v.found(Warn, "slots", fmt.Sprintf("SELECT pg_drop_replication_slot('%s');    # on the primary, once this node has been taken over", had), AtOnce,
			"it uses the slot %s now and will use %s; nobody uses %s then, and it keeps WAL until the disk is full", had, v.slot(), had)
	}
	for _, s := range v.facts.Slots {
		ours := slices.ContainsFunc(all, func(o view) bool { return o.slot() == s.Name })
		switch {
		case ours:
			v.found(OK, "slots", "", AtOnce, "the slot %s exists already and will be used", s.Name)
		case s.Type == "logical":
			v.found(Warn, "slots", "", AtOnce, "the logical slot %s does not survive a failover: its consumers begin anew on the next primary", s.Name)
		case !s.Active:
			v.found(Warn, "slots", fmt.Sprintf("SELECT pg_drop_replication_slot('%s');", s.Name), AtOnce, "nobody uses the slot %s; it keeps WAL until the disk is full", s.Name)
		}
	}
}

// checkDisk: an old directory is kept until its successor stands.
func checkDisk(v *view, _ []view) {
	need := v.facts.Bytes + v.facts.Bytes/10
	if v.place.free < need {
		v.found(Warn, "disk", "", AtOnce, "beside %s are %s free; a base backup needs about %s, because the old directory is kept until the new one stands",
			v.node.DataDirectory, size(v.place.free), size(need))
		return
	}
	v.found(OK, "disk", "", AtOnce, "%s free, a base backup needs about %s", size(v.place.free), size(need))
}

func size(n uint64) string {
	units := []string{"kB", "MB", "GB", "TB"}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.4g %s", f, units[unit])
}
