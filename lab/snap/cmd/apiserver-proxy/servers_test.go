// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/ioutil"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestProviderRoundTrip(t *testing.T) {
	want := []string{"10.0.0.1:16443", "10.0.0.2:16443"}
	if got := parseProvider(providerText(want)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestProviderWithoutServersIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "provider.yaml")
	if err := ioutil.WriteFile(path, []byte("tcp:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newServers(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error naming %s", err, path)
	}
}

func TestServerThatDoesNotAnswerGoesLast(t *testing.T) {
	servers := &servers{addresses: []string{"a", "b", "c"}}
	servers.demote("a")
	servers.demote("unknown")
	if got := servers.list(); !reflect.DeepEqual(got, []string{"b", "c", "a"}) {
		t.Error(got)
	}
}

func TestSetReportsChangesOfMembersOnly(t *testing.T) {
	servers := &servers{addresses: []string{"b", "a"}}
	if servers.set([]string{"a", "b"}) {
		t.Error("another order is no change")
	}
	if !servers.set([]string{"a"}) || !reflect.DeepEqual(servers.list(), []string{"a"}) {
		t.Error("a server that is gone must go")
	}
}

func TestAskCluster(t *testing.T) {
	answer := `{"subsets":[{"addresses":[{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}],"ports":[{"port":16443}]}]}`
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/default/endpoints/kubernetes" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		fmt.Fprint(w, answer)
	}))
	defer server.Close()
	config := writeKubeconfig(t, server.Certificate())
	got, err := askCluster(context.Background(), config, server.URL)
	if err != nil || !reflect.DeepEqual(got, []string{"10.0.0.1:16443", "10.0.0.2:16443"}) {
		t.Errorf("got %v, %v", got, err)
	}
	answer = `{"subsets":[]}`
	if got, err := askCluster(context.Background(), config, server.URL); err == nil {
		t.Errorf("no endpoints must be an error, not %v", got)
	}
}

func TestConnectionsGoToTheServerThatAnswers(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			connection, err := backend.Accept()
			if err != nil {
				return
			}
			text, _ := ioutil.ReadAll(connection)
			fmt.Fprintf(connection, "got %s", text)
			connection.Close()
		}
	}()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	servers := &servers{addresses: []string{dead.Addr().String(), backend.Addr().String()}}
	go func() {
		connection, err := front.Accept()
		if err == nil {
			serve(connection.(*net.TCPConn), servers)
		}
	}()
	client, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(client, "hello")
	_ = client.(*net.TCPConn).CloseWrite()
	_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
	if text, err := ioutil.ReadAll(client); err != nil || string(text) != "got hello" {
		t.Errorf("got %q, %v", text, err)
	}
	if servers.list()[0] != backend.Addr().String() {
		t.Error("the server that does not answer must not be asked first again")
	}
}

// writeKubeconfig makes credentials that trust authority.
func writeKubeconfig(t *testing.T, authority *x509.Certificate) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	text := fmt.Sprintf("    certificate-authority-data: %s\n    client-certificate-data: %s\n    client-key-data: %s\n",
		encode("CERTIFICATE", authority.Raw), encode("CERTIFICATE", certificate), encode("EC PRIVATE KEY", private))
	path := filepath.Join(t.TempDir(), "kubelet.config")
	if err := ioutil.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
