package remote

import "github.com/interrex-ha/interrex/executors"

// Packed is the script that starts a program, as it is sent.
func Packed(c executors.Command) ([]byte, error) {
	script, err := startScript("marker", c)
	return packed(script), err
}

var Quote = quote

// KillScript ends the process group id, whose leader began at a time of its stat.
func KillScript(marker, id, began string) string {
	return killScript(marker, group{id: id, began: began})
}
