package wan

import (
	"os"
	"os/exec"
	"strings"
)

// tie starts processes that end with this one.
type tie struct{ *thread }

func newTie() *tie { return &tie{newThread()} }

func (t *tie) start(cmd *exec.Cmd) error {
	return t.do(func() error { return startTied(cmd) })
}

func machineCongestion() string {
	name, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return "unknown: " + err.Error()
	}
	return strings.TrimSpace(string(name))
}
