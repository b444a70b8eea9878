// Mutation plants bugs that replicated systems have really had, one at a time,
// and shows which of the tests catch each, and how fast. A rig that finds
// nothing may be a rig that cannot find anything; this tells the difference.
//
//	go run ./internal/mutation                  # all bugs, all suites: a table
//	go run ./internal/mutation -first           # until something catches each
//	go run ./internal/mutation -bug session     # bugs whose name matches
//
// It exits with 1 if a bug survives, and with 2 if it cannot tell: if a suite
// is red without any bug, if a planted bug does not compile, or if the text
// that a bug replaces is not in the source exactly once. The last is a test of
// this package too, so that a bug cannot rot unnoticed.
//
// # How it works
//
// A bug is a search and replace in real source files. The changed copies lie in
// a temporary directory and are given to the compiler as an overlay, so the
// checkout stays as it is. Three kinds of suites then run, the fastest first:
//
//   - unit: the tests that stand inside a package, on fakes and on the in-memory
//     file system that loses what was not synced;
//   - rig: the tests outside of it (package x_test), which run clusters of real
//     hosts in virtual time, on internal/rig;
//   - simulation: internal/sim, seed after seed.
//
// A test that fails has caught the bug. One that takes too long has not: on a
// busy machine that would prove nothing. The time counts from the start of the
// suite's binary, without building it.
//
// Rejected: mutating everything by a tool (thousands of mutants, most of them
// alike or harmless, none of them a bug that anybody had); patch files (they rot
// with every line that moves near them).
package main
