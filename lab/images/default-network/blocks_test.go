// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io/ioutil"
	"net"
	"path/filepath"
	"reflect"
	"testing"
)

func makeNode(t *testing.T, name, address, block string) node {
	text := fmt.Sprintf(`{"metadata":{"name":%q,"annotations":{"projectcalico.org/IPv4VXLANTunnelAddr":%q}},
		"status":{"addresses":[{"type":"Hostname","address":%q},{"type":"InternalIP","address":%q}]}}`, name, block, name, address)
	var made node
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	return made
}

func TestChooseBlock(t *testing.T) {
	_, pool, _ := net.ParseCIDR("10.1.0.0/16")
	a := makeNode(t, "a", "172.30.1.11", "10.1.139.0")
	fresh := makeNode(t, "b", "172.30.1.12", "")
	for name, test := range map[string]struct {
		nodes     []node
		node      string
		preferred int
		want      string
	}{
		"a node keeps its block":         {[]node{a}, "a", 99, "10.1.139.0/24"},
		"a fresh node gets the wish":     {[]node{a, fresh}, "b", 12, "10.1.140.0/24"},
		"a taken wish gives the next":    {[]node{a, fresh}, "b", 11, "10.1.140.0/24"},
		"blocks stay in the upper half":  {[]node{fresh}, "b", 200, "10.1.200.0/24"},
		"the end continues at the start": {[]node{makeNode(t, "z", "172.30.1.255", "10.1.255.0"), fresh}, "b", 127, "10.1.128.0/24"},
	} {
		got, err := chooseBlock(pool, test.nodes, test.node, test.preferred)
		if err != nil || got != test.want {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, test.want)
		}
	}
}

func TestFullPoolIsAnError(t *testing.T) {
	_, pool, _ := net.ParseCIDR("10.1.0.0/16")
	var nodes []node
	for third := 128; third < 256; third++ {
		nodes = append(nodes, makeNode(t, fmt.Sprint(third), "172.30.1.1", fmt.Sprintf("10.1.%d.0", third)))
	}
	if got, err := chooseBlock(pool, nodes, "late", 1); err == nil {
		t.Errorf("got %s", got)
	}
}

func TestOfTwoNodesWithOneBlockTheLaterInNameLosesIt(t *testing.T) {
	nodes := []node{makeNode(t, "c", "1.1.1.3", "10.1.140.0"), makeNode(t, "a", "1.1.1.1", "10.1.140.0"),
		makeNode(t, "b", "1.1.1.2", ""), makeNode(t, "d", "1.1.1.4", "")}
	if got := duplicates(nodes); !reflect.DeepEqual(got, []string{"c"}) {
		t.Error(got)
	}
}

func TestRoutesLeadToOtherNodesOnly(t *testing.T) {
	nodes := []node{makeNode(t, "a", "1.1.1.1", "10.1.139.0"), makeNode(t, "b", "1.1.1.2", "10.1.140.0"), makeNode(t, "c", "1.1.1.3", "")}
	want := map[string]string{"10.1.140.0/24": "1.1.1.2"}
	if got := routesFor(nodes, "a"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestConflistIsOneThatContainerdReads(t *testing.T) {
	directory := t.TempDir()
	if err := writeConflist(directory, "10.1.139.0/24"); err != nil {
		t.Fatal(err)
	}
	text, err := ioutil.ReadFile(filepath.Join(directory, "10-calico.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name    string
		Plugins []struct {
			Type string
			Ipam struct{ Ranges [][]struct{ Subnet string } }
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if list.Name != "k8s-pod-network" || len(list.Plugins) != 2 || list.Plugins[0].Type != "bridge" ||
		list.Plugins[1].Type != "portmap" || list.Plugins[0].Ipam.Ranges[0][0].Subnet != "10.1.139.0/24" {
		t.Errorf("%s", text)
	}
	left, _ := filepath.Glob(filepath.Join(directory, ".*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
