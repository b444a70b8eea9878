// Package cli is the command line that all systems under measurement share:
// the same flags, the same progress, the same results. A system brings a
// Command with its name and a function that opens it.
package cli
