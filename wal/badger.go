package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	// coldPiece keeps values far below Badger's value threshold: its value
	// log only logs a failed sync.
	coldPiece = 256 << 10
	// coldBatch is about how many bytes go into one transaction; Badger
	// takes 15 % of a memtable.
	coldBatch    = 1 << 20
	coldMemtable = 16 << 20
	coldKeySize  = 18 // group 8, index 8, piece 2, big endian
)

type badgerCold struct{ db *badger.DB }

// OpenBadger opens the cold store that is kept in a Badger database in dir,
// on the operating system's file system. Every write is synced: with
// SyncWrites off, Sync covers only the newest memtable. A database that is damaged
// where opening it would end the process is an error.
func OpenBadger(dir string, logger *slog.Logger) (ColdStore, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithMemTableSize(coldMemtable).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithNumCompactors(2).
		WithNumGoroutines(2).
		WithBlockCacheSize(4 << 20).
		WithIndexCacheSize(4 << 20).
		WithValueLogFileSize(16 << 20).
		WithValueThreshold(1 << 20).
		WithCompression(options.None).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithCompactL0OnClose(false).
		WithLogger(badgerLogger{logger})
	c := &badgerCold{}
	err := contained("open", func() (err error) {
		if err = checkBadger(dir); err == nil {
			c.db, err = badger.Open(o)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("badger in %s: %w", dir, err)
	}
	return c, nil
}

func coldKey(k ColdKey, piece uint16) []byte {
	b := make([]byte, coldKeySize)
	binary.BigEndian.PutUint64(b, k.Group)
	binary.BigEndian.PutUint64(b[8:], k.Index)
	binary.BigEndian.PutUint16(b[16:], piece)
	return b
}

// Put stores each record in pieces; the first one starts with the length of
// the whole, so that a missing piece is seen.
func (c *badgerCold) Put(records []ColdRecord) error {
	return contained("write", func() error { return c.put(records) })
}

func (c *badgerCold) put(records []ColdRecord) error {
	txn := c.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	size := 0
	set := func(key, value []byte) error {
		if size > 0 && size+len(value) > coldBatch {
			if err := txn.Commit(); err != nil {
				return err
			}
			txn, size = c.db.NewTransaction(true), 0
		}
		err := txn.Set(key, value)
		if errors.Is(err, badger.ErrTxnTooBig) {
			if err := txn.Commit(); err != nil {
				return err
			}
			txn, size = c.db.NewTransaction(true), 0
			err = txn.Set(key, value)
		}
		size += len(key) + len(value)
		return err
	}
	for _, r := range records {
		if int64(len(r.Bytes)) > coldPiece*(1<<16-1) {
			return fmt.Errorf("badger: record of %d bytes", len(r.Bytes))
		}
		rest := r.Bytes
		for piece := 0; piece == 0 || len(rest) > 0; piece++ {
			n := min(len(rest), coldPiece)
			var value []byte
			if piece == 0 {
				value = make([]byte, 4, 4+n)
				le.PutUint32(value, uint32(len(r.Bytes)))
			}
			value = append(value, rest[:n]...)
			if err := set(coldKey(r.Key, uint16(piece)), value); err != nil {
				return fmt.Errorf("badger: write: %w", err)
			}
			rest = rest[n:]
		}
	}
	if err := txn.Commit(); err != nil {
		return fmt.Errorf("badger: write: %w", err)
	}
	return nil
}

// Get walks one group with a prefix: without one, an iterator wades through
// the tombstones of the whole database.
func (c *badgerCold) Get(group, lo, hi, maxBytes uint64) (list [][]byte, err error) {
	err = contained("read", func() error {
		list, err = c.get(group, lo, hi, maxBytes)
		return err
	})
	return list, err
}

func (c *badgerCold) get(group, lo, hi, maxBytes uint64) ([][]byte, error) {
	var list [][]byte
	err := c.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = coldKey(ColdKey{Group: group}, 0)[:8]
		o.PrefetchSize = int(min(max(hi-lo, 1), 16))
		it := txn.NewIterator(o)
		defer it.Close()
		total, missing, piece := uint64(0), 0, uint16(0)
		for it.Seek(coldKey(ColdKey{group, lo}, 0)); it.Valid(); it.Next() {
			k := it.Item().Key()
			index := lo + uint64(len(list))
			if missing > 0 {
				index--
			}
			if index >= hi || string(k) != string(coldKey(ColdKey{group, index}, piece)) {
				break
			}
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return fmt.Errorf("badger: read group %d index %d: %w", group, index, err)
			}
			if piece > 0 {
				last := len(list) - 1
				list[last] = append(list[last], value...)
				missing -= len(value)
			} else {
				if len(value) < 4 {
					break
				}
				size := int(le.Uint32(value))
				if total += uint64(size); len(list) > 0 && total > maxBytes {
					break
				}
				rec := value[4:]
				if size > len(rec) {
					rec = append(make([]byte, 0, min(size, coldBatch)), rec...) // a rotten length must not become an allocation
				}
				list, missing = append(list, rec), size-len(rec)
			}
			if piece++; missing <= 0 {
				piece, missing = 0, 0
			}
		}
		if missing > 0 {
			list = list[:len(list)-1]
		}
		return nil
	})
	return list, err
}

// Delete removes key by key: DropPrefix would fail concurrent commits.
func (c *badgerCold) Delete(from, to ColdKey) error {
	return contained("delete", func() error { return c.remove(from, to) })
}

func (c *badgerCold) remove(from, to ColdKey) error {
	start, end := coldKey(from, 0), string(coldKey(to, 0))
	var prefix []byte
	if from.Group == to.Group {
		prefix = coldKey(from, 0)[:8]
	}
	for {
		keys, err := c.keys(start, end, prefix, 4096)
		if err != nil || len(keys) == 0 {
			return err
		}
		batch := c.db.NewWriteBatch()
		for _, k := range keys {
			if err := batch.Delete(k); err != nil {
				batch.Cancel()
				return fmt.Errorf("badger: delete: %w", err)
			}
		}
		if err := batch.Flush(); err != nil {
			return fmt.Errorf("badger: delete: %w", err)
		}
		start = append(keys[len(keys)-1], 0)
	}
}

func (c *badgerCold) keys(start []byte, end string, prefix []byte, n int) (keys [][]byte, err error) {
	err = c.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		o.Prefix = prefix
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek(start); it.Valid() && len(keys) < n; it.Next() {
			k := it.Item().KeyCopy(nil)
			if string(k) >= end {
				break
			}
			keys = append(keys, k)
		}
		return nil
	})
	return keys, err
}

// Sync has nothing left to do for records: every transaction was synced.
func (c *badgerCold) Sync() error { return contained("sync", c.db.Sync) }

func (c *badgerCold) Close() error { return contained("close", c.db.Close) }

// badgerLogger passes on what matters.
type badgerLogger struct{ l *slog.Logger }

func (b badgerLogger) Errorf(f string, a ...any)   { b.l.Error(text(f, a)) }
func (b badgerLogger) Warningf(f string, a ...any) { b.l.Warn(text(f, a)) }
func (b badgerLogger) Infof(f string, a ...any)    { b.l.Debug(text(f, a)) }
func (b badgerLogger) Debugf(f string, a ...any)   {}

func text(f string, a []any) string { return "badger: " + strings.TrimSpace(fmt.Sprintf(f, a...)) }
