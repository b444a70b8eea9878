// Bench measures CopyCat, alone or beside its peers: a number of nodes in one
// process, over loopback, on real disks, through the public API alone.
//
//	go run ./bench -h
//	go run ./bench -outstanding 4096 -seconds 20 -runs 5 -json results.jsonl
//
// Beside its peers, in rounds, in named scenarios (internal/compare), with
// tables and plots for docs/performance.md (report, and the module in plot):
//
//	go run ./bench compare -h
//	go run ./bench report -h
//
// With a process for each node, of which the leader's is killed:
//
//	go run ./bench failover -h
//
// Across data centers, with one process for each node, on an emulated network
// (internal/wan); as root, if the kernel's own TCP is to meet loss and delay:
//
//	go run ./bench wan -h
//	go run ./bench wan -seconds 20 -runs 5 -json wan.jsonl
//
// The load generator (internal/load), the readings of the machine
// (internal/measure), the form of the results (internal/report) and the
// command line (internal/cli) know nothing of CopyCat: other systems are
// measured by the same code, each from a module of its own (peers), so that none
// of them enters this library's dependencies.
package main
