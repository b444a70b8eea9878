// Package measure reads what a run costs: the processor time, memory and disk
// traffic of this process, and the facts of the machine without which the
// figures mean nothing. It reads the operating system's own counters; where
// there are none (anything but Linux), they are zero.
package measure
