package raftgroup

import "sync/atomic"

// credit bounds the bytes of a subscription's proposals whose fate is not
// known, or whose error nobody has read. One goroutine takes (the pump), any
// may give.
type credit struct {
	limit int64
	used  atomic.Int64
	room  chan struct{} // cap 1: something was given back
}

// take takes n if there is room. What is larger than the whole window may go
// when it is alone.
func (c *credit) take(n int64) bool {
	used := c.used.Add(n)
	if used <= c.limit || used == n {
		return true
	}
	c.used.Add(-n)
	return false
}

// force takes n whatever there is.
func (c *credit) force(n int64) { c.used.Add(n) }

// give gives n back.
func (c *credit) give(n int64) {
	c.used.Add(-n)
	select {
	case c.room <- struct{}{}:
	default:
	}
}

// wait takes n, waiting for room until stop.
func (c *credit) wait(n int64, stop <-chan struct{}) bool {
	for !c.take(n) {
		select {
		case <-c.room:
		case <-stop:
			return false
		}
	}
	return true
}

// block waits until the window is not overdrawn, or stop.
func (c *credit) block(stop <-chan struct{}) {
	for c.used.Load() > c.limit {
		select {
		case <-c.room:
		case <-stop:
			return
		}
	}
}
