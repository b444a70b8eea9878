package main

import (
	"context"
	"errors"
	"flag"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const root = "../.."

// TestBugsFitTheCode: every text that a bug replaces stands in the source
// exactly once, and what comes of it is Go.
func TestBugsFitTheCode(t *testing.T) {
	t.Parallel()
	for i := range bugs {
		b := &bugs[i]
		changed, err := b.apply(root)
		if err != nil {
			t.Error(err)
			continue
		}
		for file, text := range changed {
			if _, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
		if _, err := suitesOf(root, b, 1); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
	}
}

func TestTextMustBeThereOnce(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"no such text", "return"} {
		b := bug{name: "planted", edits: []edit{{file: "wal/flush.go", old: old}}}
		if _, err := b.apply(root); err == nil || !strings.Contains(err.Error(), "not once") {
			t.Errorf("%q: %v", old, err)
		}
	}
}

// TestVerdicts runs scripts in place of test binaries.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no shell here")
	}
	for name, c := range map[string]struct {
		script string
		want   verdict
	}{
		"green":  {"echo PASS", verdict{}},
		"red":    {"echo '    x_test.go:9: no'; echo '--- FAIL: TestX (0.00s)'; exec sleep 60", verdict{failed: true, test: "TestX"}},
		"sub":    {"echo '    --- FAIL: TestX/1 (0.00s)'; exit 1", verdict{failed: true, test: "TestX/1"}},
		"seed":   {"echo '    sim_test.go:42: seed 7: twice'; echo '--- FAIL: TestSeeds (1.00s)'; exit 1", verdict{failed: true, test: "TestSeeds", seed: "7"}},
		"panic":  {"echo 'panic: oh'; echo; exit 2", verdict{failed: true, test: "panic: oh"}},
		"broken": {"exit 3", verdict{failed: true}},
		"late":   {"exec sleep 60", verdict{late: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			binary := filepath.Join(t.TempDir(), "x.test")
			if err := os.WriteFile(binary, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil { //nolint:gosec // to be run
				t.Fatal(err)
			}
			limit := time.Minute
			if c.want.late {
				limit = 100 * time.Millisecond
			}
			s := suite{pkg: "wal"}
			v, err := s.run(context.Background(), root, binary, limit)
			if err != nil {
				t.Fatal(err)
			}
			if v.took = 0; v != c.want {
				t.Errorf("%+v, want %+v", v, c.want)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want error
	}{{"-h", flag.ErrHelp}, {"-no", errUsage}, {"-bug [", nil}} {
		err := check(context.Background(), strings.Fields(c.args), io.Discard, io.Discard)
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}
