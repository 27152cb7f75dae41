//go:build linux

package api

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// guarded is an API on every address: who has no token sees health and metrics.
func guarded(t *testing.T, c *cluster) {
	t.Helper()
	const token = "0123456789abcdef0123456789abcdef"
	file := filepath.Join(c.dir, "api.token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(c.dir); err == nil { // interrex goes on as who owns the directory
		if s := st.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
			if err := os.Chown(file, int(s.Uid), int(s.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := start(t, []string{"INTERREX_API_TOKEN_FILE=" + file}, binary, "api", "--dir", c.dir, "--listen", "0.0.0.0:0")
	url := strings.Replace(p.serves(), "[::]", "127.0.0.1", 1)
	url = strings.Replace(url, "0.0.0.0", "127.0.0.1", 1)
	p.eventually("the API's readiness", func() bool { code, _ := ask(t, "GET", url+"/readiness", ""); return code == 200 })
	wants(t, 401, "needs the token", "GET", url+"/v1/cluster", "")
	wants(t, 401, "not the API's", "POST", url+"/v1/resume", "{}", "Authorization", "Bearer "+token[1:])
	wants(t, 200, `"phase": "healthy"`, "GET", url+"/v1/cluster", "", "Authorization", "Bearer "+token)
	wants(t, 200, "interrex_phase", "GET", url+"/metrics", "")
	wants(t, 200, "", "GET", url+"/nodes/db1/primary", "")
	p.stop()
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := command([]string{"INTERREX_API_TOKEN_FILE=" + file}, binary, "api", "--dir", c.dir, "--listen", "127.0.0.1:0")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "chmod 600") {
		t.Errorf("a token that everybody may read: %v\n%s", err, out)
	}
}
