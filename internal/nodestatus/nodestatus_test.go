package nodestatus

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestServe asks a server, on a short path and on one that is too long for a
// socket, after another process has left its socket behind.
func TestServe(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"short": t.TempDir(), "long": filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 10)),
	} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if _, err := Ask(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: nobody there: %v", name, err)
		}
		unique := filepath.Base(t.TempDir()) + name
		path, extra, err := place(dir, unique)
		if err != nil || (extra == "") != (len(filepath.Join(dir, socketName)) <= maxSocketPath) {
			t.Fatalf("%s: %s, %q, %v", name, path, extra, err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil { // left behind
			t.Fatal(err)
		}
		if _, err := Ask(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: left behind: %v", name, err)
		}
		want := Status{Version: Version, NodeID: name, Structures: []Structure{{ID: "s"}}}
		s, err := Serve(dir, unique, slog.New(slog.DiscardHandler), Answers{
			Status: func() Status { return want },
			Holdings: func(_ context.Context, structure string) (Holdings, error) {
				if structure != "a b" {
					return Holdings{}, errors.New("no such text")
				}
				return Holdings{Record: Record{Birth: 7, Recovery: 1 << 16, Deleted: 9, Follows: 3}, Nodes: []Holding{{NodeID: structure, Error: "silent"}}}, nil
			},
			Forget: func(_ context.Context, structure string, birth uint64) error {
				if structure != "a b" || birth != 7 {
					return errors.New("another one")
				}
				return nil
			},
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		got, err := Ask(t.Context(), dir)
		if err != nil || got.NodeID != name || len(got.Structures) != 1 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, err := AskHoldings(t.Context(), dir, "x"); err == nil || !strings.Contains(err.Error(), "no such text") {
			t.Errorf("%s: holdings of another: %v", name, err)
		}
		if h, err := AskHoldings(t.Context(), dir, "a b"); err != nil || h.Record != (Record{Birth: 7, Recovery: 1 << 16, Deleted: 9, Follows: 3}) || len(h.Nodes) != 1 || h.Nodes[0].NodeID != "a b" || h.Nodes[0].Error == "" {
			t.Errorf("%s: holdings %+v, %v", name, h, err)
		}
		if err := Forget(t.Context(), dir, "a b", 7); err != nil {
			t.Errorf("%s: forget: %v", name, err)
		}
		if err := Forget(t.Context(), dir, "a b", 8); err == nil || !strings.Contains(err.Error(), "another one") {
			t.Errorf("%s: forget another birth: %v", name, err)
		}
		want.Version = Version + 1
		if _, err := Ask(t.Context(), dir); err == nil {
			t.Errorf("%s: an answer of a newer version was taken", name)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: the socket is left", name)
		}
		if _, err := Ask(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: after the end: %v", name, err)
		}
	}
}

// TestComplaintsOfTheServer: net/http writes to the program's global logger
// unless it is given another one.
func TestComplaintsOfTheServer(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer // is read when the server has ended
	dir := t.TempDir()
	s, err := Serve(dir, "name", slog.New(slog.NewTextHandler(&text, nil)), Answers{Status: func() Status { panic("broken") }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Ask(t.Context(), dir); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("a node that breaks off: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(text.String(), "panic serving") || !strings.Contains(text.String(), "level=WARN") {
		t.Errorf("the node's log says %q", &text)
	}
}

// TestNobodyAnswers: a process that stands still is not one that does not run,
// and a directory that is not there is most often a slip of the pen.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // nobody accepts
	defer cancel()
	if _, err := Ask(ctx, dir); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a node that stands still: %v", err)
	}
	for path, want := range map[string]string{filepath.Join(dir, "typo"): "no such file", t.TempDir(): "no data directory"} {
		if _, err := Ask(t.Context(), path); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), socketName) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
