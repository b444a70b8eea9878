package main

import (
	"log/slog"
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
}
