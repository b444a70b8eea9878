package copycat

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// holdDirEnv makes this binary a second process that holds a data directory:
// it starts a node on it, says so, and ends with its standard input.
const holdDirEnv = "COPYCAT_TEST_HOLD_DIR"

// TestMain looks for goroutines that outlive the tests. memberlist's own last
// probes end by themselves within some probe intervals: it waits for them.
func TestMain(m *testing.M) {
	if dir := os.Getenv(holdDirEnv); dir != "" {
		os.Exit(holdDir(dir))
	}
	// Most tests wait for elections and time-outs, not for a CPU.
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "8"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if code == 0 {
		err := goleak.Find()
		for deadline := time.Now().Add(2 * time.Minute); err != nil && time.Now().Before(deadline); {
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func holdDir(dir string) int {
	cc, err := NewCopyCat(&Config{CopyCatDataDir: dir, Profile: Local})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cc.Shutdown()
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
