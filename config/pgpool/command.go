// Package pgpool reads notations of a pgpool.conf: the command lines that a
// pgpool user already has, with their placeholders.
package pgpool

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Command is a parsed command line such as
//
//	/etc/pgpool-II/failover_stream.sh %d %H /tmp/trigger_file0
//
// The zero value is none. pgpool puts the values into the line and hands it to
// system(3), so that a value can end a word, or begin another command. Here the
// line is cut into words once, before any value is known, as a shell would cut
// it (blanks, quotes, backslashes), and the program is run without a shell: a
// value is always exactly one argument, or part of one. What only a shell could
// do ($HOME, >file, a && b, *) is refused by name when the line is read, never
// passed on as text. A second shell, in the script or at the other end of its
// ssh, is out of our hands: see Values.Check.
type Command struct {
	line  string
	words []word
}

// word is one argument: texts and placeholders in turn.
type word []part

type part struct {
	text string
	hole byte // the placeholder's letter; 0: text
}

// placeholders are those of pgpool-II 4.1 and later; 3.4 lacks N and S.
const placeholders = "dhpDmHMPrRNS"

// ParseCommand reads a line. The program must be an absolute path without a
// placeholder. Every error says what is wrong with which part.
func ParseCommand(line string) (Command, error) {
	s := splitter{rest: strings.TrimSpace(line)}
	words, err := s.all()
	if err != nil {
		return Command{}, err
	}
	if len(words) == 0 {
		return Command{}, errors.New("it is empty; expected a program and its arguments")
	}
	program := words[0]
	for _, p := range program {
		if p.hole != 0 {
			return Command{}, fmt.Errorf("the program depends on the placeholder %%%c; write its path out", p.hole)
		}
	}
	if name := program.text(); !path.IsAbs(name) {
		return Command{}, fmt.Errorf("the program %q has no absolute path; the PATH of the host where it runs is not yours (for a variable before the program: /usr/bin/env NAME=value …)", name)
	}
	return Command{line: strings.TrimSpace(line), words: words}, nil
}

// IsZero says that there is no command.
func (c Command) IsZero() bool { return len(c.words) == 0 }

// String is the line as it was given.
func (c Command) String() string { return c.line }

// Program is the path of the program, empty for no command.
func (c Command) Program() string {
	if c.IsZero() {
		return ""
	}
	return c.words[0].text()
}

// Args puts values into the line: one argument for each word after the
// program. Values that Check refuses are an error.
func (c Command) Args(v Values) ([]string, error) {
	if c.IsZero() {
		return nil, errors.New("there is no command")
	}
	if err := v.Check(); err != nil {
		return nil, err
	}
	args := make([]string, 0, len(c.words)-1)
	for _, w := range c.words[1:] {
		var b strings.Builder
		for _, p := range w {
			if p.hole != 0 {
				b.WriteString(v.of(p.hole))
			}
			b.WriteString(p.text)
		}
		args = append(args, b.String())
	}
	return args, nil
}

func (w word) text() string {
	var b strings.Builder
	for _, p := range w {
		b.WriteString(p.text)
	}
	return b.String()
}

// splitter cuts a line into words.
type splitter struct {
	rest   string
	words  []word
	word   word
	inWord bool // quotes make a word even where it is empty
}

// shellOnly are the characters that mean something to a shell outside of quotes.
const shellOnly = "|&;<>()$`*?[]{}\n"

func (s *splitter) all() ([]word, error) {
	for s.rest != "" {
		c := s.rest[0]
		var err error
		switch {
		case c == ' ' || c == '\t':
			s.end()
			s.rest = s.rest[1:]
		case c == '\'' || c == '"':
			err = s.quoted(c)
		case c == '\\':
			err = s.escaped()
		case !s.inWord && (c == '~' || c == '#'), strings.IndexByte(shellOnly, c) >= 0:
			err = onlyAShell(c)
		case c < ' ' || c == 0x7f:
			err = fmt.Errorf("it holds the control character %q", c)
		default:
			err = s.take()
		}
		if err != nil {
			return nil, err
		}
	}
	s.end()
	return s.words, nil
}

func onlyAShell(c byte) error {
	return fmt.Errorf("%q means something to a shell only, and the line is run without one; quote it if it is meant literally, else put it into a script (standard output and error are recorded anyway)", string(c))
}

func (s *splitter) end() {
	if s.inWord {
		s.words = append(s.words, s.word)
	}
	s.word, s.inWord = nil, false
}

// add appends a text to the word.
func (s *splitter) add(text string) {
	s.inWord = true
	if n := len(s.word); n > 0 {
		s.word[n-1].text += text
		return
	}
	s.word = word{{text: text}}
}

// take moves one character, or one placeholder, from the line to the word.
func (s *splitter) take() error {
	c := s.rest[0]
	if c != '%' {
		s.add(s.rest[:1])
		s.rest = s.rest[1:]
		return nil
	}
	if len(s.rest) == 1 {
		return errors.New("it ends in %; a percent sign is written %%")
	}
	letter := s.rest[1]
	switch {
	case letter == '%':
		s.add("%")
	case strings.IndexByte(placeholders, letter) >= 0:
		s.inWord = true
		s.word = append(s.word, part{hole: letter})
	default:
		return fmt.Errorf("there is no placeholder %%%c; pgpool has %%%s, and %%%% for a percent sign", []rune(s.rest[1:])[0], strings.Join(strings.Split(placeholders, ""), " %"))
	}
	s.rest = s.rest[2:]
	return nil
}

// quoted reads up to the closing quote. pgpool knows nothing of quotes, so that
// placeholders count inside of both sorts.
func (s *splitter) quoted(quote byte) error {
	s.rest = s.rest[1:]
	s.add("")
	for s.rest != "" {
		c := s.rest[0]
		var err error
		switch {
		case c == quote:
			s.rest = s.rest[1:]
			return nil
		case quote == '"' && c == '\\' && len(s.rest) > 1 && strings.IndexByte("\"\\$`", s.rest[1]) >= 0:
			s.add(s.rest[1:2])
			s.rest = s.rest[2:]
		case quote == '"' && (c == '$' || c == '`'):
			err = onlyAShell(c)
		default:
			err = s.take()
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("a quote %c is not closed", quote)
}

// escaped reads a backslash outside of quotes and what it quotes. pgpool
// replaces placeholders first, so a backslash before one quotes nothing.
func (s *splitter) escaped() error {
	s.rest = s.rest[1:]
	switch {
	case s.rest == "":
		return errors.New("it ends in a backslash")
	case s.rest[0] == '\n':
		s.rest = s.rest[1:]
		return nil
	case s.rest[0] == '%':
		return s.take()
	}
	s.add(s.rest[:1])
	s.rest = s.rest[1:]
	return nil
}
