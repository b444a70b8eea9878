package copycat

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/copycat-replication/copycat/internal/vfs"
	"github.com/copycat-replication/copycat/wal"
)

// alive counts the nodes that a status takes for alive.
func alive(s Status) (n int) {
	for _, o := range s.Nodes {
		if o.Alive {
			n++
		}
	}
	return n
}

// refused wants NewCopyCat to fail, and returns the error.
func refused(t testing.TB, cfg *Config, want error) error {
	t.Helper()
	cc, err := NewCopyCat(cfg)
	if err == nil {
		cc.Shutdown()
	}
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	return err
}

// works starts a node and has one proposal come back.
func works(t testing.TB, cfg *Config) CopyCat {
	t.Helper()
	cc := start(t, cfg)
	l := newList(t, cc, sampleID)
	before := len(l.all())
	l.propose <- []byte("works")
	l.wait("the proposal", func(lines []string) bool { return len(lines) > before && lines[len(lines)-1] == "works" })
	close(l.propose)
	<-l.done
	return cc
}

func TestDirectoryIsAFile(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	for _, dir := range []string{"file", "file/below"} {
		if err := os.WriteFile(filepath.Join(cfg.CopyCatDataDir, "file"), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := *cfg
		c.CopyCatDataDir = filepath.Join(cfg.CopyCatDataDir, dir)
		if err := refused(t, &c, ErrDataDir); !strings.Contains(err.Error(), c.CopyCatDataDir) {
			t.Errorf("%v does not name the directory", err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(cfg.CopyCatDataDir, "file")); err != nil || string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

// TestPortInUse takes one port after the other, and wants an error that names
// the address, everything let go of, and a node that then works on the same
// directory.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"CopyCatPort", "GossipPort over TCP", "GossipPort over UDP"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			cfg.Hostname = ownHost()
			var taken, other int
			var release func() error
			if which == "GossipPort over UDP" {
				c, err := onLowPort(cfg.Hostname, func(a string) (net.PacketConn, error) { return net.ListenPacket("udp", a) })
				if err != nil {
					t.Fatal(err)
				}
				taken, release = c.LocalAddr().(*net.UDPAddr).Port, c.Close
			} else {
				l, err := onLowPort(cfg.Hostname, func(a string) (net.Listener, error) { return net.Listen("tcp", a) })
				if err != nil {
					t.Fatal(err)
				}
				taken, release = l.Addr().(*net.TCPAddr).Port, l.Close
			}
			other = freePort(t, cfg.Hostname)
			if which == "CopyCatPort" {
				cfg.CopyCatPort, cfg.GossipPort = taken, other
			} else {
				cfg.CopyCatPort, cfg.GossipPort = other, taken
			}
			err := refused(t, cfg, ErrAddressInUse)
			if want := fmt.Sprintf("%s:%d", cfg.Hostname, taken); !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not name %s", err, want)
			}
			mustBeFree(t, fmt.Sprintf("%s:%d", cfg.Hostname, other))
			mustBeClosed(t, cfg.CopyCatDataDir)
			if err := release(); err != nil {
				t.Fatal(err)
			}
			works(t, cfg)
		})
	}
}

// mustBeClosed wants no file below dir open or mapped by this process.
func mustBeClosed(t testing.TB, dir string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Logf("open files not checked: %v", err)
		return
	}
	for _, fd := range fds {
		// A descriptor that was closed meanwhile is another test's.
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(name, dir+"/") {
			t.Errorf("still open: %s", name)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, dir+"/") {
			t.Errorf("still mapped: %s", strings.TrimSpace(line))
		}
	}
}

func TestDirectoryLockedInProcess(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cc := start(t, cfg)
	err := refused(t, cfg, ErrLocked)
	if !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), cfg.CopyCatDataDir) {
		t.Errorf("%v is no ErrDataDir that names the directory", err)
	}
	if !strings.Contains(err.Error(), "this one") {
		t.Errorf("%v speaks of another process alone, and it is this one that has the directory", err)
	}
	l := newList(t, cc, sampleID)
	l.propose <- []byte("unharmed")
	l.waitFor(1)
	cc.Shutdown()
	<-l.done
	works(t, cfg)
}

func TestDirectoryLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), holdDirEnv+"="+cfg.CopyCatDataDir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Errorf("the other process says %q, %v", line, err)
	}
	if _, err := NewCopyCat(cfg); !errors.Is(err, ErrLocked) || !errors.Is(err, ErrDataDir) {
		t.Errorf("got %v, want ErrLocked in ErrDataDir", err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	works(t, cfg)
}

// TestIdentityMissing wants a log without an identity refused: a new identity
// would vote with an old one's log.
func TestIdentityMissing(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	works(t, cfg).Shutdown()
	file := filepath.Join(cfg.CopyCatDataDir, identityFile)
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, cfg, ErrDataDir); !strings.Contains(err.Error(), identityFile) {
		t.Errorf("%v does not name %s", err, identityFile)
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	works(t, cfg)
}

// TestIdentityUnreadable changes node.json into what this version cannot read.
// The file must be left as it is, and the directory unlocked.
func TestIdentityUnreadable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, old, new string
		want           error
	}{
		{"newer format", `"version": 1`, `"version": 2`, ErrNewerFormat},
		{"no format", `"version": 1`, `"version": 0`, ErrDataDir},
		{"no JSON", `{`, `[`, ErrDataDir},
		{"malformed node", `"node_id": "0`, `"node_id": "?`, ErrMalformedID},
		{"no node", `"node_id"`, `"else"`, ErrMalformedID},
		{"zero node", `"node_id": "`, `"node_id": "00000000000000000000000000", "was": "`, ErrMalformedID},
		{"zero cluster", `"cluster_id": "`, `"cluster_id": "00000000000000000000000000", "was": "`, ErrMalformedID},
		{"malformed cluster", `"cluster_id": "0`, `"cluster_id": "?`, ErrMalformedID},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			start(t, cfg).Shutdown()
			file := filepath.Join(cfg.CopyCatDataDir, identityFile)
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			bad := strings.Replace(string(good), c.old, c.new, 1)
			if bad == string(good) {
				t.Fatalf("nothing to change in %s", good)
			}
			if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			err = refused(t, cfg, c.want)
			if !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), identityFile) {
				t.Errorf("%v is no ErrDataDir that names %s", err, identityFile)
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != bad {
				t.Errorf("the file was changed to %q, %v", now, err)
			}
			if err := os.WriteFile(file, good, 0o600); err != nil {
				t.Fatal(err)
			}
			works(t, cfg)
		})
	}
}

