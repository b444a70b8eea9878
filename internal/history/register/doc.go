// Package register holds a history's register map against a model of a
// linearizable one, with porcupine. It is a package of its own so that the
// checker of package history depends on nothing but this repository.
//
// A put is an operation from its proposal until its proposer got it back. A
// read is local and would not be linearizable: so it rides on a proposal of its
// own (history.OpRead), and is an operation from that proposal until it came
// back, when the state answers it.
//
// # Unknown outcomes
//
// A put that did not come back to its proposer (a crash, a report, a load
// instead of the delivery) may have counted or not. porcupine may try both, and
// gives up with few of them. Here nothing is left to try: the total order says
// whether the put is in it. If it is, it took effect before anybody was
// delivered it, which bounds its interval; if it is not, it never took effect,
// and is left out. A read that did not come back has no answer, and is left
// out too. This loses nothing, since package history has already checked that
// the order is one and that nothing is missing in it.
//
// # Cost
//
// Keys are checked one by one. The search is exponential in the operations of
// one key that are under way together: a workload keeps those below about ten,
// with many keys or few proposals in flight. A search that does not end in time
// is ErrUndecided, which is a failure like any other.
package register
