// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func ask(t *testing.T, method, path string) (response *http.Response, body string, exploded bool) {
	t.Helper()
	recorder := httptest.NewRecorder()
	newDeathStar("pod-1", func() { exploded = true }).ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
	response = recorder.Result()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text), exploded
}

func TestShipsLand(t *testing.T) {
	response, body, exploded := ask(t, "POST", "/v1/request-landing")
	if response.StatusCode != 200 || body != "Ship landed\n" || exploded {
		t.Fatal(response.Status, body, exploded)
	}
}

func TestAHitIsAnsweredAndEndsTheDeathStar(t *testing.T) {
	response, body, exploded := ask(t, "PUT", "/v1/exhaust-port")
	if response.StatusCode != 503 || !strings.HasPrefix(body, "Panic: deathstar exploded\n\ngoroutine 1 [running]:") {
		t.Fatal(response.Status, body)
	}
	if !exploded {
		t.Fatal("nothing happens")
	}
}

func TestTheDescriptionIsOfStrings(t *testing.T) {
	for _, path := range []string{"/v1", "/v1/"} {
		response, body, _ := ask(t, "GET", path)
		var told map[string]interface{}
		if err := json.Unmarshal([]byte(body), &told); err != nil || response.StatusCode != 200 {
			t.Fatal(path, response.Status, err)
		}
		if told["hostname"] != "pod-1" || told["cost_in_credits"] != "1000000000000" || len(told["api"].([]interface{})) != 6 {
			t.Fatal(told)
		}
		if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
			t.Fatal(kind)
		}
	}
}

func TestWhatIsPromisedOnlyIsNotThere(t *testing.T) {
	for path, method := range map[string]string{
		"/v1/healthz": "GET", "/v1/cargobay": "PUT", "/v1/hyper-matter-reactor/status": "GET", "/": "GET",
	} {
		response, body, _ := ask(t, method, path)
		if response.StatusCode != 404 || !strings.Contains(body, `"code":404`) || !strings.Contains(body, path) {
			t.Fatal(path, response.Status, body)
		}
	}
}

func TestAnotherMethodIsRefusedAndToldWhich(t *testing.T) {
	response, body, exploded := ask(t, "GET", "/v1/exhaust-port")
	if response.StatusCode != 405 || response.Header.Get("Allow") != "PUT" || exploded {
		t.Fatal(response.Status, response.Header, exploded)
	}
	if !strings.Contains(body, `"message":"method GET is not allowed, but [PUT] are"`) {
		t.Fatal(body)
	}
}
