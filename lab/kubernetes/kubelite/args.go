// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io/ioutil"
	"os"
	"strings"

	"k8s.io/klog/v2"
)

var ctx = context.Background()

// readArgs returns the arguments in a file of the args directory. An unreadable file ends the process.
func readArgs(path string) []string {
	text, err := ioutil.ReadFile(path)
	if err != nil {
		klog.Fatalf("cannot read the arguments: %v", err)
	}
	return parseArgs(string(text), os.Getenv)
}

// parseArgs splits the text of an args file: one or more arguments a line, split on single spaces; blank lines and lines
// that start with # are skipped; all quotes are removed; $VAR and ${VAR} are expanded. So no value can hold a space.
func parseArgs(text string, getenv func(string) string) []string {
	var args []string
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		line = strings.NewReplacer(`"`, "", `'`, "").Replace(line)
		for _, word := range strings.Split(line, " ") {
			if word != "" {
				args = append(args, os.Expand(word, getenv))
			}
		}
	}
	return args
}
