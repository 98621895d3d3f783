// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"sort"
)

// The annotations that Calico keeps on a Node: the address of its tunnel device is the first of its block.
const (
	blockAnnotation   = "projectcalico.org/IPv4VXLANTunnelAddr"
	addressAnnotation = "projectcalico.org/IPv4Address"
)

const blockBits = 24

// Blocks are taken from the upper half of the pool, so that they seldom collide with podCIDRs, which start at the bottom.
const blocksInPool = 1 << (blockBits - 16)

// blockOf returns the block a node holds, "" when it holds none.
func blockOf(node node) string {
	address := net.ParseIP(node.Metadata.Annotations[blockAnnotation]).To4()
	if address == nil {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d.0/%d", address[0], address[1], address[2], blockBits)
}

// chooseBlock returns the block for a node: its own when it has one, else the first free one from preferred on.
func chooseBlock(pool *net.IPNet, nodes []node, name string, preferred int) (string, error) {
	base := pool.IP.To4()
	if ones, _ := pool.Mask.Size(); base == nil || ones != 16 {
		return "", fmt.Errorf("the pool %s is not an IPv4 /16", pool)
	}
	taken := map[string]bool{}
	for _, other := range nodes {
		if block := blockOf(other); block != "" {
			if other.Metadata.Name == name {
				return block, nil
			}
			taken[block] = true
		}
	}
	half := blocksInPool / 2
	for offset := 0; offset < half; offset++ {
		third := half + (preferred+offset)%half
		block := fmt.Sprintf("%d.%d.%d.0/%d", base[0], base[1], third, blockBits)
		if !taken[block] {
			return block, nil
		}
	}
	return "", errors.New("the pool has no free block")
}

// duplicates returns the nodes that hold a block which a node before them, in name order, holds too.
func duplicates(nodes []node) []string {
	sorted := append([]node(nil), nodes...)
	sort.Slice(sorted, func(a, b int) bool { return sorted[a].Metadata.Name < sorted[b].Metadata.Name })
	seen := map[string]bool{}
	var losers []string
	for _, node := range sorted {
		block := blockOf(node)
		if block == "" {
			continue
		}
		if seen[block] {
			losers = append(losers, node.Metadata.Name)
		}
		seen[block] = true
	}
	return losers
}

// takeBlock notes a block for this node on its Node object and returns it.
func takeBlock(cluster *cluster, name, pool string) (string, error) {
	_, network, err := net.ParseCIDR(pool)
	if err != nil {
		return "", fmt.Errorf("CALICO_IPV4POOL_CIDR: %w", err)
	}
	nodes, err := cluster.nodes()
	if err != nil {
		return "", err
	}
	own := ""
	for _, node := range nodes {
		if node.Metadata.Name == name {
			own = node.internalIP()
		}
	}
	address := net.ParseIP(own).To4()
	if address == nil {
		return "", fmt.Errorf("node %q has no IPv4 address yet", name)
	}
	block, err := chooseBlock(network, nodes, name, int(address[3]))
	if err != nil {
		return "", err
	}
	first, _, _ := net.ParseCIDR(block)
	return block, cluster.annotate(name, map[string]interface{}{
		blockAnnotation:   first.String(),
		addressAnnotation: own + "/32",
	})
}

// routesFor returns block -> next hop for every node but the named one.
func routesFor(nodes []node, name string) map[string]string {
	routes := map[string]string{}
	for _, node := range nodes {
		block, address := blockOf(node), node.internalIP()
		if node.Metadata.Name != name && block != "" && address != "" {
			routes[block] = address
		}
	}
	return routes
}

// lostBlock reports whether the named node exists and holds no block.
func lostBlock(nodes []node, name string) bool {
	for _, node := range nodes {
		if node.Metadata.Name == name {
			return blockOf(node) == ""
		}
	}
	return false
}