// TestAbandonedStart wants a crash between the making of the directory's
// identity and everything else to be harmless.
func TestAbandonedStart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	if err := os.WriteFile(filepath.Join(cfg.CopyCatDataDir, identityFile+".new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	works(t, cfg)
}

// TestLogIsGone wants a directory with snapshots and without the log that they belong to
// to be refused, each time, and nothing of it to be swept away.
func TestLogIsGone(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	works(t, cfg).Shutdown()
	logs, away := filepath.Join(cfg.CopyCatDataDir, "wal"), filepath.Join(cfg.CopyCatDataDir, "elsewhere")
	kept := filepath.Join(cfg.CopyCatDataDir, "snapshots", "00000000000000ff", "kept")
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(logs, away); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := refused(t, cfg, ErrDataDir); !strings.Contains(err.Error(), "no log in") {
			t.Errorf("%v does not say that the log is gone", err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
	}
	if err := os.Rename(away, logs); err != nil {
		t.Fatal(err)
	}
	works(t, cfg)
}

// TestNewerLog wants a log of a newer format to be refused by the documented
// error, and to be left alone.
func TestNewerLog(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	works(t, cfg).Shutdown()
	file := filepath.Join(cfg.CopyCatDataDir, "wal", "FORMAT")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	newer := slices.Clone(good)
	newer[8]++ // the major version; the checksum is the last thing in the file
	end := len(newer) - 4
	binary.LittleEndian.PutUint32(newer[end:], crc32.Checksum(newer[:end], crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(file, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, cfg, ErrNewerFormat); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("%v is no ErrDataDir that names the version", err)
	}
	if now, err := os.ReadFile(file); err != nil || !slices.Equal(now, newer) {
		t.Errorf("the file was changed, %v", err)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	works(t, cfg)
}

// TestIdentityNotWritten fails each writing of node.json during a start: that is
// ErrDataDir with the directory, and the next start is as if nothing had been.
func TestIdentityNotWritten(t *testing.T) {
	t.Parallel()
	errDisk := errors.New("no such luck")
	for nth := 1; ; nth++ {
		disk, cold, writes := vfs.NewMem(), wal.NewMemCold(), 0
		disk.SetFault(func(op vfs.Op, name string, _, _ int64) error {
			if op != vfs.OpRename || !strings.Contains(name, identityFile) {
				return nil
			}
			if writes++; writes == nth {
				return errDisk
			}
			return nil
		})
		cfg := testConfig(t, "")
		cfg.CopyCatDataDir = "data"
		cc, err := newNode(cfg, environment{fs: disk, cold: cold})
		if err == nil {
			cc.Shutdown()
			if writes >= nth && nth <= 4 {
				t.Errorf("write %d failed, and the node started", nth)
			}
			if nth <= 3 {
				t.Errorf("only %d writes of %s during a start", nth-1, identityFile)
			}
			return
		}
		if !errors.Is(err, ErrDataDir) || !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "data") {
			t.Errorf("write %d: %v is no ErrDataDir with its cause", nth, err)
		}
		if cc, err = newNode(cfg, environment{fs: disk, cold: cold}); err != nil {
			t.Fatalf("after write %d had failed: %v", nth, err)
		}
		cc.Shutdown()
	}
}

// TestStatusWaitsForNoDisk has the disk hold up the writing of the peers'
// addresses: Status tells all the same.
func TestStatusWaitsForNoDisk(t *testing.T) {
	t.Parallel()
	disk, held, release := vfs.NewMem(), make(chan struct{}, 16), make(chan struct{})
	cfg := testConfig(t, "")
	cfg.CopyCatDataDir = "data"
	cc, err := newNode(cfg, environment{fs: disk, cold: wal.NewMemCold()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cc.Shutdown)
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	disk.SetFault(func(op vfs.Op, name string, _, _ int64) error {
		if op == vfs.OpSync && strings.Contains(name, identityFile) {
			held <- struct{}{}
			<-release
		}
		return nil
	})
	other := make(chan CopyCat, 1)
	go func() {
		cc, err := NewCopyCat(testConfig(t, "", cc.Status().GossipAddress))
		if err != nil {
			t.Error(err)
		}
		other <- cc
	}()
	if cc := <-other; cc != nil {
		t.Cleanup(cc.Shutdown)
	}
	<-held
	told := make(chan Status, 1)
	go func() { told <- cc.Status() }()
	select {
	case s := <-told:
		if s.NodeID == "" || s.ClusterID == "" {
			t.Errorf("status %+v", s)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("Status waits for the disk")
	}
}

// TestWorkingDirectoryChanges starts a node on a relative path, and changes the
// working directory: its files stay where they were, and the next start has all.
// It does not run beside other tests, since the working directory is the process's.
func TestWorkingDirectoryChanges(t *testing.T) {
	cfg := testConfig(t, "")
	cfg.SnapshotEntries = 10
	t.Chdir(cfg.CopyCatDataDir)
	cfg.CopyCatDataDir = "data"
	cc := start(t, cfg)
	elsewhere := t.TempDir()
	t.Chdir(elsewhere)
	l := newList(t, cc, sampleID)
	const n = 50
	for i := range n {
		l.propose <- fmt.Append(nil, i)
	}
	l.waitFor(n)
	waitStatus(t, cc, "a snapshot", func(s Status) bool {
		st, ok := structure(s, sampleID)
		return ok && st.Snapshot > 0
	})
	dir := cc.Status().DataDir
	if !filepath.IsAbs(dir) {
		t.Errorf("Status().DataDir is %q", dir)
	}
	cc.Shutdown()
	<-l.done
	if names, err := os.ReadDir(elsewhere); err != nil || len(names) > 0 {
		t.Errorf("files in another directory: %v, %v", names, err)
	}
	cfg.CopyCatDataDir = dir
	l = newList(t, start(t, cfg), sampleID)
	l.waitFor(n)
}
