package compare

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	// whyLines is how much of the end of a program's output tells why it failed,
	// when nothing in it says so.
	whyLines = 3
	// whyLength bounds a reason: it is a line below a table.
	whyLength = 240
)

var (
	// progressLine is what a program says while it works (internal/cli).
	progressLine = regexp.MustCompile(`^\s*\d+ s  |^run \d+ of \d+: |^opening again$|^filled in `)
	// failureLine is how a program says that a run failed (internal/cli), with
	// the reason behind it.
	failureLine = regexp.MustCompile(`^run \d+: (.*)`)
	// deathLine is how the runtime says that the process could not go on.
	deathLine = regexp.MustCompile(`^(panic|fatal error|signal): `)
	// runDirectory is what internal/cli makes in the directory that it is given.
	runDirectory = `/?(copycat-bench-\d+/?)?`
)

// why takes out of what a program said why it failed: in one line, that can stand
// in a document. Files are named from dir on, which has another name in each run.
func why(said, dir string) string {
	lines := strings.FieldsFunc(said, func(r rune) bool { return r == '\n' || r == '\r' })
	reason := ""
	var rest []string
	for i, line := range lines {
		if deathLine.MatchString(line) {
			reason = strings.TrimSpace(line)
			break
		}
		if m := failureLine.FindStringSubmatch(line); m != nil && reason == "" {
			reason = m[1]
			if more := len(lines) - i - 1; more > 0 { // errors of many structures, joined
				reason += fmt.Sprintf(" (and %d more lines)", more)
			}
		}
		if !progressLine.MatchString(line) {
			rest = append(rest, strings.TrimSpace(line))
		}
	}
	if reason == "" {
		reason = strings.Join(rest[max(0, len(rest)-whyLines):], " / ")
	}
	if dir != "" {
		reason = regexp.MustCompile(regexp.QuoteMeta(strings.TrimRight(dir, "/"))+runDirectory).ReplaceAllString(reason, "")
	}
	if short := []rune(reason); len(short) > whyLength {
		reason = string(short[:whyLength]) + " …"
	}
	return reason
}
