// Package placement decides which nodes should hold a data structure: a pure
// function of the structure's ID, the nodes that are alive, and the options.
// It does no I/O, keeps nothing, and gives the same answer everywhere, so the
// leader of each group asks it by itself and nobody coordinates.
//
// # How it chooses
//
// For each pair of structure and node a draw is made: a hash of the two IDs,
// shaped so that it is exponentially distributed with the node's capacity as
// its rate (straw2 of CRUSH; rendezvous hashing with weights). The smallest
// draw wins. The draw depends on nothing but the two IDs and that node's own
// capacity. Voters are then taken one after the other; each time the next is
// the node
//
//  1. whose data center has the fewest of the structure's voters so far,
//  2. of those, whose rack has the fewest,
//  3. of those, with the smallest draw.
//
// So the spread over data centers comes first, then over racks, then over
// nodes, and chance, weighted by capacity, decides the rest. Load is not an
// input: it would make replicas wander.
//
// This is the descent down the tree data center → rack → node of CRUSH, without
// CRUSH's weights at the inner levels: the smallest of exponential draws is
// itself exponential, with the sum of the rates. A data center that is judged by
// the best draw among its nodes therefore wins as often as one with a draw of
// its own, weighted by the sum of its capacities, would. CRUSH adds up weights
// in the inner nodes instead, and pays for it: when a node joins, the weight of
// its data center grows, a structure moves there, and lands on any node in it.
//
// # What holds exactly
//
// Movement of voters is minimal, spread constraints included. If a node joins,
// the new set of voters is the old one, or the old one with one voter replaced
// by (or, if there were too few nodes, grown by) the node that joined. If a node
// leaves, every other voter stays. The same holds for a change of capacity, and
// with PinnedDataCenters and PreferredDataCenter in use.
//
// Why: what the rule above computes is the set of k nodes that minimizes, in
// this order, the number of pairs of voters in one data center, the number of
// pairs in one rack, and the sum of draws. That is a sum of convex functions of
// counts over a laminar family (data centers contain racks contain nodes), hence
// a valuated matroid. For those the greedy rule finds the optimum for every k,
// and the exchange property says: let B be the optimum, x in B, and B' the
// optimum without x. There is a y in B' \ B such that B-x+y and B'+x-y together
// are as good as B and B'. Neither is better than its own optimum, so B-x+y is
// optimal without x, and as no two draws are equal, B' = B-x+y. Draws are compared
// as exact fractions of integers, and ties go to the smaller ID, so the optimum
// is unique indeed, and the same on every machine: no floating point is involved.
//
// A prefix of Plan.Voters is the answer for fewer voters. So a caller that makes
// the number odd by cutting the list loses nothing of the above.
//
// # Who leads
//
// Leaders orders the voters that a group has, which need not be those that are
// wished: the ones in Options.PreferredDataCenter first, then by their draws. So
// leaderships are dealt out by capacity, as replicas are, and when the first in
// the order is gone the next one takes over and nothing else changes. It is a
// wish: raft elects whom it can, and a leader that is not the wished one hands
// over when that costs nothing. Without a preferred data center nobody need
// move: the order then only says who is best among equals.
//
// # What cannot hold at once
//
// Even load and spread: with one voter in each of three data centers of
// unequal size, the nodes of the small one carry more. Spread goes first. Where
// the spread leaves the choice (data centers of equal capacity, or more of them
// than voters), load follows capacity, up to chance: 1,000 structures with 3
// voters on 12 nodes leave the worst node within 1.2 times the mean.
//
// Learners, spread over racks, and minimal movement: let learner L stand in rack
// 1 of a data center that has no voter, and let a node join that rack and become
// a voter. Now either L moves to rack 2, or voter and learner share a rack.
// Spread goes first here too: a shared rack would stay for good, and the move is
// one learner, once. So of voters and learners together: if the data centers keep
// their numbers of voters (always so if the number of voters is a multiple of
// the number of data centers), movement is minimal; otherwise at most one
// learner more gets a new node, in the data center that got the voter more.
// Changes of role on the same node, voter to learner or back, are no movement.
//
// A limit on data centers (Options.DataCenters below the number of voters and of
// data centers) and minimal movement: two voters that must share a data center
// must also leave it together. The data centers are chosen by their best draws,
// so that load follows capacity, and as long as they stay the same, movement is
// minimal. When a join or a leave changes them, all of the structure's voters in
// the data center that is given up move, and those in the others may be dealt
// out again. Choosing data centers by a hash of their names would move less
// when nodes join, but give a data center with one node as much as one with a
// hundred.
//
// # Rejected
//
// Consistent hashing on a ring: it needs virtual nodes for an even load, and the
// spread constraint skips along the ring, so that a join moves replicas between
// old nodes. Assigning by a solver with the load as input: better balance, and
// every change of anything may move everything. Caps per data center (at most
// ceil(voters / data centers)) instead of pairs: the cap changes when a data
// center comes or goes, and every structure is dealt out anew.
package placement
