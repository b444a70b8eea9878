package transport

import (
	"log/slog"
	"sync"
	"time"
)

const (
	noticeEvery = time.Minute
	// noticeLines bounds the warnings of such a time, whatever they are about:
	// who and from where is in a stranger's hands.
	noticeLines = 100
	noticeKeys  = 1024 // bound of what is remembered
)

// notices keeps warnings from filling the log: each key is logged at most once
// a minute, and no more than noticeLines of all.
type notices struct {
	mu      sync.Mutex
	last    map[string]time.Time
	began   time.Time // of the minute that lines counts
	lines   int
	leftOut int // warnings that found no room, since one last did
}

func (n *notices) warn(log *slog.Logger, key, text string, args ...any) {
	due, leftOut := n.due(key, time.Now())
	if !due {
		return
	}
	if leftOut > 0 {
		args = append(args, "warnings_left_out", leftOut)
	}
	log.Warn(text, args...)
}

// due reports whether a warning is to be logged, and how many about other things
// were left out before it.
func (n *notices) due(key string, now time.Time) (due bool, leftOut int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.last[key]; ok && now.Sub(at) < noticeEvery {
		return false, 0
	}
	if now.Sub(n.began) >= noticeEvery {
		n.began, n.lines = now, 0
	}
	if n.lines++; n.lines > noticeLines {
		n.leftOut++
		return false, 0
	}
	if n.last == nil || len(n.last) >= noticeKeys {
		kept := make(map[string]time.Time)
		for k, at := range n.last {
			if now.Sub(at) < noticeEvery && len(kept) < noticeKeys/2 {
				kept[k] = at
			}
		}
		n.last = kept
	}
	n.last[key] = now
	leftOut, n.leftOut = n.leftOut, 0
	return true, leftOut
}
