package transport

import (
	"log/slog"
	"sync"
	"time"
)

const (
	noticeEvery = time.Minute
	noticeKeys  = 1024 // bound of what is remembered
)

// notices keeps one and the same warning about one peer from filling the log:
// each key is logged at most once a minute.
type notices struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (n *notices) warn(log *slog.Logger, key, text string, args ...any) {
	if n.due(key, time.Now()) {
		log.Warn(text, args...)
	}
}

func (n *notices) due(key string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.last[key]; ok && now.Sub(at) < noticeEvery {
		return false
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
	return true
}
