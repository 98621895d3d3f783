// SPDX-License-Identifier: Apache-2.0

// starwars is the server of the well-known Star Wars demo: a Death Star whose API lets ships land, and has a weak spot.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// How long the Death Star still answers after a hit.
const explosionDelay = 2 * time.Second

func main() {
	log.SetFlags(0)
	address := flag.String("listen", ":80", "address to listen on")
	flag.Parse()
	hostname, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	// A container's first process ignores signals that it has no handler for.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		os.Exit(0)
	}()
	log.Printf("the Death Star %s listens on %s", hostname, *address)
	log.Fatal(http.ListenAndServe(*address, newDeathStar(hostname, explode)))
}

// explode ends the process as a crash does: the container restarts.
func explode() {
	// Not in the request's own goroutine: net/http would recover.
	go func() {
		time.Sleep(explosionDelay)
		panic("deathstar exploded")
	}()
}
