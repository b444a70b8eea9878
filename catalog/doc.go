// Package catalog decides the births and deaths of data structures (design,
// section 10).
//
// Nodes subscribe to the same ID at the same moment. If each of them made the
// group, there would be two histories of one structure. So a birth is a commit
// in a group that exists already: the catalog, a raft group like any other,
// with a well-known [ID], founded with the cluster and grown to five voters by
// its own leader. Nothing but births, deaths and lookups waits for it.
//
// # Parts
//
// [Machine] is the state, a pure function of the catalog's log: one [Record]
// for each structure. Every command moves its index by one, also one that
// makes no sense; the index at which a record was made is the birth of the
// group's incarnation, so no two incarnations share one.
//
// [Service] runs on every node. It subscribes to the catalog; the subscription
// attaches if the node ever holds a replica of it, and then the node applies
// the log to a Machine and answers for it. A node without a replica asks
// holders, which gossip names. Every command may be committed twice without
// harm, so whatever is lost is asked again, until the caller's context ends.
//
// # A birth
//
//  1. Look up: a holder that knows a record saves all the rest.
//  2. Prepare a replica on each picked node, under a new token: durable, but
//     it neither votes nor elects. A node that does not answer is left out;
//     the members are part of what was prepared, so that takes a new token.
//  3. Commit Create(token). The ID is free: the record names the token.
//  4. Start the prepared replicas with the record's incarnation. Or, if another
//     token was first: remove them.
//
// The creator may die anywhere. Each node that finds a replica prepared and
// left alone for longer than the patience commits Abandon(token), and the log
// decides: if the token has the record, the replica is started; if not, the
// token can never have it any more, however late its Create comes, and the
// replica is removed. So a replica is started only if the record names its
// token, and removed only when no record ever will. The same holds for who has
// lost: the Create that loses abandons its token in the same entry.
//
// A record is a birth certificate, not a recipe: Start starts what was
// prepared here and was never started before, and makes nothing. A creator
// sends one Prepare to a node under one token, and goes on only with an answer,
// so that no late copy of it can make the replica again.
//
// # A death
//
// The group commits its own end first; then the record is marked deleted, and a
// node removes its replica only after that. Each node with a replica that has
// ended has the record marked, if nobody else did: so a deleter may die
// anywhere in between. A replica that has had no leader for the patience, and a
// subscription that has waited for a replica for that long, ask for the record:
// that is how nodes that were away learn of it. What gossip says decides
// nothing. What is deleted stays so: a birth by a subscriber is refused, and a
// Create has to name the deleted birth that it follows, so that no late one
// brings it back.
//
// # What is told of the living
//
// The leader's node of each group leaves a hint with the catalog when its voters or
// options have changed: UpdateMembers, lazily. Nothing depends on it but how
// fast a group is found, and what List shows. What the catalog knows already is not
// told again: a node that holds it looks at its own records, of as many groups as there
// are; others ask a holder, about some groups with each sweep. In a catalog that was rebuilt
// from a replica that had not everything (copycat recover), such a hint also makes
// the record that is missing, and Advance has moved the index beyond all births
// that the lost part may have given out.
//
// # What is forgotten
//
// The machine remembers the last 10,000 abandoned tokens. A Create carries an
// index that the catalog had reached before its token was made; when a token is
// forgotten, all Creates with a basis before its abandonment are refused from
// then on. So a forgotten token stays dead, and the price is one more attempt
// for a birth that was overtaken by ten thousand others. Of a deleted structure
// the ID, the birth and the index of the deletion are kept for good (some 50
// bytes), so that a late Delete or hint finds out whom it is about.
//
// # Formats, version 1; commands: 2
//
// A command, a snapshot and a call each begin with a magic byte (C7, C5, C3)
// and a version byte; a message of package catalogpb follows. Bytes without the
// magic are malformed: as a command they have no effect. A command of a newer
// version stops the machine that meets it, since other nodes know what it does:
// that node answers nothing more about the catalog, and others are asked.
// A snapshot is the same bytes for the same state; that of the machine before
// its first command is empty.
//
// # What was decided against
//
// Deciding by gossip or by the hash of the ID: two sides of a partition would
// each be right. A lease on the ID: it needs clocks, and a holder that pauses
// breaks it. Creating the group first and registering it after: who loses has
// history already. An Abandon that each loser commits after its Create: one
// commit more for the same effect. Letting a node that the record names make its
// replica from the record: a node that lost its disk would vote twice.
package catalog
