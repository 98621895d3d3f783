// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// description is what GET /v1 tells, in this order. All values are strings but the list.
type description struct {
	Name             string   `json:"name"`
	Hostname         string   `json:"hostname"`
	Model            string   `json:"model"`
	Manufacturer     string   `json:"manufacturer"`
	CostInCredits    string   `json:"cost_in_credits"`
	Length           string   `json:"length"`
	Crew             string   `json:"crew"`
	Passengers       string   `json:"passengers"`
	CargoCapacity    string   `json:"cargo_capacity"`
	HyperdriveRating string   `json:"hyperdrive_rating"`
	StarshipClass    string   `json:"starship_class"`
	API              []string `json:"api"`
}

// What the API lists; the second, fourth and fifth are promised and never were built.
var listed = []string{
	"GET   /v1",
	"GET   /v1/healthz",
	"POST  /v1/request-landing",
	"PUT   /v1/cargobay",
	"GET   /v1/hyper-matter-reactor/status",
	"PUT   /v1/exhaust-port",
}

const wreckage = `Panic: deathstar exploded

goroutine 1 [running]:
main.HandleGarbage(0x2080c3f50, 0x2, 0x4, 0x425c0, 0x5, 0xa)
        /code/deathstar/main.go:9 +0x64
main.main()
        /code/deathstar/main.go:5 +0x85
`

type route struct {
	method string
	handle http.HandlerFunc
}

type deathStar struct {
	hostname string
	explode  func()
	routes   map[string]route
}

// newDeathStar serves the API. explode is called when the exhaust port was hit.
func newDeathStar(hostname string, explode func()) http.Handler {
	star := &deathStar{hostname: hostname, explode: explode}
	star.routes = map[string]route{
		"/v1":                 {http.MethodGet, star.describe},
		"/v1/":                {http.MethodGet, star.describe},
		"/v1/request-landing": {http.MethodPost, star.land},
		"/v1/exhaust-port":    {http.MethodPut, star.hit},
	}
	return star
}

func (star *deathStar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found, ok := star.routes[r.URL.Path]
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, fmt.Sprintf("path %s was not found", r.URL.Path))
	case found.method != r.Method:
		w.Header().Set("Allow", found.method)
		refuse(w, http.StatusMethodNotAllowed,
			fmt.Sprintf("method %s is not allowed, but [%s] are", r.Method, found.method))
	default:
		found.handle(w, r)
	}
}

func (star *deathStar) describe(w http.ResponseWriter, _ *http.Request) {
	text, err := json.MarshalIndent(description{
		Name:             "Death Star",
		Hostname:         star.hostname,
		Model:            "DS-1 Orbital Battle Station",
		Manufacturer:     "Imperial Department of Military Research, Sienar Fleet Systems",
		CostInCredits:    "1000000000000",
		Length:           "120000",
		Crew:             "342953",
		Passengers:       "843342",
		CargoCapacity:    "1000000000000",
		HyperdriveRating: "4.0",
		StarshipClass:    "Deep Space Mobile Battlestation",
		API:              listed,
	}, "", "\t")
	if err != nil {
		panic(err) // strings always can be encoded
	}
	say(w, http.StatusOK, string(text)+"\n")
}

func (star *deathStar) land(w http.ResponseWriter, _ *http.Request) {
	say(w, http.StatusOK, "Ship landed\n")
}

func (star *deathStar) hit(w http.ResponseWriter, _ *http.Request) {
	say(w, http.StatusServiceUnavailable, wreckage)
	star.explode()
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.Copy(w, strings.NewReader(text)) // a client that went away hears nothing
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]interface{}{"code": status, "message": message})
}
