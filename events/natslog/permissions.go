package natslog

import (
	"fmt"
	"strings"

	"github.com/interrex-ha/interrex/events"
)

// mayPublish is who may write what. Nobody may delete, purge or change the
// stream: the server process itself made it, with a key that it then forgot.
var mayPublish = map[Role][]events.Class{
	RoleController: {events.ClassDecision, events.ClassDeclined, events.ClassDeadline, events.ClassPolicy},
	RoleAgent:      {events.ClassHealth, events.ClassLease, events.ClassResult},
	RoleOperator:   {events.ClassOperator, events.ClassPolicy},
	RoleReader:     nil,
	RoleSubscriber: nil,
}

// listens says whether a role hears what is stored by a plain subscription.
func listens(role Role) bool { return role == RoleReader || role == RoleSubscriber }

// streamName is the stream of a cluster.
func streamName(cluster string) string { return "interrex-" + cluster }

// subjectPrefix is the part of a cluster's subjects before the class.
func subjectPrefix(cluster string) string { return "interrex." + cluster + "." }

// storedPrefix is where the stream sends on what it has stored, inside the
// stream's own account; readers hear it under subjectPrefix.
func storedPrefix(cluster string) string { return "interrex-stored." + cluster + "." }

// inboxPrefix is where the answers to a key's requests go: each key its own, so
// that no key hears another's answers.
func inboxPrefix(publicKey string) string { return "_INBOX_" + publicKey }

// pullSubject is the one request that is answered by many messages.
func pullSubject(stream string) string { return "$JS.API.CONSUMER.MSG.NEXT." + stream + ".*" }

// readAPI are the other requests that reading a stream takes, and no more.
func readAPI(stream string) []string {
	return []string{
		"$JS.API.INFO", // also keeps the server from importing all of its own API into the role's account
		"$JS.API.STREAM.INFO." + stream,
		"$JS.API.CONSUMER.CREATE." + stream + ".>",
		"$JS.API.CONSUMER.INFO." + stream + ".*",
		"$JS.API.CONSUMER.DELETE." + stream + ".*",
		"$JS.API.DIRECT.GET." + stream,
	}
}

// accounts is the server's configuration of who may do what.
//
// The stream lives in an account of its own, and each role in another, which
// imports exactly the requests that the role may make. Permissions alone would
// not do: NATS checks the subject of a message but not where it asks the answer
// to be sent, so that in one common account a reader could ask for a stored
// message to be answered to a decision's subject, or to the purge request, and
// the server itself would publish it there (tried: both worked). Across
// accounts an answer comes back into the asker's own account, where that is
// only what the role may do anyway.
func accounts(cluster, keysDir, adminKey string) (string, error) {
	stream := streamName(cluster)
	var b strings.Builder
	b.WriteString("accounts {\n  LOG {\n    jetstream: enabled\n")
	fmt.Fprintf(&b, "    users: [{nkey: %s}]\n    exports: [\n", adminKey)
	for _, subject := range readAPI(stream) {
		fmt.Fprintf(&b, "      {service: %q}\n", subject)
	}
	fmt.Fprintf(&b, "      {service: %q, response: stream}\n", pullSubject(stream))
	for _, class := range events.Classes {
		fmt.Fprintf(&b, "      {service: %q, accounts: [%s]}\n", classSubject(cluster, class), strings.Join(writers(class), ", "))
	}
	fmt.Fprintf(&b, "      {stream: %q, accounts: [%s, %s]}\n    ]\n  }\n", storedPrefix(cluster)+">", account(RoleReader), account(RoleSubscriber))
	for _, role := range Roles {
		pub, err := publicKey(KeyFile(keysDir, role))
		if err != nil {
			return "", err
		}
		roleAccount(&b, cluster, role, pub)
	}
	b.WriteString("}\n")
	return b.String(), nil
}

// roleAccount writes the account of one role, with its one user.
func roleAccount(b *strings.Builder, cluster string, role Role, pub string) {
	allow := mayAsk(cluster, role)
	publish := "{allow: " + list(allow) + "}"
	if len(allow) == 0 {
		publish = `{deny: ">"}` // an empty list would allow everything
	}
	var listen []string
	if len(allow) > 0 {
		listen = append(listen, inboxPrefix(pub)+".>")
	}
	if listens(role) {
		listen = append(listen, subjectPrefix(cluster)+">")
	}
	fmt.Fprintf(b, "  %s {\n    users: [{nkey: %s, permissions: {publish: %s, subscribe: {allow: %s}}}]\n    imports: [\n",
		account(role), pub, publish, list(listen))
	for _, subject := range allow {
		fmt.Fprintf(b, "      {service: {account: LOG, subject: %q}}\n", subject)
	}
	if listens(role) {
		fmt.Fprintf(b, "      {stream: {account: LOG, subject: %q}, to: %q}\n", storedPrefix(cluster)+">", subjectPrefix(cluster)+">")
	}
	b.WriteString("    ]\n  }\n")
}

// mayAsk lists the subjects that a role may publish to: requests to read, and
// the classes of events that are its own.
func mayAsk(cluster string, role Role) []string {
	if role == RoleSubscriber {
		return nil
	}
	allow := append(readAPI(streamName(cluster)), pullSubject(streamName(cluster)))
	for _, class := range mayPublish[role] {
		allow = append(allow, classSubject(cluster, class))
	}
	return allow
}

// account is the name of a role's account.
func account(role Role) string { return strings.ToUpper(string(role)) }

// classSubject matches every event of a class.
func classSubject(cluster string, class events.Class) string {
	return subjectPrefix(cluster) + string(class) + ".*"
}

// writers are the accounts of the roles that may publish a class.
func writers(class events.Class) []string {
	var out []string
	for _, role := range Roles {
		for _, c := range mayPublish[role] {
			if c == class {
				out = append(out, account(role))
			}
		}
	}
	return out
}

func list(subjects []string) string {
	quoted := make([]string, len(subjects))
	for i, s := range subjects {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
