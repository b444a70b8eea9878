package raftgroup

import (
	"testing"
	"unsafe"
)

// TestReplicaIsSmall: a node may hold ten thousand replicas that do nothing. The
// next size that memory is given out in is 12 % more.
func TestReplicaIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Group{}); size > 2048 {
		t.Errorf("a Group takes %d bytes, want 2,048 at most", size)
	}
}
