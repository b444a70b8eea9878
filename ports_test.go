package copycat

import (
	"errors"
	"fmt"
	"testing"
)

// TestListenOnPort: a port that was chosen freely is taken again, and replaced
// by another if somebody else has it; a configured one is not replaced.
func TestListenOnPort(t *testing.T) {
	t.Parallel()
	inUse := fmt.Errorf("port: %w", ErrAddressInUse)
	var tried []int
	taken := func(ports ...int) func(int) error {
		tried = nil
		return func(port int) error {
			tried = append(tried, port)
			for _, p := range ports {
				if p == port {
					return inUse
				}
			}
			return nil
		}
	}
	if err := listenOnPort(0, 20000, taken()); err != nil || len(tried) != 1 || tried[0] != 20000 {
		t.Errorf("%v, tried %v: not the port of before", err, tried)
	}
	if err := listenOnPort(0, 20000, taken(20000)); err != nil || len(tried) != 2 || tried[1] == 20000 {
		t.Errorf("%v, tried %v: not another one", err, tried)
	}
	if p := tried[1]; p < lowestFreePort || p > highestFreePort {
		t.Errorf("chose %d", p)
	}
	if err := listenOnPort(20000, 0, taken(20000)); !errors.Is(err, ErrAddressInUse) || len(tried) != 1 {
		t.Errorf("%v, tried %v: a configured port was replaced", err, tried)
	}
	broken := errors.New("broken")
	if err := listenOnPort(0, 0, func(int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want the error itself", err)
	}
}
