// SPDX-License-Identifier: Apache-2.0

// default-network is the pod network that a fresh lab node comes up with: Debian's reference CNI plugins in the places and
// under the names of Calico. Each node takes a /24 of the pool, notes it on its Node object, and routes to the others.
package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	confDir = "/host/etc/cni/net.d"
	// How often routes, rules and credentials are put right.
	period = 3 * time.Second
)

func main() {
	log.SetFlags(0)
	var err error
	switch name := argument(); name {
	case "install-cni":
		err = installCNI()
	case "calico-node":
		err = runNode()
	case "kube-controllers":
		err = runControllers()
	default:
		err = fmt.Errorf("unknown command %q: use install-cni, calico-node or kube-controllers", name)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func argument() string {
	if len(os.Args) != 2 {
		return ""
	}
	return os.Args[1]
}

// installCNI takes a block for this node and writes the CNI configuration; kubelet reports Ready soon after.
func installCNI() error {
	cluster, err := inCluster()
	if err != nil {
		return err
	}
	var block string
	err = retry(2*time.Minute, func() error {
		block, err = takeBlock(cluster, os.Getenv("NODENAME"), os.Getenv("CALICO_IPV4POOL_CIDR"))
		return err
	})
	if err != nil {
		return err
	}
	if err := writeKubeconfig(confDir); err != nil {
		return err
	}
	return writeConflist(confDir, block)
}

// runNode keeps the routes to the other nodes' blocks, the masquerading and the plugins' credentials right.
func runNode() error {
	cluster, err := inCluster()
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	for {
		if err := syncNode(cluster); err != nil {
			log.Print(err)
		}
		select {
		case <-stop:
			return nil
		case <-time.After(period):
		}
	}
}

func syncNode(cluster *cluster) error {
	nodes, err := cluster.nodes()
	if err != nil {
		return err
	}
	name := os.Getenv("NODENAME")
	if lostBlock(nodes, name) {
		block, err := takeBlock(cluster, name, os.Getenv("CALICO_IPV4POOL_CIDR"))
		if err != nil {
			return err
		}
		log.Printf("this node's block is %s from now on", block)
		return writeConflist(confDir, block)
	}
	if err := syncRoutes(routesFor(nodes, name)); err != nil {
		return err
	}
	if err := ensureRules(os.Getenv("CALICO_IPV4POOL_CIDR")); err != nil {
		return err
	}
	if err := enableBridgeFilter(); err != nil {
		return err
	}
	return writeKubeconfig(confDir)
}

// runControllers looks for nodes that took the same block at the same moment, and has the later ones take another.
func runControllers() error {
	cluster, err := inCluster()
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	for {
		nodes, err := cluster.nodes()
		if err != nil {
			log.Print(err)
		}
		for _, name := range duplicates(nodes) {
			log.Printf("node %s shares its block with another node: taking it away", name)
			if err := cluster.annotate(name, map[string]interface{}{blockAnnotation: nil}); err != nil {
				log.Print(err)
			}
		}
		select {
		case <-stop:
			return nil
		case <-time.After(10 * period):
		}
	}
}

// retry calls act until it succeeds or the time is over; it returns the last error.
func retry(limit time.Duration, act func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := act()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		log.Print(err)
		time.Sleep(300 * time.Millisecond)
	}
}
