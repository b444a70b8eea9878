package compare

import (
	"fmt"
	"strconv"
)

// The systems, in the order of the tables; what others are compared with is the first.
var systems = []string{copycat, "hashicorp", "etcd", "nats", "dragonboat"}

const copycat = "copycat"

// scenario is a named set of cases.
type scenario struct {
	name, about string
	cases       func(o *options) []preset
	// seconds and warmup are the defaults of this scenario; 0: those of the command.
	seconds, warmup float64
}

// preset is one case: its flags, and who takes part.
type preset struct {
	name  string
	flags []string
	kind  string // as -measure has it; empty: load
	x     float64
	// only names the systems that take part; nil: all.
	only []string
	// variants are systems that take part with more flags.
	variants []variant
}

type variant struct {
	name, system string
	flags        []string
}

var twoDetached = variant{"copycat, two detached", copycat, []string{"-subscribers", "1"}}

func scenarios() []scenario {
	return []scenario{
		{name: "lan", about: "Three nodes in one process, loopback TCP, every commit fsynced by a majority; all three nodes subscribe and apply.", cases: lan},
		{name: "curve", about: "Throughput against latency: one structure, 128 B, from 1 to 16,384 outstanding proposals.", cases: curve},
		{name: "groups", about: "From one to many structures, at the same load of 4,096 outstanding proposals of 128 B in total. etcd has one group for all of them: a structure is a range of keys there.", cases: groups},
		{name: "rate", about: "From one to many structures, at the same number of operations a second in total, spread evenly; latency counts from when each was due.", cases: rate},
		{name: "idle", about: "Structures that nothing is proposed to, on three nodes in one process: processor time of all three together, resident memory for each replica, creation, and reopening after all nodes were closed. Woken: the median latency of one proposal to an idle structure, of 100 at most; awake: of the next one to it.", cases: idle, warmup: idleWarmup},
		{name: "subscribers", about: "One structure with more and more subscribers, spread over three nodes; 128 B, 256 outstanding.", cases: subscribers},
		{name: "failover", about: "The leader's node is ended a third into the window, inside its process: the longest time that a proposer on another node had nothing applied. NATS is not in it: its servers hand their leaderships over when they are shut down, which a crash does not.", cases: failover, seconds: 12},
		{name: "recovery", about: "All nodes are closed and opened again, in one process, with the page cache warm.", cases: recovery, seconds: 1},
		{name: "backpressure", about: "CopyCat under more load than it can carry, and beside a structure in trouble.", cases: backpressure},
		{name: "soak", about: "Memory and disk over time, under a steady load: the most that they held in the first and in the second half of it.", cases: soak, seconds: 300},
	}
}

func outstanding(n int) []string { return []string{"-outstanding", strconv.Itoa(n)} }

func lan(*options) []preset {
	return []preset{
		{name: "1 structure, 128 B, 1 outstanding", flags: outstanding(1), variants: []variant{twoDetached}},
		{name: "128 B, 256 outstanding", flags: outstanding(256), variants: []variant{twoDetached}},
		{name: "128 B, 4,096 outstanding", flags: outstanding(4096), variants: []variant{twoDetached}},
		{name: "1 KiB, 1,024 outstanding", flags: append(outstanding(1024), "-payload", "1024"), variants: []variant{twoDetached}},
		{name: "64 structures, 128 B, 4,096 outstanding in total", flags: append(outstanding(4096), "-structures", "64")},
		{name: "proposers on a follower, 128 B, 256 outstanding", flags: append(outstanding(256), "-proposers", "follower")},
	}
}

func curve(*options) (out []preset) {
	for _, n := range []int{1, 4, 16, 64, 256, 1024, 4096, 16384} {
		out = append(out, preset{name: fmt.Sprintf("%d outstanding", n), flags: outstanding(n), x: float64(n)})
	}
	return out
}

// sparing are the peers with a log for each raft group, set up for many of them:
// as they come, raft-wal and Tan reserve 64 MiB of the disk for each replica.
var sparing = []variant{
	{"hashicorp, segments of 4 MiB", "hashicorp", []string{"-segment-size", "4194304"}},
	dragonboatPebble,
}

var dragonboatPebble = variant{"dragonboat, Pebble", "dragonboat", []string{"-log", "pebble"}}

const (
	// fewGroups is up to where a log of 64 MiB for each of three replicas fits on
	// most disks, and manyGroups where peers with a raft group for each structure
	// are still measured: more take minutes to start, and gigabytes.
	fewGroups  = 100
	manyGroups = 1000
)

// contend picks the peers, and how they are set up, by the number of structures.
func (p *preset) contend(structures int, withoutGroups ...string) {
	switch {
	case structures > manyGroups:
		p.only = withoutGroups
	case structures > fewGroups:
		p.only = []string{copycat, "etcd", "nats"}
		p.variants = append(p.variants, sparing...)
	case structures > 1:
		p.variants = append(p.variants, dragonboatPebble)
	}
}

func groups(*options) (out []preset) {
	for _, n := range []int{1, 8, 64, 256, 1000, 10000} {
		p := preset{name: fmt.Sprintf("%d structures", n), flags: append(outstanding(max(4096, n)), "-structures", strconv.Itoa(n)), x: float64(n)}
		p.contend(n, copycat, "etcd")
		out = append(out, p)
	}
	return out
}

// evenRate is what each of the systems carries with 1,000 structures on two processors.
const evenRate = "10000"

