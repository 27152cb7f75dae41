package fsm

import "github.com/interrex-ha/interrex/events"

// Trigger is a conclusion that a table knows: never a raw fact.
type Trigger string

// Rule is one row of a transition table.
//
// ID is the row's name for ever: it is written into every decision, so that a
// log can be explained years later. IDs grow by two, so that a row can be put
// between two others; an ID is never reused. Auto rows are automatic failover:
// while the cluster is paused they are declined, not fired.
type Rule struct {
	ID   int
	From []events.Phase
	On   Trigger
	To   events.Phase
	Auto bool
	Why  string
}

func in(p ...events.Phase) []events.Phase { return p }

// RuleStartAgain is named because its decision answers a startup-requested.
const RuleStartAgain = 103

// Rules is the whole behaviour of the cluster, in the order of its story.
var Rules = []Rule{
	// Forming.
	{101, in(events.Forming), PrimaryFound, events.Healthy, false, "one running primary was found, and every other node is a standby or down: it is named primary"},
	{RuleStartAgain, in(events.Forming), LastPrimaryReady, events.Promoting, false, "the cluster was stopped in order: its last primary starts again under a new term"},
	{105, in(events.Forming), LastPrimaryMissing, events.Electing, true, "the cluster was stopped in order, and its last primary was not ready to start again in time"},
	{107, in(events.Forming), NothingYet, same, false, "a new cluster: every node's agent was heard and has an empty data directory, and no term was ever given: the node that was named for it is made"},

	// Losing the primary.
	{201, in(events.Healthy, events.Settling, events.Suspect), PrimaryDead, events.Electing, true, "the primary's own agent proved it dead"},
	{203, in(events.Healthy, events.Settling, events.Suspect), PrimaryCrashed, events.Fencing, true, "the primary's postmaster ended without a shutdown; its agent makes sure that nothing of it is left"},
	{205, in(events.Healthy, events.Settling), PrimaryStopped, events.Suspect, false, "the primary was shut down cleanly by hand: it is given the stop grace to come back"},
	{207, in(events.Healthy, events.Settling), PrimarySilent, events.Suspect, false, "the primary's agent was silent for the grace period"},
	{209, in(events.Healthy, events.Settling, events.Suspect), PrimaryHung, events.Fencing, true, "the primary did not answer its own agent for the hang time: it is stopped"},
	{211, in(events.Healthy, events.Settling, events.Suspect), PrimaryStartTimeout, events.Fencing, true, "the primary's own crash recovery took longer than start_timeout"},
	{213, in(events.Suspect), PrimaryRestarted, events.Healthy, false, "restarted by hand within the stop grace"},
	{215, in(events.Suspect), PrimaryBack, events.Healthy, false, "the primary's agent was heard again in time: false alarm"},
	{217, in(events.Suspect), StopGraceOver, events.Fencing, true, "the primary was not started again within the stop grace"},
	{219, in(events.Suspect), LeaseExpired, events.Electing, true, "the primary's lease ran out and nothing of it was seen since"},
	{221, in(events.Healthy, events.Settling, events.Suspect, events.Stalled), PrimaryReadOnly, events.Fencing, true, "the primary was started as a standby: it is stopped, and the choice is made again"},

	// Making sure, and choosing.
	{301, in(events.Fencing), PrimaryDead, events.Electing, false, "the primary's own agent proved it dead"},
	{303, in(events.Fencing), LeaseExpired, events.Electing, false, "its agent could not prove it dead, but the lease ran out and nothing of it was seen since"},
	{305, in(events.Fencing), FencingFailed, events.Stalled, false, "the old primary could not be proved dead"},
	{307, in(events.Fencing), FencingTimeout, events.Stalled, false, "neither a proof nor the end of the lease within start_timeout"},
	{401, in(events.Electing, events.Stalled), CandidateFound, events.Promoting, false, "this standby has the most of the old primary's WAL, within the bound"},
	{403, in(events.Electing, events.Stalled), ResumeFound, events.Promoting, false, "the old primary itself is the best choice: it starts again under a new term"},
	{405, in(events.Electing), NoCandidate, events.Stalled, false, "no standby may be promoted and the old primary cannot be started again"},

	// Taking office.
	{501, in(events.Promoting), PrimaryServes, events.Settling, false, "the new primary takes writes"},
	{503, in(events.Promoting), PrimaryDead, events.Electing, false, "the node that was named primary died before it served"},
	{505, in(events.Promoting), OfficeRefused, events.Electing, false, "the node that was named primary did not take the lease: this decision voids its grant"},
	{507, in(events.Promoting), LeaseExpired, events.Electing, false, "the node that was named primary fell silent and its lease ran out"},
	{509, in(events.Promoting), OfficeTimeout, events.Fencing, false, "the node that was named primary did not serve within start_timeout"},
	{511, in(events.Promoting, events.Stalled), OfficeFailed, events.Fencing, false, "the node that was named primary holds the lease and could not take office: it is stopped by force"},
	{601, in(events.Settling), StandbysFollow, events.Healthy, false, "every standby that is up follows the new primary"},
	{603, in(events.Settling), SettleTimeout, events.Healthy, false, "not every standby followed in time; those are down"},

	// Planned.
	{701, in(events.Healthy), SwitchoverAsked, events.Switching, false, "an operator asked to move the primary"},
	{703, in(events.Switching), TargetReady, events.Promoting, false, "the old primary stopped cleanly and the target has its last position"},
	{705, in(events.Switching), TargetLost, events.Promoting, false, "the target cannot take over: the old primary takes over again"},
	{707, in(events.Switching), SwitchoverFailed, events.Healthy, false, "the old primary could not be stopped and still serves"},
	{709, in(events.Switching), PrimaryDead, events.Electing, false, "the old primary died uncleanly during the switchover"},
	{711, in(events.Switching), SwitchTimeout, events.Fencing, false, "the old primary neither stopped nor refused in time"},
	{713, in(events.Switching), LeaseExpired, events.Electing, false, "the old primary's agent fell silent during the switchover and its lease ran out"},

	// By order of an operator.
	{801, in(events.Stalled), FailoverAccepted, events.Promoting, false, "an operator accepted the loss, by name and reason"},
	{803, in(events.Stalled), PrimaryServes, events.Healthy, false, "the primary of the term serves after all"},
	{805, in(events.Stalled), NodeReturned, events.Electing, false, "a node came back: the choice is made again"},
	{807, in(events.Healthy, events.Settling, events.Suspect), FailoverAsked, events.Fencing, false, "an operator asked for a failover: the primary is stopped by force"},
	{809, in(events.Forming, events.Healthy, events.Settling, events.Suspect, events.Stalled), ShutdownAsked, events.Forming, false, "an operator stops the cluster in order"},
	{901, in(events.Healthy, events.Settling, events.Suspect, events.Stalled), PauseAsked, same, false, "an operator suspended automatic failover"},
	{903, in(events.Healthy, events.Settling, events.Suspect, events.Stalled), ResumeAsked, same, false, "an operator ended the pause"},
	{905, in(events.Healthy, events.Settling, events.Suspect, events.Stalled), PauseOver, same, false, "the pause ran out"},
	{907, in(events.Healthy), RecoverAsked, same, false, "an operator asked to make the node a standby again"},
	{909, in(events.Healthy, events.Settling, events.Suspect, events.Stalled), DetachAsked, same, false, "an operator detached the node"},
	{911, in(events.Healthy, events.Settling, events.Suspect, events.Stalled), AttachAsked, same, false, "an operator attached the node"},
	{913, in(events.Healthy, events.Settling), StandbyAtRest, same, false, "a standby's agent came back and found its PostgreSQL stopped: it is started again"},
	{915, in(events.Healthy), StayChanged, same, false, "whether the primary may outlive the log has changed, with what could prove that it is gone or with who could replace it"},
	{917, in(events.Healthy), NodeEmpty, same, false, "a node's agent found no data at all: it is made a copy of the primary"},
}

// same as a row's destination means that the phase does not change.
const same events.Phase = ""

// StatusRule is one row of the node status table: pgpool's 0 to 3.
type StatusRule struct {
	ID   int
	From []int
	On   Trigger
	To   int
	Why  string
}

// StatusRules decide what SHOW POOL_NODES shows. Nothing is decided by the
// difference of waiting and up.
var StatusRules = []StatusRule{
	{1101, []int{StatusUnused}, NodeServes, StatusWaiting, "its PostgreSQL answers"},
	{1103, []int{StatusWaiting}, ClientSeen, StatusUp, "a client connection was seen"},
	{1105, []int{StatusWaiting, StatusUp}, NodeLost, StatusDown, "its PostgreSQL is down"},
	{1107, []int{StatusWaiting, StatusUp}, NodeDetached, StatusDown, "an operator detached it"},
	{1109, []int{StatusWaiting, StatusUp}, NodeAstray, StatusDown, "it does not follow the primary"},
	{1111, []int{StatusDown}, NodeServes, StatusWaiting, "it streams from the primary, or is it"},
}
