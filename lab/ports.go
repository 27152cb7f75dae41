package lab

import (
	"fmt"
	"net"
	"strconv"
)

// FirstPort is where Create begins to look for free ports.
const FirstPort = 54320

// lastPort bounds the search.
const lastPort = 60000

// portBlock keeps clusters apart: ports are searched for in blocks of which
// nothing is in use, so that no new cluster takes the port of a node that is
// down just now.
const portBlock = 10

// choosePorts returns n consecutive ports: those from first on, which must be
// free, or with first 0 the first ones of the first free block from FirstPort
// on. Somebody may still take one before the server does; the server's start
// then fails.
func choosePorts(first, n int, name func(i int) string) (int, error) {
	if first != 0 {
		if first < 1 || first+n-1 > 65535 {
			return 0, fmt.Errorf("lab: ports %d to %d for %d nodes: they must lie between 1 and 65535", first, first+n-1, n)
		}
		for i := range n {
			if err := portFree(first + i); err != nil {
				return 0, fmt.Errorf("lab: port %d for node %s is in use (%w); stop what listens there or choose another first port", first+i, name(i), err)
			}
		}
		return first, nil
	}
	for block := FirstPort; block+n-1 <= lastPort; block += portBlock {
		end := block + (n+portBlock-1)/portBlock*portBlock
		p := block
		for p < end && portFree(p) == nil {
			p++
		}
		if p == end {
			return block, nil
		}
	}
	return 0, fmt.Errorf("lab: no %d consecutive free ports between %d and %d; choose the first port yourself", n, FirstPort, lastPort)
}

func portFree(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}
