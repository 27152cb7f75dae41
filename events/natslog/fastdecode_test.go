package natslog

import (
	"reflect"
	"testing"

	"github.com/interrex-ha/interrex/events"
)

// FuzzFastDecode: the fast decoder and the reference must give the same data,
// or two controllers could fold one log differently.
func FuzzFastDecode(f *testing.F) {
	for n := range 4 {
		body, err := events.Encode(sample(n).Data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(body))
	}
	for _, s := range []string{
		``, `null`, `[]`, `{}`, `{"node":null}`, `{"Node":"db1","NODE":"db2"}`, `{"node":"a","node":"b"}`, `{"lsn":""}`, `{"lsn":null}`,
		`{"node":"\ud800"}`, "{\"node\":\"\xff\"}", `{"probes":{"n":1e1}}`, `{"probes":{"n":1.0}}`, `{"probes":{"n":9999999999999999999}}`,
		`{"replicas":[]}`, `{"replicas":null}`, `{"replicas":[null,{}]}`, `{"lsn":"0/3","lsn":5}`, `{"extra":{"a":[1,2,{"b":null}]}}`,
		`{"term":-1}`, `{"node":1}`, `{"n_ode":"x"}`, `{"min-us":1}`, ` {"node":"a"} `, `{"node":"a"}x`, `{"probes":{"min_us":1,"minus":2,"MIN_US":3}}`,
		`{"ſtate":"up"}`, `{"state":"up","ſtate":"down"}`, `{"heartbeat":{"node":"a"}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, kind := range []string{"heartbeat", "lease-renewed"} {
			want, wantErr := events.Decode(kind, 1, events.ClassHealth, "db1", []byte(body))
			got, gotErr := decodeData(kind, 1, events.ClassHealth, "db1", []byte(body))
			if (wantErr == nil) != (gotErr == nil) || !reflect.DeepEqual(got, want) {
				t.Errorf("%s %q: got %+v, %v; want %+v, %v", kind, body, got, gotErr, want, wantErr)
			}
		}
	})
}
