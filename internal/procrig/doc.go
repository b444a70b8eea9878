// Package procrig runs a cluster of real processes and breaks it: nodes are
// re-executions of the test binary, on loopback addresses behind the proxies of
// internal/netproxy, killed, stopped, cut off, wiped and starved of disk.
//
// # How it works
//
// A test binary calls [Child] first thing in TestMain. [New] makes a [Rig];
// [Node.Start] starts the binary again with a variable in its environment, and
// Child then runs one CopyCat node and its subscriptions, told what to do by
// JSON lines on its standard input. Each process records what its subscribers
// propose and receive in a file of its own, one event per write, so that a
// SIGKILL loses nothing that was recorded; the rig records the faults.
// [Rig.Finish] ends a run: faults off, everybody back, proposals must go
// through, all subscribers must agree; then it stops the nodes, joins the
// files, and has internal/history check the promises.
//
// An error in the log of a node, a panic and a data race fail the test, whatever
// the history says; a test that breaks something names the errors that come of
// it (Options.Complaints).
//
// A kill keeps what the kernel holds of files, so this rig does not test fsync;
// the simulation does. What it tests is everything that a simulation replaces:
// sockets, files, locks, process restarts, timing, and the wiring of it all.
//
// # Pauses
//
// Tests that bound how long something may take measure how long the machine
// itself kept a process from running, and leave that out: each process, the
// rig's own too, watches a clock, and writes down when a tick came late
// (stall.go). They log both figures.
//
// # Running it
//
// The tests are named after the rows of the fault matrix. By default they take
// about two minutes on two cores, and half as long again under the race
// detector; with
//
//	go test ./internal/procrig -long -timeout 0 -run TestMixedFaults
//
// they go on for longer, with more nodes and structures where that is the point.
// -seed chooses what is broken and when; with real processes the same seed
// gives the same faults, not the same run.
//
// TestDiskFull and its kin mount a tmpfs, and are skipped where that is not
// permitted. Its size is a gigabyte, since the log keeps three segments of 64
// MiB in reserve: on less than 200 MB a node is full from the start, which
// TestDiskTooSmall is about.
//
// The directory of a run that failed is kept, and its name logged: histories,
// logs and data of all nodes.
package procrig
