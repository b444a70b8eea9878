package measure

import (
	"runtime"
	"time"
)

// Usage is a reading of the counters. All of them but Memory only grow.
type Usage struct {
	At          time.Time
	User        time.Duration // processor time of this process, all threads
	System      time.Duration
	DiskWritten uint64        // bytes that this process had written to a device
	CallWritten uint64        // bytes given to write calls: files, sockets and pipes
	Memory      uint64        // bytes resident now; Since has the later reading
	Sent        uint64        // bytes sent over TCP, of Since only: connections that ended in between are missing
	MachineBusy time.Duration // processor time of everything on the machine, all cores
	MachineLost time.Duration // time that the machine's own host gave to others
	Allocations uint64        // objects
	Allocated   uint64        // bytes
	Collections uint32        // of garbage

	sent map[uint64]uint64 // bytes, by socket
}

// Read reads all counters. It stops the world for some microseconds.
func Read() Usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := Usage{At: time.Now(), Allocations: m.Mallocs, Allocated: m.TotalAlloc, Collections: m.NumGC}
	readSystem(&u)
	return u
}

// Since is what was used between two readings; At is zero.
func (u Usage) Since(from Usage) Usage {
	var sent uint64
	for socket, n := range u.sent {
		sent += n - min(n, from.sent[socket])
	}
	return Usage{
		Sent: sent, Memory: u.Memory,
		User: u.User - from.User, System: u.System - from.System,
		DiskWritten: u.DiskWritten - from.DiskWritten, CallWritten: u.CallWritten - from.CallWritten,
		MachineBusy: u.MachineBusy - from.MachineBusy, MachineLost: u.MachineLost - from.MachineLost,
		Allocations: u.Allocations - from.Allocations, Allocated: u.Allocated - from.Allocated,
		Collections: u.Collections - from.Collections,
	}
}

// CPU is the processor time in user and system mode together.
func (u Usage) CPU() time.Duration { return u.User + u.System }
