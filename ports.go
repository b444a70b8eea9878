package copycat

import (
	"errors"
	"math/rand/v2"
)

// A port that this node may choose comes from below the range that operating
// systems give to outgoing connections (32768 up on Linux, 49152 up elsewhere).
// One from that range would often be in use by somebody's connection when the
// node comes back and wants it again.
const (
	lowestFreePort  = 15000
	highestFreePort = 32767
	portTries       = 64
)

// listenOnPort calls listen with the configured port; or, where that is 0,
// with the one used before, and if that was taken meanwhile, with free ones.
func listenOnPort(configured, before int, listen func(port int) error) error {
	if configured != 0 {
		return addressInUse(listen(configured))
	}
	if before != 0 {
		if err := listen(before); err == nil || !errors.Is(addressInUse(err), ErrAddressInUse) {
			return err
		}
	}
	var err error
	for range portTries {
		err = listen(lowestFreePort + rand.IntN(highestFreePort-lowestFreePort+1))
		if err == nil || !errors.Is(addressInUse(err), ErrAddressInUse) {
			return err
		}
	}
	return addressInUse(err)
}
