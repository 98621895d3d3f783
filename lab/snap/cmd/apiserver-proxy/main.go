// SPDX-License-Identifier: Apache-2.0

// apiserver-proxy listens on a worker and passes connections on to the API servers of the cluster. TLS goes through
// untouched. It learns about new API servers from the cluster itself.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"
	"time"
)

const dialTimeout = 3 * time.Second

func main() {
	log.SetFlags(0)
	listen := flag.String("listen", "127.0.0.1:16443", "address to listen on")
	provider := flag.String("traefik-config", "", "file with the API servers' addresses")
	kubeconfig := flag.String("kubeconfig", "", "credentials to ask the cluster for its API servers")
	interval := flag.Duration("refresh-interval", 30*time.Second, "how often to ask")
	flag.Parse()

	servers, err := newServers(*provider)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s for %v", *listen, servers.list())
	go refresh(servers, *provider, *kubeconfig, "https://"+*listen, *interval)
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(client.(*net.TCPConn), servers)
	}
}

// refresh asks the cluster for its API servers every interval and remembers them on disk. The last known list stays when
// nobody answers.
func refresh(servers *servers, provider, kubeconfig, api string, interval time.Duration) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		found, err := askCluster(ctx, kubeconfig, api)
		cancel()
		switch {
		case err != nil:
			log.Printf("keeping %v: %v", servers.list(), err)
		case servers.set(found):
			log.Printf("the API servers are %v", found)
			if err := writeProvider(provider, found); err != nil {
				log.Print(err)
			}
		}
		time.Sleep(interval)
	}
}

// serve connects a client to the first API server that answers.
func serve(client *net.TCPConn, servers *servers) {
	defer client.Close()
	for _, address := range servers.list() {
		connection, err := net.DialTimeout("tcp", address, dialTimeout)
		if err != nil {
			log.Printf("%s: %v", address, err)
			servers.demote(address)
			continue
		}
		join(client, connection.(*net.TCPConn))
		return
	}
}

// join copies both ways until both ends are done.
func join(client, server *net.TCPConn) {
	defer server.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(client, server)
	_ = client.CloseWrite()
	<-done
}
