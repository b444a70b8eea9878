package raftgroup

import (
	"errors"
	"sync"
	"testing"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/grouppb"
)

// TestMailboxIsBounded: whatever another replica says, what waits for a step that
// does not come is bounded, also in number.
func TestMailboxIsBounded(t *testing.T) {
	t.Parallel()
	quiet, err := (&grouppb.Quiet{Kind: grouppb.Quiet_WAKE}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{
		"the word that it was removed": {wireOutsider},
		"a word of rest":               append([]byte{wireQuiet}, quiet...),
		"a report":                     {wireSnapshotReport},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &Host{}
			h.ready.wake = sync.NewCond(&h.ready.mu)
			g := &Group{host: h, self: 1}
			const most = maxMailboxBytes / 64
			for n := 0; ; n++ {
				err := g.receive(id.Node{2}, Message{From: 2, To: 1, Payload: payload})
				if errors.Is(err, ErrBusy) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if n > most {
					t.Fatalf("%d messages wait", n)
				}
			}
			if !g.call(func() {}) {
				t.Error("a call of this host's own does not get in")
			}
		})
	}
}
