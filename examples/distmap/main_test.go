package main

import (
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVariable has the test binary be the program itself: a node in a process
// of its own, for TestThreeProcesses.
const childVariable = "DISTMAP_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		go func() { // a test that dies takes its children along
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
		main()
		return
	}
	goleak.VerifyTestMain(m)
}
