package main

import (
	"testing"

	"github.com/copycat-replication/copycat/bench/internal/compare"
	"github.com/copycat-replication/copycat/bench/internal/smoke"
)

// TestPeer measures all that the scenarios ask, for a second each.
func TestPeer(t *testing.T) { smoke.All(t, command(), false) }

// TestScenarioFlags: the flags that the scenarios give this peer are its own.
func TestScenarioFlags(t *testing.T) {
	t.Parallel()
	for _, args := range compare.Arguments("nats") {
		if err := command().Check(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}
