package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

func (k kind) String() string { return [...]string{"unit", "rig", "simulation"}[k] }

// String says in a few words what came of a suite.
func (v verdict) String() string {
	took := v.took.Round(10 * time.Millisecond)
	switch {
	case v.late:
		return fmt.Sprintf("not within %s", took)
	case !v.failed:
		return fmt.Sprintf("not caught, %s", took)
	case v.seed != "":
		return fmt.Sprintf("seed %s, %s", v.seed, took)
	case v.test == "":
		return fmt.Sprintf("the process broke down, %s", took)
	}
	return fmt.Sprintf("%s, %s", v.test, took)
}

func (r *row) caught() bool {
	for _, vs := range r.verdicts {
		for _, v := range vs {
			if v.failed {
				return true
			}
		}
	}
	return false
}

// cell is what one kind of suite said: who caught the bug first.
func (r *row) cell(k kind) string {
	if len(r.suites[k]) == 0 {
		return "does not run this code"
	}
	if len(r.verdicts[k]) == 0 {
		return "not run"
	}
	for _, v := range r.verdicts[k] {
		if v.failed {
			return v.String()
		}
	}
	return r.verdicts[k][0].String()
}

// table writes the result, as it stands in docs/guarantees.md.
func table(w io.Writer, rows []row) error {
	var b strings.Builder
	b.WriteString("| bug | unit test | cluster in virtual time | simulation |\n| --- | --- | --- | --- |\n")
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(&b, "| %s: %s", r.bug.name, r.bug.why)
		for k := range kinds {
			fmt.Fprintf(&b, " | %s", r.cell(k))
		}
		b.WriteString(" |\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
