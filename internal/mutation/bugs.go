package main

// bug is a mistake that somebody made, or could make, in one sentence of code.
type bug struct {
	name  string // for -bug and the table
	why   string // what is wrong with it
	edits []edit
	units []string // packages whose inner tests might see it
	rigs  []string // packages whose outer tests run clusters that might
	sim   bool     // the simulation runs this code
}

// edit replaces a text that stands in the file exactly once.
type edit struct {
	file     string // from the module's root
	old, new string
}

const encodeForSnapshot = `	encoded, err := s.encode()
	if err != nil {
		return SnapshotRef{}, err
	}
	w, err := h.snaps.Create(`

var bugs = []bug{
	{
		name: "acknowledge before fsync",
		why:  "the log answers a batch that no sync has made durable",
		edits: []edit{{"wal/flush.go", `	if err := w.active.file.SyncData(); err != nil {
		return l.fail("sync "+w.active.name, err)
	}
	for i := range w.changes {`, `	for i := range w.changes {`}},
		units: []string{"wal"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name: "skip the session check at apply",
		why:  "every batch of a known session counts, whatever its numbers are",
		edits: []edit{{"raftgroup/session.go", `	case first > s.last+1:
		return 0, verdictGap
	case first+uint64(n)-1 <= s.last:
		return 0, verdictDuplicate
	}
	from = s.last + 1
`, `	}
	from = first
`}},
		units: []string{"raftgroup"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name: "adopt an unknown session",
		why:  "a batch of a session that was closed, expired or never opened opens it",
		edits: []edit{{"raftgroup/session.go", `	s := t.live[id]
	switch {
	case s == nil:
		return 0, verdictUnknown
`, `	s := t.live[id]
	if s == nil {
		s = &session{id: id, last: first - 1, nonce: [16]byte{byte(id), byte(id >> 8), byte(id >> 16)}}
		t.add(s)
	}
	switch {
`}},
		units: []string{"raftgroup"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name:  "label a snapshot off by one",
		why:   "the label is that of the entry after the state, so whoever loads it skips that entry",
		edits: []edit{{"raftgroup/snapshots.go", encodeForSnapshot, "\ts.index++\n" + encodeForSnapshot}},
		units: []string{"raftgroup"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name:  "drop the session table from the snapshot",
		why:   "who starts behind the snapshot knows no session",
		edits: []edit{{"raftgroup/snapshots.go", encodeForSnapshot, "\ts.sessions = sessionTable{}\n" + encodeForSnapshot}},
		units: []string{"raftgroup"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name:  "store today's membership with an older snapshot",
		why:   "the membership is that of the apply cursor, not that of the snapshot's place",
		edits: []edit{{"raftgroup/snapshots.go", encodeForSnapshot, "\ts.conf, s.members = g.state.conf, g.state.members\n" + encodeForSnapshot}},
		units: []string{"raftgroup"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name: "reuse a ReplicaID",
		why:  "the lowest ID that nobody has just now is given out, one that was given up included",
		edits: []edit{{"raftgroup/state.go", `	o.intent, o.ok = s.next, true
	s.next++
`, `	o.intent, o.ok = 1, true
	for s.mayAdd(uint64(o.intent)) {
		o.intent++
	}
	s.next = max(s.next, o.intent+1)
`}},
		units: []string{"raftgroup"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name:  "ignore a CRC: of a frame in the log",
		why:   "recovery believes frames that do not match their checksum",
		edits: []edit{{"wal/scan.go", `f.ok = frameCRC(data[pos:next], chain) == fh.crc`, `f.ok = frameCRC(data[pos:next], chain) == fh.crc || true`}},
		units: []string{"wal"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name: "ignore a CRC: of a chunk in a snapshot",
		why:  "the user's bytes are handed out as they lie on the disk",
		edits: []edit{{"snapshot/stream.go", `if chunkCRC(s.seed, s.chunks, s.chunkHdr[:4], b) != binary.LittleEndian.Uint32(s.chunkHdr[4:]) {`,
			`if chunkCRC(s.seed, s.chunks, s.chunkHdr[:4], b) != binary.LittleEndian.Uint32(s.chunkHdr[4:]) && false {`}},
		units: []string{"snapshot"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name: "treat a hole in the log as its end",
		why:  "a batch that cannot be read ends the log, although later ones say that it was durable",
		edits: []edit{
			{"wal/scan.go", `			next := r.findBatch(sc, off+batchAlign, off)
`, `			next := int64(-1)
`},
			{"wal/scan.go", `if !whole && sc.last && r.findBatch(sc, off+batchAlign, off) < 0 && !sc.bad {`, `if !whole && sc.last {`},
		},
		units: []string{"wal"}, rigs: []string{"raftgroup"}, sim: true,
	},
	{
		name: "let two creators of one ID both start",
		why:  "a second Create of an ID that lives succeeds too",
		edits: []edit{{"catalog/machine.go", `	case lives:
		m.abandon(c.token)
		return Exists
`, `	case lives:
`}},
		units: []string{"catalog"}, rigs: []string{"catalog"}, sim: true,
	},
}
