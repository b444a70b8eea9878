//go:build !linux

package wan

import (
	"fmt"
	"os/exec"
	"runtime"
)

func newNamespaces(*Net) (backend, error) {
	return nil, fmt.Errorf("%w: this is %s, they are Linux's", ErrUnsupported, runtime.GOOS)
}

// Do runs f: there are no namespaces here.
func (h *Host) Do(f func() error) error { return f() }

// tie starts processes. Nothing here ends them with this one but Close.
type tie struct{}

func newTie() *tie { return &tie{} }

func (t *tie) start(cmd *exec.Cmd) error { return cmd.Start() }

func (t *tie) end() {}

func machineCongestion() string { return "unknown: this is " + runtime.GOOS }
