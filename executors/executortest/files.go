package executortest

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func writeAndRead(t *testing.T, p place) {
	file := p.dir + "/f"
	data := bytes.Repeat([]byte{0, 1, '\n', '\'', 0xff, '\r'}, 50<<10)
	for _, mode := range []fs.FileMode{0o600, 0o644, 0o666} {
		if err := p.WriteFile(t.Context(), file, data, mode); err != nil {
			t.Fatal(err)
		}
		got, err := p.ReadFile(t.Context(), file)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes, %v; expected the %d that were written", len(got), err, len(data))
		}
		info, err := p.Stat(t.Context(), file)
		if err != nil || info.Mode().Perm() != mode || info.Size() != int64(len(data)) {
			t.Fatalf("mode and size are %v, %v; expected %v, whatever the umask, and %d", info, err, mode, len(data))
		}
	}
	if err := p.WriteFile(t.Context(), file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := p.ReadFile(t.Context(), file); err != nil || len(got) != 0 {
		t.Fatalf("an empty file reads %q, %v", got, err)
	}
	if _, err := p.ReadFile(t.Context(), p.dir+"/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("reading an absent file gave %v, expected fs.ErrNotExist", err)
	}
}

// writeIsAtomic looks for the shape that survives a crash: whoever had the old
// file open still sees all of it, since the new one took its name by a rename.
func writeIsAtomic(t *testing.T, p place) {
	file := p.dir + "/f"
	if err := p.WriteFile(t.Context(), file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.sh(t, `ln "$1" "$2"`, file, p.dir+"/link")
	if err := p.WriteFile(t.Context(), file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := p.ReadFile(t.Context(), p.dir+"/link")
	if err != nil || string(old) != "old" {
		t.Fatalf("the file was overwritten in place: its other name reads %q, %v; expected old", old, err)
	}
	if left := p.sh(t, `ls -A "$1"`, p.dir); left != "f\nlink\n" {
		t.Fatalf("the directory holds %q, expected no temporary file", left)
	}
}

func writeFails(t *testing.T, p place) {
	if err := p.WriteFile(t.Context(), p.dir+"/absent/f", []byte("x"), 0o600); err == nil || !strings.Contains(err.Error(), "absent/f") {
		t.Fatalf("writing into an absent directory gave %v, expected an error that names the file", err)
	}
	p.sh(t, `mkdir "$1/d"`, p.dir)
	if err := p.WriteFile(t.Context(), p.dir+"/d", []byte("x"), 0o600); err == nil {
		t.Fatal("writing over a directory gave no error")
	}
	if left := p.sh(t, `ls -A "$1"`, p.dir); left != "d\n" {
		t.Fatalf("the directory holds %q, expected only what was there", left)
	}
}

func remove(t *testing.T, p place) {
	file := p.dir + "/f"
	if err := p.WriteFile(t.Context(), file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is absent
		if err := p.Remove(t.Context(), file); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Stat(t.Context(), file); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the file is still there: %v", err)
	}
	p.sh(t, `mkdir "$1/d"`, p.dir)
	if err := p.Remove(t.Context(), p.dir+"/d"); err == nil {
		t.Fatal("Remove took a directory")
	}
}

func rename(t *testing.T, p place) {
	p.sh(t, `mkdir "$1/a" "$1/b"; echo x > "$1/a/f"; echo y > "$1/b/f"`, p.dir)
	if err := p.Rename(t.Context(), p.dir+"/a/f", p.dir+"/b/f"); err != nil {
		t.Fatal(err)
	}
	if got := p.sh(t, `cat "$1/b/f"; ls -A "$1/a"`, p.dir); got != "x\n" {
		t.Fatalf("after the rename: %q, expected the file in its new place only", got)
	}
	if err := p.Rename(t.Context(), p.dir+"/b", p.dir+"/c d"); err != nil {
		t.Fatalf("a directory: %v", err)
	}
	if err := p.Rename(t.Context(), p.dir+"/absent", p.dir+"/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("renaming an absent file gave %v, expected fs.ErrNotExist", err)
	}
}
