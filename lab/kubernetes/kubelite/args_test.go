// SPDX-License-Identifier: Apache-2.0

package main

import (
	"reflect"
	"testing"
)

func TestParseArgs(t *testing.T) {
	environment := map[string]string{"SNAP_DATA": "/data", "EMPTY": ""}
	getenv := func(name string) string { return environment[name] }
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"one a line":                    {"--a=1\n--b=2\n", []string{"--a=1", "--b=2"}},
		"several on a line":             {"--a 1  --b=2", []string{"--a", "1", "--b=2"}},
		"blank lines and comments":      {"\n  # --no=1\n--a=1\n\n", []string{"--a=1"}},
		"all quotes go":                 {`--a="x" --b='y' --c=don't`, []string{"--a=x", "--b=y", "--c=dont"}},
		"quotes do not keep words":      {`--a="x y"`, []string{"--a=x", "y"}},
		"variables":                     {"--a=${SNAP_DATA}/x --b=$SNAP_DATA/y", []string{"--a=/data/x", "--b=/data/y"}},
		"unknown variables are empty":   {"--a=${NO_SUCH}", []string{"--a="}},
		"no arguments at all":           {"# nothing\n", nil},
		"a flag with an empty value":    {"--eviction-hard=\n", []string{"--eviction-hard="}},
		"carriage returns are not kept": {"--a=1\r\n", []string{"--a=1"}},
	} {
		if got := parseArgs(test.text, getenv); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