func rate(*options) (out []preset) {
	for _, n := range []int{1, 8, 64, 256, 1000} {
		p := preset{
			name:  fmt.Sprintf("%d structures, %s operations a second", n, evenRate),
			flags: append(outstanding(16384), "-rate", evenRate, "-structures", strconv.Itoa(n)), x: float64(n),
		}
		p.contend(n)
		out = append(out, p)
	}
	return out
}

// Idle structures are left alone for twice as long as dragonboat's shards take to
// fall quiet: ten times their election time-out of a second.
const idleWarmup = 20

func idle(*options) (out []preset) {
	for _, n := range []int{1, 100, 1000, 10000} {
		p := preset{name: fmt.Sprintf("%d structures", n), flags: []string{"-measure", "idle", "-structures", strconv.Itoa(n), "-wake", "100"}, kind: "idle", x: float64(n)}
		p.variants = []variant{{"copycat, no subscriptions", copycat, []string{"-detached"}}}
		p.contend(n, copycat)
		out = append(out, p)
	}
	return out
}

func subscribers(*options) (out []preset) {
	for _, n := range []int{1, 3, 10, 50, 200} {
		out = append(out, preset{
			name: fmt.Sprintf("%d subscribers", n), flags: append(outstanding(256), "-subscribers", strconv.Itoa(n)), x: float64(n),
			only: []string{copycat, "etcd", "nats"},
		})
	}
	return out
}

func failover(*options) []preset {
	return []preset{{
		name:  "leader ended, 1 structure, 30 outstanding over three proposers",
		flags: append(outstanding(30), "-measure", "failover"), kind: "failover",
		only: []string{copycat, "hashicorp", "etcd", "dragonboat"},
	}}
}

func recovery(o *options) []preset {
	log, snapshot := strconv.FormatInt(o.logBytes, 10), strconv.FormatInt(o.snapshotBytes, 10)
	common := append(outstanding(1024), "-payload", "1024", "-measure", "recovery")
	const never = "1000000000"
	return []preset{
		{
			name: fmt.Sprintf("a log of %d MB, no snapshot", o.logBytes>>20), flags: append(common[:len(common):len(common)], "-fill", log), kind: "recovery",
			only: []string{"etcd", "nats"},
			variants: []variant{
				{copycat, copycat, []string{"-snapshot-entries", never, "-snapshot-bytes", never + "000"}},
				{"hashicorp", "hashicorp", []string{"-snapshot-entries", never}},
				{"dragonboat", "dragonboat", []string{"-snapshot-entries", never}},
			},
		},
		{
			name:  fmt.Sprintf("a snapshot of %d MB", o.snapshotBytes>>20),
			flags: append(common[:len(common):len(common)], "-fill", "12000000", "-state", snapshot), kind: "recovery",
			only: []string{none},
			variants: []variant{
				{copycat, copycat, []string{"-snapshot-entries", "10000"}},
				{"hashicorp", "hashicorp", []string{"-snapshot-entries", "10000"}},
				{"dragonboat", "dragonboat", []string{"-snapshot-entries", "10000"}},
			},
		},
	}
}

// none in a preset's only: just its variants take part.
const none = "none"

func backpressure(o *options) []preset {
	flags := append(outstanding(1024), "-structures", "8")
	beside := func(what string, more ...string) []string {
		return append(append(flags[:len(flags):len(flags)], "-beside", what), more...)
	}
	return []preset{
		{name: "128 B, 4,096 outstanding", flags: outstanding(4096), only: []string{copycat}},
		{
			name: "128 B, as many as the window takes, for a minute", flags: outstanding(1 << 20), only: []string{none},
			variants: []variant{{copycat, copycat, []string{"-seconds", "60"}}},
		},
		{name: "8 structures, 1,024 outstanding in total", flags: flags, only: []string{copycat}},
		{name: "the same beside a structure with a stuck consumer", flags: beside("stuck"), only: []string{copycat}},
		{name: "the same beside a structure with large snapshots in flight", flags: beside("snapshots", "-beside-bytes", strconv.FormatInt(o.snapshotBytes, 10)), only: []string{copycat}},
	}
}

// The rate of the soak is given, so that all have written the same when they are
// compared: 6.5 MB a second, of which logs turn over many times in an hour, and few
// enough operations that most of the machine is idle. CopyCat's snapshots are due
// after 64 MiB, too; those of hashicorp/raft and dragonboat after a number of
// entries alone, which is set to as many as have that size.
func soak(*options) []preset {
	due := []string{"-snapshot-entries", "1000"}
	return []preset{{
		name:  "64 KiB, 100 operations a second",
		flags: append(outstanding(64), "-payload", "65536", "-rate", "100", "-sample", "5"),
		only:  []string{copycat, "etcd", "nats"}, variants: []variant{{"hashicorp", "hashicorp", due}, {"dragonboat", "dragonboat", due}},
	}}
}

// Arguments are the flags that the scenarios give a system's program, one set
// for each case that it takes part in.
func Arguments(system string) (out [][]string) {
	for _, s := range scenarios() {
		for _, p := range s.cases(&options{logBytes: 1 << 30, snapshotBytes: 1 << 30}) {
			all, of := contenders(&p, []string{system})
			for i := range of {
				out = append(out, append(append([]string(nil), p.flags...), all[i].Flags...))
			}
		}
	}
	return out
}
