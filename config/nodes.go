package config

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// nodes reads every numbered node by itself: env's own slices stop at the first
// gap, and at the first bad element, without a word.
func (c *Config) nodes(vars map[string]string, errs *findings) {
	ids := nodeIDs(vars)
	errs.gaps(ids)
	for _, id := range ids {
		var v nodeVariables
		prefix := nodePrefix(strconv.Itoa(id))
		parse(&v, prefix, vars, errs)
		n := v.node(id, prefix, vars, errs)
		if n.Executor == ExecutorSSH {
			n.SSHConfig = c.SSHConfig
		}
		c.Nodes = append(c.Nodes, n)
	}
	nameNodes(c.Nodes)
	errs.twins(c.Nodes)
}

// nodeIDs returns the numbers that known variables use, sorted.
func nodeIDs(vars map[string]string) []int {
	seen := map[int]bool{}
	for name := range vars {
		if id, field, ok := splitNode(name); ok && known(nodePrefix("<id>")+field) {
			seen[id] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// splitNode takes INTERREX_NODE_3_PORT apart; a number with leading zeros or
// beyond MaxNodes is none.
func splitNode(name string) (id int, field string, ok bool) {
	rest, ok := strings.CutPrefix(name, Prefix+"NODE_")
	if !ok {
		return 0, "", false
	}
	number, field, ok := strings.Cut(rest, "_")
	if !ok {
		return 0, "", false
	}
	id, err := strconv.Atoi(number)
	if err != nil || strconv.Itoa(id) != number || id < 0 || id >= MaxNodes {
		return 0, "", false
	}
	return id, field, true
}

func (f *findings) gaps(ids []int) {
	if len(ids) == 0 {
		return
	}
	var missing []string
	for id := range ids[len(ids)-1] {
		if !slices.Contains(ids, id) {
			missing = append(missing, strconv.Itoa(id))
		}
	}
	if len(missing) > 0 {
		last := strconv.Itoa(ids[len(ids)-1])
		f.say(nodePrefix(last)+"*: node %s is set, but not node %s; nodes are numbered from 0 without gaps: set %sDATA_DIRECTORY or renumber the nodes",
			last, strings.Join(missing, ", "), nodePrefix(missing[0]))
	}
}

// node checks one node by itself. A field that env could not read has its zero
// value and was reported.
func (v nodeVariables) node(id int, prefix string, vars map[string]string, errs *findings) Node {
	bad := func(field, value, right string) { errs.add(prefix+field, value, right) }
	if v.Name != "" {
		if err := events.CheckName(v.Name); err != nil {
			bad("NAME", v.Name, err.Error())
		}
	}
	if err := checkHost(v.Host); err != nil {
		bad("HOST", v.Host, err.Error())
	}
	if _, set := vars[prefix+"PORT"]; set && !errs.has(prefix+"PORT") && (v.Port < 1 || v.Port > 65535) {
		bad("PORT", strconv.Itoa(v.Port), right(v, "PORT"))
	}
	if v.DataDirectory == "" {
		errs.say("%sDATA_DIRECTORY is not set; node %d needs the absolute path of its data directory", prefix, id)
	}
	for _, p := range []struct{ field, path string }{
		{"DATA_DIRECTORY", v.DataDirectory}, {"CONFIG_FILE", v.ConfigFile}, {"BIN_DIRECTORY", v.BinDirectory}, {"PASSFILE", v.Passfile},
		{"SSH_KEY", v.SSHKey},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			bad(p.field, p.path, "the path must be absolute: it begins with /")
		}
	}
	v.place(prefix, vars, errs)
	if !slices.Contains(sslModes, v.SSLMode) {
		bad("SSLMODE", v.SSLMode, right(v, "SSLMODE"))
	}
	if !(v.Weight >= 0 && v.Weight <= 1e6) { // not the other way round: NaN compares to nothing
		bad("WEIGHT", vars[prefix+"WEIGHT"], right(v, "WEIGHT"))
	}
	if v.Priority < -1e6 || v.Priority > 1e6 {
		bad("PRIORITY", strconv.Itoa(v.Priority), right(v, "PRIORITY"))
	}
	return Node{
		ID: id, Name: v.Name, Host: v.Host, Port: v.Port, DataDirectory: clean(v.DataDirectory), ConfigFile: clean(v.ConfigFile),
		BinDirectory: clean(v.BinDirectory), Service: v.Service, User: v.User, Passfile: clean(v.Passfile), SSLMode: v.SSLMode,
		Weight: v.Weight, Priority: v.Priority,
		Executor: v.Executor, SSHHost: v.SSHHost, SSHUser: v.SSHUser, SSHPort: v.SSHPort, SSHKey: clean(v.SSHKey), Container: v.Container, ContainerUser: v.ContainerUser,
	}
}

// place checks where the node's commands run: what belongs to another executor
// than the chosen one was meant for something.
func (v nodeVariables) place(prefix string, vars map[string]string, errs *findings) {
	if !slices.Contains([]string{ExecutorLocal, ExecutorSSH, ExecutorDocker}, v.Executor) {
		errs.add(prefix+"EXECUTOR", v.Executor, right(v, "EXECUTOR"))
		return
	}
	of := map[string]string{"SSH_HOST": ExecutorSSH, "SSH_USER": ExecutorSSH, "SSH_PORT": ExecutorSSH, "SSH_KEY": ExecutorSSH, "CONTAINER": ExecutorDocker, "CONTAINER_USER": ExecutorDocker}
	for _, field := range slices.Sorted(maps.Keys(of)) {
		if value, set := vars[prefix+field]; set && v.Executor != of[field] {
			errs.add(prefix+field, value, "it counts only with "+prefix+"EXECUTOR="+of[field]+": set that, or remove this")
		}
	}
	if _, set := vars[prefix+"SSH_PORT"]; set && !errs.has(prefix+"SSH_PORT") && (v.SSHPort < 1 || v.SSHPort > 65535) {
		errs.add(prefix+"SSH_PORT", strconv.Itoa(v.SSHPort), right(v, "SSH_PORT"))
	}
	if strings.HasPrefix(v.SSHHost, "-") || strings.ContainsAny(v.SSHHost, " @/\t\n") {
		errs.add(prefix+"SSH_HOST", v.SSHHost, right(v, "SSH_HOST")+", without a user: that goes into SSH_USER")
	}
	if v.Executor == ExecutorDocker && v.Container == "" {
		errs.say("%sCONTAINER is not set; EXECUTOR=docker needs the name of the container", prefix)
	}
}

func clean(path string) string {
	if path == "" {
		return ""
	}
	return filepath.Clean(path)
}

// checkHost catches what people put into a host by mistake; it resolves nothing.
func checkHost(host string) error {
	if net.ParseIP(host) != nil {
		return nil
	}
	if h, port, err := net.SplitHostPort(host); err == nil && h != "" && port != "" {
		return fmt.Errorf("the host is %q; put the port %s into PORT", h, port)
	}
	if strings.HasPrefix(host, "/") {
		return fmt.Errorf("a socket directory is no host: standbys on other machines could not reach it; give 127.0.0.1 for this one")
	}
	if strings.ContainsAny(host, " /\\'\"@:,;[]") {
		return fmt.Errorf("a host name or address without brackets, port or user is expected")
	}
	return nil
}

// nameNodes gives a name to the nodes without one: the host, which people know
// from pgpool, when it may be a name and is nobody else's; else db1 for node 0.
func nameNodes(nodes []Node) {
	hosts := map[string]int{}
	for _, n := range nodes {
		hosts[n.Host]++
		if n.Name != "" && n.Name != n.Host {
			hosts[n.Name]++
		}
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Name != "" {
			continue
		}
		n.Name = "db" + strconv.Itoa(n.ID+1)
		if hosts[n.Host] == 1 && n.Host != "localhost" && events.CheckName(n.Host) == nil {
			n.Name = n.Host
		}
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// twins reports what two nodes must not share.
func (f *findings) twins(nodes []Node) {
	type use struct{ what, value, field string }
	first := map[use]int{}
	for _, n := range nodes {
		uses := []use{{"replication slot " + events.SlotName(n.Name), "", "NAME"}}
		if n.DataDirectory != "" {
			where := n.Place()
			if n.Here() && !loopback(n.Host) { // each agent on its own host: the same path is another directory there
				where = "on " + n.Host
			}
			uses = append(uses, use{"data directory", strings.TrimSpace(n.DataDirectory + " " + where), "DATA_DIRECTORY"})
		}
		if n.Port != 0 {
			uses = append(uses, use{"address", net.JoinHostPort(n.Host, strconv.Itoa(n.Port)), "PORT"})
		}
		for _, u := range uses {
			if other, taken := first[u]; taken {
				f.say("%s%s: node %d has the same %s as node %d; each node needs its own",
					nodePrefix(strconv.Itoa(n.ID)), u.field, n.ID, strings.TrimSpace(u.what+" "+u.value), other)
				continue
			}
			first[u] = n.ID
		}
	}
}
