package procrig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/copycat-replication/copycat/internal/overlay"
)

// variant is another build of this test binary: a version of CopyCat that does
// not exist, or one that breaks what no signal and no proxy can break. It is
// built once, when it is first asked for, and without the race detector.
type variant struct {
	edits []overlay.Edit

	once   sync.Once
	dir    string
	binary string
	err    error
}

// What the environment of a variant's process may say.
const (
	sessionVariable  = "COPYCAT_PROCRIG_SESSION"   // how long a session lives without its node
	failSyncVariable = "COPYCAT_PROCRIG_FAIL_SYNC" // a file: while it exists, no fdatasync succeeds
)

var (
	// minor is the next minor version: of connections, of the log's files and of
	// snapshots. Its processes also obey the variables above.
	minor = &variant{edits: []overlay.Edit{
		{File: "wal/format.go", Old: "formatMinor = 0", New: "formatMinor = 1"},
		{File: "snapshot/format.go", Old: "minorVersion = 0", New: "minorVersion = 1"},
		{File: "transport/record.go", Old: "versionMinor = 1", New: "versionMinor = 2"},
		{File: "raftgroup/config.go", Old: "import (", New: `import (
	"os"`},
		{File: "raftgroup/config.go", Old: "setDefault(&c.SessionTimeout, time.Minute)", New: `if d, err := time.ParseDuration(os.Getenv("` + sessionVariable + `")); err == nil {
		c.SessionTimeout = d
	}
	setDefault(&c.SessionTimeout, time.Minute)`},
		{File: "internal/vfs/os.go", Old: "	if err := f.sync(); err != nil {", New: `	err := f.sync()
	if name := os.Getenv("` + failSyncVariable + `"); name != "" {
		if _, there := os.Stat(name); there == nil {
			err = syscall.EIO
		}
	}
	if err != nil {`},
	}}
	// major is the next major version of what nodes say to one another. Its
	// files are those of the present one.
	major = &variant{edits: []overlay.Edit{
		{File: "transport/record.go", Old: "versionMajor = 1", New: "versionMajor = 2"},
		{File: "gossip/codec.go", Old: "formatVersion = 1", New: "formatVersion = 2"},
		{File: "node.go", Old: "const protocolVersion = 1", New: "const protocolVersion = 2"},
	}}
	variants = []*variant{minor, major}
)

// moduleRoot is where this package's tests run, seen from the module.
func moduleRoot() (string, error) { return filepath.Abs(filepath.Join("..", "..")) }

func (v *variant) build() (string, error) {
	v.once.Do(func() {
		root, err := moduleRoot()
		if err != nil {
			v.err = err
			return
		}
		if v.dir, v.err = os.MkdirTemp("", "copycat-variant-"); v.err != nil {
			return
		}
		files, err := overlay.Write(root, v.dir, v.edits)
		if err != nil {
			v.err = err
			return
		}
		v.binary = filepath.Join(v.dir, "node.test")
		cmd := exec.Command("go", "test", "-c", "-overlay", files, "-o", v.binary, "./internal/procrig") //nolint:gosec // our own source
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			v.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	return v.binary, v.err
}

// must builds the variant, or skips the test where there is no go command.
func (v *variant) must(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("other versions are built with the go command:", err)
	}
	binary, err := v.build()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// removeVariants removes what was built.
func removeVariants() error {
	for _, v := range variants {
		if v.dir != "" {
			if err := os.RemoveAll(v.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestVariantsFitTheCode fails when a line that a variant changes has changed.
func TestVariantsFitTheCode(t *testing.T) {
	t.Parallel()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variants {
		if _, err := overlay.Apply(root, v.edits); err != nil {
			t.Error(err)
		}
	}
}
