// Package history records what the subscribers of a cluster see while it is
// being broken, and checks it against what CopyCat promises. Both test rigs use
// it: the simulation, which keeps the history in memory, and the real
// processes, each of which streams its part to a file that survives a SIGKILL.
//
// # How it is used
//
// A rig makes one [Recorder] for each process, and opens a [Journal] for each
// subscription. The journal is the user's data structure, the generator of the
// workload and the record in one: [Journal.Propose] makes the bytes to send,
// [Journal.Deliver], [Journal.Load] and [Journal.Provide] are what the program
// does with commits, snapshots and the provider. The rig adds what it does to
// nodes (crashes, faults), says when the faults are over ([Recorder.Calm]), and
// that it has waited for everybody at the end ([Recorder.End]). [Check] then
// needs the history alone.
//
// Every payload carries its writer, its number and a checksum over all its
// bytes, so the checker needs no table beside the history, and a flipped bit in
// a payload is seen. A writer is a subscription: its numbers are the order in
// which it proposed. The writer names the data structure too, so that a commit
// that strays into another group is seen.
//
// # What is asserted, and why it is enough
//
// The state of the workload is the list of everything applied. A subscriber's
// log therefore gives, after each event, the whole state it is in, whether it
// came by deliveries, by a load, or by a base of its own.
//
//   - order, load: all these states are prefixes of one list, place by place.
//     That is total order, without gaps, over restarts and jumps; and a load
//     that is anything but a prefix is found although its bytes are sound. The
//     list is the longest state of all; where subscribers disagree on a place
//     the majority counts, so that the odd one is accused. A commit number that
//     is known must be the place, the base left out. A load may go back (a
//     provider failed): what counts is that deliveries go on behind it.
//   - fifo: in that list each writer's numbers grow. Since everybody follows
//     the list, checking the list is checking everybody.
//   - twice: nothing stands in the list twice, nothing is delivered to who has
//     it, and no snapshot holds anything twice. A restarted subscriber's state
//     is its load and what follows, so this covers restarts.
//   - unproposed: everything in the list, and everything that anybody saw
//     beside it, was recorded as proposed to this structure (before it was sent,
//     so that no crash can lose the record), and its bytes are as they were made.
//   - lost: what anybody was delivered, ever, one who crashed a moment later
//     included, is in the final state of every survivor. Delivery is CopyCat's
//     only acknowledgement, so this is durability.
//   - snapshot: one that a provider made is the state of its subscriber; one
//     that a node stores under N is the base and the first N of the list; every
//     one can be read.
//   - report: what was reported as never committed, expired or refused is
//     delivered to nobody; there is one report about a proposal, to who proposed it.
//   - unaccounted: a proposal of who lived to the end is in the list or was
//     reported; who unsubscribed got each of its proposals back, or a report,
//     unless it was told at its end that some of them were not delivered to it:
//     those are in the list.
//   - convergence: all survivors end with the same state.
//   - liveness: what survivors proposed after the faults came back to them
//     within [Options].Bound. In the first moments ([Options].Grace) a report
//     within the bound will do, since a session may have been ended before.
//   - recording: the history itself makes sense.
//
// lost, unaccounted and convergence say something about the end of a run, and
// are asserted only for one that has an end; [Report].Skipped says what was not
// asserted, and [Report].Stats how much was, for a check of nothing finds
// nothing. Linearizability of a register map is package register's business.
//
// # The file
//
// JSON lines, the first of which names the version. Each line is one call of
// Write, so only the last one can be torn, and Read leaves that one out. The
// items of a snapshot are written once per file, in runs. Rejected: a binary
// format (a failure is read by people first), buffering (a proposal that was
// delivered elsewhere could be missing in the record of its own process).
//
// # What was rejected
//
// Recording positions or hashes instead of lists: a hash says that two states
// differ, not where, and not whether something is lost, twice or misplaced. A
// search for any order that fits, as a linearizability checker does: there is
// only one candidate, so it is enough to look.
package history
