// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
)

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
