package house

import "strings"

const (
	whyCore   = "the core and the vocabulary cannot reach the world"
	whyBeside = "controller, agent, api and gateway do not know one another: they meet in the log"
	whyPlaces = "a place to run commands in knows no other; ssh and docker stand on remote"
	whyHands  = "probes see and executors do; neither decides"
)

// world is what a pure package must not ask of the standard library. Indirect
// use is the library's affair (fmt imports os, looplab/fsm imports sync).
var world = []string{
	"net", "os", "syscall", "log", "math/rand", "plugin", "database/sql",
	"github.com/nats-io", "github.com/jackc", "golang.org/x/sys", "golang.org/x/net",
}

// Rules are DESIGN's arrows of import.
var Rules = []Rule{
	{
		Packages: "events", Only: []string{}, Never: world,
		Why: "the vocabulary stands on the standard library alone, so that anything can read a log; " + whyCore,
	},
	{
		Packages: "fsm", Only: []string{"./events$", "./fsm", "github.com/looplab/fsm"}, Never: world,
		Why: "every decision is a pure function of the log; " + whyCore,
	},
	{
		Packages: "fsm/.+", Only: []string{"./events$"}, Never: world, Except: "fsm/[^/]*test",
		Why: "the agent's machines are pure as well: they return effects",
	},
	{
		Packages: "view", Only: []string{"./events$", "./fsm$", "github.com/looplab/fsm"}, Never: []string{"net", "os/exec", "database/sql", "github.com/nats-io", "github.com/jackc"},
		Why: "what is shown is made of the folded log alone: commands and the API show the same",
	},
	{
		Packages: "operator", Only: []string{"./events$", "./fsm$", "github.com/looplab/fsm"}, Never: []string{"net", "os/exec", "database/sql", "github.com/nats-io", "github.com/jackc"},
		Why: "a request goes into the log it is given, from the command line and the API alike",
	},
	{
		Packages: ".*", Direct: true, Never: []string{"github.com/nats-io"}, Except: "events/natslog(/.*)?|examples/.*|.*test",
		Why: "events/natslog is the only importer of NATS; use the events.Log that it opens",
	},
	{
		Packages: "examples/.*", Direct: true, Never: []string{strings.TrimSuffix(Module, "/")},
		Why: "examples show what anybody can do without our code",
	},
	{
		Packages: ".*", Never: []string{"./lab", "./scenarios"}, Except: "(cmd|lab|scenarios)(/.*)?",
		Why: "nothing imports lab or scenarios but cmd and tests",
	},
	{
		Packages: "controller(/.*)?", Never: []string{"./agent", "./api", "./gateway"}, Why: whyBeside,
	},
	{
		Packages: "controller(/.*)?", Never: []string{"./probes", "./executors", "github.com/jackc", "os/exec"},
		Why: "the controller knows no PostgreSQL: it reads the log and writes decisions",
	},
	{
		Packages: "agent(/.*)?", Never: []string{"./controller", "./api", "./gateway"}, Why: whyBeside,
	},
	{
		Packages: "agent(/.*)?", Never: []string{"./fsm$"},
		Why: "the agent decides nothing: it uses fsm/lease and fsm/journal only",
	},
	{Packages: "api(/.*)?", Never: []string{"./controller", "./agent", "./gateway"}, Why: whyBeside},
	{
		Packages: "api(/.*)?", Never: []string{"./events/natslog", "./config", "./adopt", "./probes", "./executors", "os/exec", "github.com/jackc", "github.com/nats-io"},
		Why: "the API is given a log and knows nothing but what stands in it",
	},
	{Packages: "gateway(/.*)?", Never: []string{"./controller", "./agent", "./api"}, Why: whyBeside},
	{
		Packages: "(probes|executors)(/.*)?", Never: []string{"./fsm", "./controller", "./agent", "./api", "./gateway", "github.com/nats-io"},
		Why: whyHands,
	},
	{
		Packages: "executors/local", Never: []string{"./executors/remote", "./executors/ssh", "./executors/docker"}, Why: whyPlaces,
	},
	{
		Packages: "executors/remote", Never: []string{"./executors/local", "./executors/ssh", "./executors/docker"}, Why: whyPlaces,
	},
	{
		Packages: "executors/ssh", Never: []string{"./executors/local", "./executors/docker"}, Why: whyPlaces,
	},
	{
		Packages: "executors/docker", Never: []string{"./executors/local", "./executors/ssh"}, Why: whyPlaces,
	},
	{
		Packages: ".*", Direct: true, Never: []string{"github.com/docker"}, Except: "executors/docker|.*test",
		Why: "executors/docker is the only importer of Docker's client; use its Runner",
	},
	{
		Packages: ".*", Direct: true, Never: []string{"golang.org/x/crypto/ssh"}, Except: "executors/ssh|.*test",
		Why: "executors/ssh is the only importer of x/crypto/ssh; use its Runner",
	},
	{
		Packages: "config(/.*)?", Never: []string{"./fsm", "./controller", "./agent", "./probes", "./executors", "os/exec", "net/http", "github.com/jackc", "github.com/nats-io"},
		Why: "config turns names into values and looks at nothing else",
	},
	{
		Packages: "config/pgpool", Only: []string{}, Never: world,
		Why: "a notation is read without looking at the world",
	},
	{
		Packages: "(executors|probes)(/.*)?", Never: []string{"./config$"},
		Why: "executors and probes are told what to do; they read no environment",
	},
	{
		Packages: "(events|fsm|controller|agent|api|gateway|probes|executors|config|adopt|lab|scenarios|view|operator)(/.*)?", Never: []string{"./cmd"},
		Why: "imports point down from cmd",
	},
}
