package raftgroup

import (
	"testing"
	"unsafe"
)

// TestReplicaIsSmall: a node may hold ten thousand replicas that do nothing.
// Memory is given out in sizes of 1,024, 1,152 and 1,280 bytes.
func TestReplicaIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Group{}); size > 1152 {
		t.Errorf("a Group takes %d bytes, want 1,152 at most", size)
	}
}
