package raftgroup

import (
	"log/slog"
	"sync"
	"time"

	"github.com/copycat-replication/copycat/id"
)

const (
	// complaintEvery and complaintLines bound how often it is logged that a node's
	// messages are refused, or that a snapshot does not come from there. A node of
	// another version, or a broken one, sends some with each heartbeat of each
	// group, and of thousands of groups each tries again every other second.
	complaintEvery = time.Minute
	complaintLines = 3 // there may be more than one reason
	// maxComplaints bounds the nodes of which that is remembered.
	maxComplaints = 1024
)

// complaints are what was logged of other nodes' messages. It has a lock of its
// own, which is held over no call of anybody else's.
type complaints struct {
	mu sync.Mutex
	of map[id.Node]*complaint
}

type complaint struct {
	began   time.Time
	lines   int
	leftOut int // since a line was last logged
}

// due reports whether a refusal is to be logged, and how many were not, since.
func (c *complaints) due(node id.Node, now time.Time) (due bool, leftOut int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.of[node]
	if x == nil {
		if c.of == nil || len(c.of) >= maxComplaints {
			c.of = make(map[id.Node]*complaint)
		}
		x = &complaint{began: now}
		c.of[node] = x
	}
	if now.Sub(x.began) >= complaintEvery {
		x.began, x.lines = now, 0
	}
	if x.lines >= complaintLines {
		x.leftOut++
		return false, 0
	}
	x.lines++
	leftOut, x.leftOut = x.leftOut, 0
	return true, leftOut
}

// complain logs what is wrong with what a node sends, or does not, now and then.
func (h *Host) complain(log *slog.Logger, node id.Node, text string, args ...any) {
	due, leftOut := h.complaints.due(node, h.cfg.Clock.Now())
	if !due {
		return
	}
	args = append(args, "peer", node.String())
	if leftOut > 0 {
		args = append(args, "left_out", leftOut)
	}
	log.Warn(text, args...)
}
