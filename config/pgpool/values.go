package pgpool

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// NoNode is the id that pgpool gives for a node that there is not.
const NoNode = -1

// Node is a PostgreSQL as scripts know it.
type Node struct {
	ID      int // pgpool's backend id
	Host    string
	Port    int
	DataDir string
}

// Values are what the placeholders stand for.
type Values struct {
	Detached Node // %d %h %p %D: the node that failed
	// Main is %m %H %r %R: the node that shall be primary. pgpool puts the lowest
	// id alive there; Interrex puts the candidate that was decided on. Without
	// one: Node{ID: NoNode}, and %H %r %R are empty arguments, as with pgpool.
	Main    Node
	OldMain int  // %M: pgpool's lowest id alive before; where nobody counts so, the old primary's
	Primary Node // %P %N %S: the old primary
}

func (v Values) of(letter byte) string {
	switch letter {
	case 'd':
		return strconv.Itoa(v.Detached.ID)
	case 'h':
		return v.Detached.Host
	case 'p':
		return port(v.Detached)
	case 'D':
		return v.Detached.DataDir
	case 'm':
		return strconv.Itoa(v.Main.ID)
	case 'H':
		return v.Main.Host
	case 'r':
		return port(v.Main)
	case 'R':
		return v.Main.DataDir
	case 'M':
		return strconv.Itoa(v.OldMain)
	case 'P':
		return strconv.Itoa(v.Primary.ID)
	case 'N':
		return v.Primary.Host
	}
	return port(v.Primary) // S, the last of them
}

func port(n Node) string {
	if n.Port == 0 {
		return ""
	}
	return strconv.Itoa(n.Port)
}

// Check refuses values that are not safe in a script made for pgpool. Such
// scripts put them into shell lines without quotes, on this host and at the
// other end of an ssh (the tutorial's: ssh host rm -rf $destdir/*), where a
// space makes two directories of one and a $( ) runs. pgpool itself never
// passed such a value whole either.
func (v Values) Check() error {
	return errors.Join(v.Detached.check("d", "h", "D"), v.Main.check("m", "H", "R"), v.Primary.check("P", "N", ""))
}

func (n Node) check(id, host, dir string) error {
	err := plain("host", n.Host)
	if dir != "" {
		err = errors.Join(err, plain("data directory", n.DataDir))
	}
	if err != nil {
		return fmt.Errorf("node %d (%%%s, %%%s, %%%s): %w; nothing was run", n.ID, id, host, dir, err)
	}
	return nil
}

// Check says what keeps a node from being given to scripts that copy a data
// directory to it or from it. Beyond Values.Check: everything must be known,
// and the data directory be an absolute path that is not the root, because
// scripts remove what is in it.
func (n Node) Check() error {
	err := errors.Join(plain("host", n.Host), plain("data directory", n.DataDir))
	switch {
	case err != nil:
	case n.Host == "" || n.Port <= 0:
		err = fmt.Errorf("its address %q, port %d is not known", n.Host, n.Port)
	case !path.IsAbs(n.DataDir) || path.Clean(n.DataDir) == "/":
		err = fmt.Errorf("the data directory %q must be an absolute path below /", n.DataDir)
	}
	if err != nil {
		return fmt.Errorf("node %d: %w; nothing was run", n.ID, err)
	}
	return nil
}

// harmless are the characters, beside letters and digits, that mean nothing to a
// shell wherever they stand, quoted or not.
const harmless = "_-./:@%+,="

func plain(what, value string) error {
	if strings.HasPrefix(value, "-") {
		return fmt.Errorf("the %s %q begins with a dash, which ssh and others take for an option", what, value)
	}
	for _, r := range value {
		if r == unicode.ReplacementChar || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(harmless, r) {
			return fmt.Errorf("the %s %q holds %q, which a shell does not take for a plain letter; scripts made for pgpool quote nothing", what, value, r)
		}
	}
	return nil
}

// CheckScript says what is wrong with the name of a recovery script: pgpool
// wants the name of a file in the primary's data directory and passes fixed
// arguments; here an absolute path is taken as well.
func CheckScript(name string) error {
	switch {
	case strings.ContainsAny(name, "% \t"):
		return errors.New("it must be the name of a file in the primary's data directory, or an absolute path, without arguments or placeholders: pgpool passes its own seven arguments")
	case name == "." || name == "..", !path.IsAbs(name) && strings.Contains(name, "/"):
		return errors.New("it must be the name of a file in the primary's data directory, without a slash, or an absolute path")
	}
	return plain("name", name)
}
