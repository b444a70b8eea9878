package wan

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a machine lacks is said in words; what nobody expects is not taken for that.
func TestLacking(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		says string // empty: it stays
	}{
		{unix.EPERM, "root"},
		{&fs.PathError{Op: "open", Path: "/dev/net/tun", Err: unix.ENOENT}, "TUN"},
		{fmt.Errorf("unshare: %w", unix.EINVAL), "namespaces"},
		{unix.EMFILE, ""},
		{unix.EIO, ""},
	} {
		err := lacking(c.err)
		if errors.Is(err, ErrUnsupported) != (c.says != "") || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.err, err)
		}
	}
}
