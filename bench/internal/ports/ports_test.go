package ports

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestKeep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := Keep(dir, 20)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(first)
	if len(slices.Compact(slices.Clone(first))) != 20 {
		t.Errorf("addresses repeat: %v", first)
	}
	l, err := net.Listen("tcp", first[0]) // taken by the node that was started
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	again, err := Keep(dir, 20)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(again)
	if !slices.Equal(first, again) {
		t.Errorf("other addresses after a restart: %v, %v", first, again)
	}
	if _, err := Keep(dir, 3); err == nil {
		t.Error("20 addresses were taken for 3")
	}
	if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Keep(dir, 1); err == nil {
		t.Error("an empty file was taken for an address")
	}
}
