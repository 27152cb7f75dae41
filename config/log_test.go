package config

import (
	"strings"
	"testing"
)

// TestLog: where the log is, and each mistake by its variable.
func TestLog(t *testing.T) {
	l, err := LoadLog([]string{"INTERREX_LOG_URL=tls://log:4222", "INTERREX_LOG_KEY_FILE=/run//k", "INTERREX_LOG_LISTEN=:4222", "INTERREX_NODE_0_PROT=1"})
	if err != nil || l != (Log{Cluster: DefaultCluster, URL: "tls://log:4222", KeyFile: "/run/k", Listen: ":4222"}) {
		t.Errorf("got %+v, %v", l, err)
	}
	for variable, wrong := range map[string]string{
		"LOG_URL": "nats://log http://log:1 nats://log:0 nats://log:70000 nats://me@log:1 nats://log:1/x nats://:1 log:4222", "LOG_LISTEN": "4222 log :0 :x log:99999",
		"LOG_KEY_FILE": "k", "LOG_KEYS": "./k", "LOG_TLS_CA": "ca.pem", "LOG_TLS_CERT": "/cert", "LOG_TLS_KEY": "/key",
	} {
		for value := range strings.FieldsSeq(wrong) {
			_, err := LoadLog([]string{Prefix + variable + "=" + value})
			if err == nil || !strings.Contains(err.Error(), Prefix+variable) {
				t.Errorf("%s=%s: %v", variable, value, err)
			}
		}
	}
}
