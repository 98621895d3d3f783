// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// cluster is the API server as a pod sees it.
type cluster struct {
	base   string
	client http.Client
}

type node struct {
	Metadata struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

func (n node) internalIP() string {
	for _, entry := range n.Status.Addresses {
		if entry.Type == "InternalIP" {
			return entry.Address
		}
	}
	return ""
}

func inCluster() (*cluster, error) {
	authority, err := ioutil.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return &cluster{base: "https://" + host, client: http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// call does one request; the answer is decoded into result unless that is nil.
func (c *cluster) call(method, path, contentType string, body, result interface{}) error {
	token, err := ioutil.ReadFile(account + "token") // read each time: it is renewed
	if err != nil {
		return err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(method, c.base+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", contentType)
	answer, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		message, _ := ioutil.ReadAll(answer.Body)
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, bytes.TrimSpace(message))
	}
	if result == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(result)
}

func (c *cluster) nodes() ([]node, error) {
	var list struct {
		Items []node `json:"items"`
	}
	err := c.call("GET", "/api/v1/nodes", "application/json", nil, &list)
	return list.Items, err
}

// annotate sets annotations of a node; nil removes one.
func (c *cluster) annotate(name string, annotations map[string]interface{}) error {
	patch := map[string]interface{}{"metadata": map[string]interface{}{"annotations": annotations}}
	return c.call("PATCH", "/api/v1/nodes/"+name, "application/merge-patch+json", patch, nil)
}
