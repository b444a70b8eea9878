package wan

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// helperVariable makes this test binary something else.
const helperVariable = "COPYCAT_WAN_HELPER"

func helper() (code int, is bool) {
	what := os.Getenv(helperVariable)
	switch {
	case what == "":
		return 0, false
	case what == "namespace":
		return tellNamespace(), true
	case what == "wait":
		time.Sleep(10 * time.Minute) // until it is killed
	case strings.HasPrefix(what, "network "):
		return holdNetwork(Mode(strings.TrimPrefix(what, "network "))), true
	}
	return 1, true
}

// tellNamespace says what a process on a host sees.
func tellNamespace() int {
	link, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Print(link, " ")
	devices, err := net.Interfaces()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, d := range devices {
		fmt.Print(d.Name, " ")
	}
	_, err = net.DialTimeout("udp", "192.0.2.1:53", time.Second) // an address for documentation
	if op, ok := err.(*net.OpError); ok {
		if sys, ok := op.Err.(*os.SyscallError); ok {
			fmt.Println("outside:", sys.Err)
			return 0
		}
	}
	fmt.Println("outside:", err)
	return 0
}

// holdNetwork makes a network with a process on it, tells that one's number,
// and waits to be killed.
func holdNetwork(mode Mode) int {
	n, err := New(two(mode, Link{}))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"=wait")
	if err := n.Hosts()[0].Start(cmd); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(cmd.Process.Pid)
	fmt.Println(cmd.Wait()) // which does not return while nobody kills the two
	return 1
}
