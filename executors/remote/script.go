package remote

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/interrex-ha/interrex/executors"
)

// Bootstrap is the only text that ever stands on a command line. It reads the
// script's length, then exactly so many bytes: read takes no byte behind its
// newline where input cannot be sought (POSIX), and dd with ibs=1 asks the
// kernel for one byte at a time, so that what follows is left to the command.
// A script that arrives cut short is no complete { } command, and does nothing.
const Bootstrap = `IFS= read -r ix_n && eval "$(dd ibs=1 obs=4096 count="$ix_n" 2>/dev/null)"`

// packed is a script as it is sent.
func packed(script string) []byte {
	return []byte(strconv.Itoa(len(script)) + "\n" + script)
}

var errNUL = errors.New("it holds a NUL byte, which no program can be given")

// quote makes one word of the shell of any text without a NUL byte.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// operand is a path that is no option and no name that cd searches for.
func operand(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "./" + path
}

// startScript starts a program when it hears our word. Its variables begin with
// ix_, so that none of the login's environment is changed.
func startScript(marker string, c executors.Command) (string, error) {
	var b strings.Builder
	word := func(format, s string) error {
		if strings.ContainsRune(s, 0) {
			return errNUL
		}
		fmt.Fprintf(&b, format, quote(s))
		return nil
	}
	errs := []error{}
	b.WriteString("{\n")
	errs = append(errs, word("ix_m=%s\n", marker))
	b.WriteString(`ix_no() { printf '%s %s\n' "$ix_m" "$1"; exit 126; }` + "\n")
	if c.Dir != "" {
		errs = append(errs, word("ix_d=%s\n", operand(c.Dir)))
		b.WriteString(enterScript)
	}
	errs = append(errs, word("ix_p=%s\n", c.Path))
	b.WriteString(findScript)
	b.WriteString(groupScript)
	for _, pair := range c.Env {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !isName(name) {
			return "", fmt.Errorf("the environment holds %q, expected NAME=VALUE with a name of letters, digits and _", name)
		}
		if slices.Contains(ownOfShells, name) {
			return "", fmt.Errorf("the environment holds %s, which some shells keep for themselves and refuse to change; leave it out", name)
		}
		errs = append(errs, word("export "+name+"=%s\n", value))
	}
	b.WriteString(`exec ${2:+"$2"} "$1"`)
	for _, arg := range c.Args {
		errs = append(errs, word(" %s", arg))
	}
	b.WriteString("\n}")
	return b.String(), errors.Join(errs...)
}

// ownOfShells are variables that bash makes readonly, also when it is called sh.
var ownOfShells = []string{"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}

func isName(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

const (
	enterScript = `[ -e "$ix_d" ] || ix_no no-directory
cd "$ix_d" || ix_no bad-dir
`
	// findScript finds the program as execvp would; command -v names builtins.
	findScript = `ix_f=$ix_p
case $ix_p in
*/*) ;;
*)
	ix_f=; IFS=:; set -f
	for ix_d in $PATH; do
		if [ -f "${ix_d:-.}/$ix_p" ] && [ -x "${ix_d:-.}/$ix_p" ]; then ix_f=${ix_d:-.}/$ix_p; break; fi
	done
	unset IFS; set +f
	[ -n "$ix_f" ] || ix_no unknown
	;;
esac
case $ix_f in /*) ;; *) ix_f=./$ix_f ;; esac # never an option of exec
[ -e "$ix_f" ] || ix_no absent
if [ ! -f "$ix_f" ] || [ ! -x "$ix_f" ]; then ix_no denied; fi
`
	// groupScript reports the shell's number, which becomes the program's by exec,
	// and the time it began at. sshd and Docker give each command a session of its
	// own; where something stands between, setsid makes one without a fork.
	groupScript = `read -r ix_s </proc/$$/stat || ix_no no-proc
set -f; set -- ${ix_s##*) }; set +f
ix_g=$3; ix_s=${20}
set -- "$ix_f"
if [ "$ix_g" != $$ ]; then
	ix_c=$(command -v setsid) || ix_no no-group # now: the command may be given another PATH
	set -- "$ix_f" "$ix_c"
fi
printf '%s go %s %s\n' "$ix_m" $$ "$ix_s" || exit 126
IFS= read -r ix_go && [ "$ix_go" = go ] || exit 126
`
)

// killScript kills a group and waits, at most some 5 s, until only zombies are
// left of it: those have ended, and wait for their parent. The leader comes
// first, since it may not have made its group yet, and must not any more.
func killScript(marker string, g group) string {
	return "{\nm=" + quote(marker) + "\ng=" + quote(g.id) + "\nb=" + quote(g.began) + `
say() { printf '%s %s\n' "$m" "$1"; exit 0; }
stat() { { read -r x <"$1"; } 2>/dev/null && x=${x##*) }; }
if stat "/proc/$g/stat"; then
	set -- $x
	[ "${20}" = "$b" ] || say gone
	kill -9 "$g" 2>/dev/null
fi
kill -9 "-$g" 2>/dev/null
i=0
while :; do # kill -0 would not see what belongs to another account
	left=
	for f in /proc/[0-9]*/stat; do
		stat "$f" || continue
		set -- $x
		[ "$3" = "$g" ] || [ "$f" = "/proc/$g/stat" ] || continue
		if [ "$1" != Z ] && [ "$1" != X ]; then left="$left ${f%/stat} in state $1"; fi
	done
	[ -n "$left" ] || break
	i=$((i + 1))
	[ $i -lt 100 ] || say "$left"
	sleep 0.05 2>/dev/null || sleep 1
done
say gone
}`
}
