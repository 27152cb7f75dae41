package natslog

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/interrex-ha/interrex/events"
	"github.com/interrex-ha/interrex/events/logtest"
)

// place is a cluster's log on disk: what survives its server.
type place struct{ store, keys string }

func newPlace(t *testing.T) place { return place{t.TempDir(), t.TempDir() + "/keys"} }

func (p place) options() ServerOptions {
	return ServerOptions{Cluster: "demo", StoreDir: p.store, KeysDir: p.keys}
}

func (p place) start(t *testing.T) *Server {
	t.Helper()
	s, err := StartServer(p.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// everything is a log that may publish every class, by choosing the role.
type everything struct {
	events.Log
	as map[events.Class]*Log
}

func (l everything) Append(ctx context.Context, d events.Draft) (events.Event, error) {
	if d.Data == nil || l.as[d.Data.Class()] == nil {
		return l.Log.Append(ctx, d)
	}
	return l.as[d.Data.Class()].Append(ctx, d)
}

func dialAll(t *testing.T, p place, dial func(*DialOptions)) everything {
	t.Helper()
	all := everything{as: map[events.Class]*Log{}}
	for _, role := range []Role{RoleController, RoleAgent, RoleOperator} {
		l := dialAs(t, p, role, dial)
		for _, class := range mayPublish[role] {
			all.as[class] = l
		}
		all.Log = l
	}
	return all
}

func dialAs(t *testing.T, p place, role Role, dial func(*DialOptions)) *Log {
	t.Helper()
	o := DialOptions{KeyFile: KeyFile(p.keys, role), Cluster: "demo", Name: "test " + string(role)}
	dial(&o)
	l, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func viaTCP(s *Server) func(*DialOptions)     { return func(o *DialOptions) { o.URL = s.URL() } }
func viaProcess(s *Server) func(*DialOptions) { return func(o *DialOptions) { o.Server = s } }

func TestLog(t *testing.T) {
	for name, via := range map[string]func(*Server) func(*DialOptions){"tcp": viaTCP, "in-process": viaProcess} {
		t.Run(name, func(t *testing.T) {
			logtest.Run(t, func(t *testing.T) logtest.Subject {
				p := newPlace(t)
				s := p.start(t)
				return logtest.Subject{Log: dialAll(t, p, via(s)), Reopen: func(t *testing.T) events.Log {
					s.Shutdown()
					return dialAll(t, p, via(p.start(t)))
				}}
			})
		})
	}
}

// The server warns of every refusal that is tested.
func init() { slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil))) }
