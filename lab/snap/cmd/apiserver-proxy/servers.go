// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/ioutil"
	"net"
	"net/http"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// servers is the list of API servers, the best first.
type servers struct {
	mutex     sync.Mutex
	addresses []string
}

var providerAddress = regexp.MustCompile(`(?m)^\s*-?\s*address:\s*"?([^"\s]+)"?\s*$`)

func newServers(provider string) (*servers, error) {
	text, err := ioutil.ReadFile(provider)
	if err != nil {
		return nil, err
	}
	found := parseProvider(string(text))
	if len(found) == 0 {
		return nil, fmt.Errorf("%s names no API server", provider)
	}
	return &servers{addresses: found}, nil
}

func parseProvider(text string) []string {
	var found []string
	for _, match := range providerAddress.FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

func providerText(addresses []string) string {
	var text strings.Builder
	text.WriteString("tcp:\n  services:\n    kube-apiserver:\n      loadBalancer:\n        servers:\n")
	for _, address := range addresses {
		text.WriteString("        - address: " + address + "\n")
	}
	return text.String()
}

func writeProvider(path string, addresses []string) error {
	temporary := path + ".new"
	if err := ioutil.WriteFile(temporary, []byte(providerText(addresses)), 0o660); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func (s *servers) list() []string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return append([]string(nil), s.addresses...)
}

// set replaces the list; it reports whether the members differ from before, whatever their order.
func (s *servers) set(addresses []string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	before, after := append([]string(nil), s.addresses...), append([]string(nil), addresses...)
	sort.Strings(before)
	sort.Strings(after)
	if strings.Join(before, " ") == strings.Join(after, " ") {
		return false
	}
	s.addresses = after
	return true
}

// demote moves an API server that did not answer to the end of the list.
func (s *servers) demote(address string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var rest []string
	for _, other := range s.addresses {
		if other != address {
			rest = append(rest, other)
		}
	}
	if len(rest) < len(s.addresses) {
		s.addresses = append(rest, address)
	}
}

type endpoints struct {
	Subsets []struct {
		Addresses []struct {
			IP string `json:"ip"`
		} `json:"addresses"`
		Ports []struct {
			Port int `json:"port"`
		} `json:"ports"`
	} `json:"subsets"`
}

// askCluster returns the addresses behind the service "kubernetes".
func askCluster(ctx context.Context, kubeconfig, api string) ([]string, error) {
	config, err := clientTLS(kubeconfig)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, "GET", api+"/api/v1/namespaces/default/endpoints/kubernetes", nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for the API servers: %s", answer.Status)
	}
	var found endpoints
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil {
		return nil, err
	}
	var addresses []string
	for _, subset := range found.Subsets {
		for _, address := range subset.Addresses {
			for _, port := range subset.Ports {
				addresses = append(addresses, net.JoinHostPort(address.IP, strconv.Itoa(port.Port)))
			}
		}
	}
	if len(addresses) == 0 {
		return nil, errors.New("the service kubernetes has no endpoints")
	}
	return addresses, nil
}

// clientTLS reads the embedded certificates of a kubeconfig.
func clientTLS(path string) (*tls.Config, error) {
	text, err := ioutil.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var decoded [3][]byte
	for index, key := range []string{"certificate-authority-data", "client-certificate-data", "client-key-data"} {
		match := regexp.MustCompile(`(?m)^\s*` + key + `:\s*(\S+)\s*$`).FindSubmatch(text)
		if match == nil {
			return nil, fmt.Errorf("%s has no %s", path, key)
		}
		if decoded[index], err = base64.StdEncoding.DecodeString(string(match[1])); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	pair, err := tls.X509KeyPair(decoded[1], decoded[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(decoded[0])
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
