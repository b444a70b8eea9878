// Package ports finds loopback addresses for the nodes of a system that must be
// told its addresses before it starts.
package ports

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

const (
	// Below the ports that Linux usually gives to outgoing connections (32768 and
	// up), one of which could take the address between its choice and its use.
	lowest, highest = 20000, 32000
	tries           = 1000
	file            = "addresses"
)

// host is a loopback address. On Linux all of 127.0.0.0/8 is, and outgoing
// connections have 127.0.0.1: on another one, nobody else takes a port.
func host() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(64), rand.IntN(256), 1+rand.IntN(254))
}

// Keep returns n loopback addresses, all of one host, whose TCP ports are free. They are
// noted in dir: a second call with it returns the same ones.
func Keep(dir string, n int) ([]string, error) {
	name := filepath.Join(dir, file)
	data, err := os.ReadFile(name)
	switch {
	case err == nil:
		if kept := strings.Fields(string(data)); len(kept) == n {
			return kept, nil
		}
		return nil, fmt.Errorf("addresses in %s are not %d", name, n)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("addresses: %w", err)
	}
	found, err := free(n)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(name, []byte(strings.Join(found, "\n")+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	return found, nil
}

func free(n int) (found []string, err error) {
	var held []net.Listener // all at once, so that none is found twice
	defer func() {
		for _, l := range held {
			_ = l.Close() // nothing came in
		}
	}()
	ip := host()
	for range tries + n {
		if len(found) == n {
			return found, nil
		}
		address := net.JoinHostPort(ip, strconv.Itoa(lowest+rand.IntN(highest-lowest)))
		l, lerr := net.Listen("tcp", address)
		if lerr != nil {
			err = lerr
			continue
		}
		held, found = append(held, l), append(found, address)
	}
	if len(found) == n {
		return found, nil
	}
	return nil, fmt.Errorf("%d free ports: %w", n, err)
}
