package raftgroup

import (
	"testing"
	"unsafe"
)

// TestReplicaIsSmall: a node may hold ten thousand replicas that do nothing.
// Memory is given out in sizes of 2,048, 2,304 and 2,688 bytes.
func TestReplicaIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Group{}); size > 2304 {
		t.Errorf("a Group takes %d bytes, want 2,304 at most", size)
	}
}
