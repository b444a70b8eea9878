package main

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

func TestDemo(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := runDemo(t.Context(), &out, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "three equal maps") {
		t.Error("the demonstration did not say how it ended")
	}
	// It is to show a snapshot being made, and one being loaded: with a machine that is
	// fast enough, all is over before CopyCat asks for one.
	for _, want := range []string{`SnapshotConsumer +\w made the snapshot of \d+ changes`, `brought [1-9]\d* snapshots? \(nil\) and \d+ changes`} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("the demonstration did not say %q", want)
		}
	}
}
