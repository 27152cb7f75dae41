package events

// What a person, or the program in a person's name, asked for. A request is
// answered by a decision or a declined event that carries its sequence.

// Request is common to all of them.
type Request struct {
	Who    string `json:"who"`   // user@host
	Actor  string `json:"actor"` // subject token, for example "root"
	Reason string `json:"reason,omitempty"`
}

// SwitchoverRequested: move the primary, planned. An empty Node lets the
// cluster choose.
type SwitchoverRequested struct {
	Request
	Node string `json:"node,omitempty"`
}

// FailoverRequested: promote a standby though automation would not.
type FailoverRequested struct {
	Request
	Node       string `json:"node,omitempty"`
	AcceptLoss bool   `json:"accept_loss,omitempty"`
}

// RecoverRequested: make the node a streaming standby again.
type RecoverRequested struct {
	Request
	Node  string `json:"node"`
	How   string `json:"how,omitempty"`   // "auto" (default), "rewind", "basebackup"
	Clean bool   `json:"clean,omitempty"` // remove what an earlier recovery kept aside instead
}

// DetachRequested: status 3, no candidate, nothing stopped.
type DetachRequested struct {
	Request
	Node string `json:"node"`
}

// AttachRequested takes a detach back.
type AttachRequested struct {
	Request
	Node string `json:"node"`
}

// PauseRequested: decide nothing by yourself for a time.
type PauseRequested struct {
	Request
	For Duration `json:"for"`
}

// ResumeRequested ends a pause.
type ResumeRequested struct{ Request }

// ShutdownRequested: stop the whole cluster in order (interrex up was told to).
// With Keep the PostgreSQL servers go on (adopted ones): maintenance.
type ShutdownRequested struct {
	Request
	Keep bool `json:"keep,omitempty"`
}

// StartupRequested: interrex up runs again after an orderly stop.
type StartupRequested struct{ Request }

// Member is one node of a cluster.
type Member struct {
	ID       int    `json:"id"` // pgpool backend id
	Name     string `json:"name"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
	DataDir  string `json:"data_directory"`
	Weight   int    `json:"weight"` // thousandths, 1000 is pgpool's default weight 1
	Priority int    `json:"priority,omitempty"`
}

// ClusterFormed names the members. The first event of a log; a later one
// replaces the list.
type ClusterFormed struct {
	Cluster string   `json:"cluster"`
	Members []Member `json:"members"`
	Created bool     `json:"created"` // by Interrex; else adopted
	// Bootstrap is the one node that may be made from nothing, and only while
	// every node's directory is empty and no term was ever given: rule 107. Nodes
	// without data are then made copies of the primary: rule 917. Empty: servers
	// are made before the log is.
	Bootstrap string `json:"bootstrap,omitempty"`
	Actor     string `json:"actor"`
}

// RulesActivated: controllers decide by this rule set from here on. One that
// has another number stops deciding.
type RulesActivated struct {
	RuleSet int    `json:"rule_set"`
	Actor   string `json:"actor"`
}

// PolicySet replaces the policy.
type PolicySet struct {
	Policy Policy `json:"policy"`
	Hash   string `json:"hash"`
	Actor  string `json:"actor"`
	Who    string `json:"who"`
	Reason string `json:"reason,omitempty"`
}

func (SwitchoverRequested) Kind() string { return "switchover-requested" }
func (FailoverRequested) Kind() string   { return "failover-requested" }
func (RecoverRequested) Kind() string    { return "recover-requested" }
func (DetachRequested) Kind() string     { return "detach-requested" }
func (AttachRequested) Kind() string     { return "attach-requested" }
func (PauseRequested) Kind() string      { return "pause-requested" }
func (ResumeRequested) Kind() string     { return "resume-requested" }
func (ShutdownRequested) Kind() string   { return "shutdown-requested" }
func (StartupRequested) Kind() string    { return "startup-requested" }
func (ClusterFormed) Kind() string       { return "cluster-formed" }
func (RulesActivated) Kind() string      { return "rules-activated" }
func (PolicySet) Kind() string           { return "policy-set" }

func (Request) Class() Class        { return ClassOperator }
func (ClusterFormed) Class() Class  { return ClassPolicy }
func (RulesActivated) Class() Class { return ClassPolicy }
func (PolicySet) Class() Class      { return ClassPolicy }

func (r Request) Key() string        { return r.Actor }
func (d ClusterFormed) Key() string  { return d.Actor }
func (d RulesActivated) Key() string { return d.Actor }
func (d PolicySet) Key() string      { return d.Actor }

func (Request) data()        {}
func (ClusterFormed) data()  {}
func (RulesActivated) data() {}
func (PolicySet) data()      {}
