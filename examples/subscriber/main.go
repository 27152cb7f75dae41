// Command subscriber prints a sentence for each decision of a cluster, as an alert
// would. What it is given, "interrex subscriber" prints; it needs no code of ours.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: subscriber URL KEYFILE CLUSTER")
	}
	key, keyErr := nats.NkeyOptionFromSeed(os.Args[2])
	nc, err := nats.Connect(os.Args[1], key, nats.MaxReconnects(-1))
	if err = errors.Join(keyErr, err); err != nil {
		log.Fatal(err)
	}
	decisions := make(chan *nats.Msg, 1024)
	if _, err = nc.ChanSubscribe("interrex."+os.Args[3]+".decision.>", decisions); err != nil {
		log.Fatal(err)
	}
	for m := range decisions {
		fmt.Println(m.Header.Get("ce-time"), m.Header.Get("ce-sentence"))
	}
}
