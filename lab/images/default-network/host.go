// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/ioutil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Routes of this program carry the protocol number that Calico gives its VXLAN routes.
const routeProtocol = "80"

const masqueradeChain = "cali-nat-outgoing"

func run(name string, arguments ...string) (string, error) {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, bytes.TrimSpace(output))
	}
	return string(output), nil
}

// syncRoutes makes the routes to other nodes' blocks be exactly these.
func syncRoutes(routes map[string]string) error {
	listed, err := run("ip", "-json", "-4", "route", "show", "proto", routeProtocol)
	if err != nil {
		return err
	}
	var present []struct {
		Destination string `json:"dst"`
		Gateway     string `json:"gateway"`
	}
	if strings.TrimSpace(listed) != "" {
		if err := json.Unmarshal([]byte(listed), &present); err != nil {
			return err
		}
	}
	known := map[string]string{}
	for _, route := range present {
		known[route.Destination] = route.Gateway
		if routes[route.Destination] == "" {
			if _, err := run("ip", "route", "delete", route.Destination, "proto", routeProtocol); err != nil {
				return err
			}
		}
	}
	for block, gateway := range routes {
		if known[block] == gateway {
			continue
		}
		if _, err := run("ip", "route", "replace", block, "via", gateway, "proto", routeProtocol); err != nil {
			return err
		}
	}
	return nil
}

// ensureRules masquerades what leaves the pool.
func ensureRules(pool string) error {
	if _, err := run("iptables", "-w", "-t", "nat", "-n", "-L", masqueradeChain); err != nil {
		if _, err := run("iptables", "-w", "-t", "nat", "-N", masqueradeChain); err != nil {
			return err
		}
	}
	rule := []string{"-s", pool, "!", "-d", pool, "-j", "MASQUERADE"}
	if err := ensureRule("nat", masqueradeChain, rule...); err != nil {
		return err
	}
	return ensureRule("nat", "POSTROUTING", "-j", masqueradeChain)
}

func ensureRule(table, chain string, rule ...string) error {
	place := []string{"-w", "-t", table}
	if _, err := run("iptables", append(append(place, "-C", chain), rule...)...); err == nil {
		return nil
	}
	_, err := run("iptables", append(append([]string{"-w", "-t", table}, "-A", chain), rule...)...)
	return err
}

// enableBridgeFilter lets kube-proxy's rules see packets between two pods of one bridge: without it an answer that needs
// its source translated back would take the short way.
func enableBridgeFilter() error {
	err := ioutil.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// replaceFile writes by rename inside the directory, so that containerd notices and never reads half a file.
func replaceFile(path string, text []byte) error {
	if old, err := ioutil.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := ioutil.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func writeConflist(directory, block string) error {
	type object = map[string]interface{}
	list := object{
		"name":       "k8s-pod-network",
		"cniVersion": "0.3.1",
		"plugins": []object{
			{
				"type":         "bridge",
				"bridge":       "vxlan.calico",
				"isGateway":    true,
				"forceAddress": true,
				"hairpinMode":  true,
				"ipam": object{
					"type":   "host-local",
					"ranges": [][]object{{{"subnet": block}}},
					"routes": []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "snat": true, "capabilities": object{"portMappings": true}},
		},
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(directory, "10-calico.conflist"), append(text, '\n'))
}

// writeKubeconfig leaves the credentials that Calico's plugin would read.
func writeKubeconfig(directory string) error {
	token, err := ioutil.ReadFile(account + "token")
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: local
  cluster:
    server: https://%s:%s
    insecure-skip-tls-verify: true
users:
- name: calico
  user:
    token: %s
contexts:
- name: calico-context
  context: {cluster: local, user: calico}
current-context: calico-context
`, os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"), strings.TrimSpace(string(token)))
	return replaceFile(filepath.Join(directory, "calico-kubeconfig"), []byte(text))
}
