package sim

import (
	"fmt"
	"testing"
)

// TestWhereRunsPart is for when TestReplay fails: it says what the first thing
// is that two runs of a seed do not have in common.
func TestWhereRunsPart(t *testing.T) {
	var first []string
	record := func(what string, values ...uint64) { first = append(first, fmt.Sprint(what, values)) }
	// From one place: what is told names who called.
	run := func(tell func(what string, values ...uint64)) {
		if _, err := Run(Plan{Seed: *firstSeed}, Options{Tell: tell}); err != nil {
			t.Fatal(err)
		}
	}
	run(record)
	at := 0
	compare := func(what string, values ...uint64) {
		if at >= 0 {
			if line := fmt.Sprint(what, values); at >= len(first) || first[at] != line {
				for _, l := range first[max(0, at-20):min(at, len(first))] {
					t.Log(l)
				}
				t.Errorf("at %d: %s", at, line)
				if at < len(first) {
					t.Errorf("instead of %s", first[at])
				}
				at = -2
			}
			at++
		}
	}
	run(compare)
}
