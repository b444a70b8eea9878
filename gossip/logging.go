package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

// maxLogLine bounds what one line of memberlist's may say: it prints whole
// metadata.
const maxLogLine = 512

// memberlist logs each packet that it cannot read: a peer with another key, or a
// stranger, would fill the disk. So of lines that begin alike, and are not for
// debugging, there are at most logLines in logEvery.
const (
	logEvery = time.Minute
	logLines = 20 // a data center of nodes that fail at once is told of
	logKinds = 128
)

// logAdapter takes memberlist's log lines, "[LEVEL] memberlist: text", to slog.
// memberlist logs under its own lock at times, so this must not call it.
type logAdapter struct {
	logger *slog.Logger
	// quiet takes everything down to debug: for scouts, whose failures the
	// caller reports itself, and once closed, when errors are expected.
	quiet atomic.Bool

	mu      sync.Mutex
	began   time.Time      // of what lines counts
	lines   map[string]int // by how they begin
	leftOut int            // since a line was last let through
}

func (a *logAdapter) stdLogger() *log.Logger { return log.New(a, "", 0) }

// Write takes one line, as package log writes them.
func (a *logAdapter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line[:min(len(line), maxLogLine)]))
	level := slog.LevelInfo
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if name, after, ok := strings.Cut(rest, "] "); ok {
			level, text = memberlistLevel(name), after
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if a.quiet.Load() || expected(text) {
		level = slog.LevelDebug
	}
	args := []any{"from", "memberlist"}
	if level > slog.LevelDebug {
		due, leftOut := a.due(beginning(text), time.Now())
		if !due {
			return len(line), nil
		}
		if leftOut > 0 {
			args = append(args, "lines_left_out", leftOut)
		}
	}
	a.logger.Log(context.Background(), level, text, args...)
	return len(line), nil
}

// beginning is what lines about different nodes have in common: the words before
// the first name, number or punctuation mark.
func beginning(text string) string {
	end := strings.IndexFunc(text, func(r rune) bool { return r != ' ' && !unicode.IsLetter(r) })
	if end < 0 {
		end = len(text)
	}
	return text[:min(end, 40)]
}

// due reports whether a line is to be logged, and how many were left out before it.
func (a *logAdapter) due(kind string, now time.Time) (due bool, leftOut int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lines == nil || now.Sub(a.began) >= logEvery {
		a.began, a.lines = now, make(map[string]int)
	}
	if n := a.lines[kind]; n >= logLines || n == 0 && len(a.lines) >= logKinds {
		a.leftOut++
		return false, 0
	}
	a.lines[kind]++
	leftOut, a.leftOut = a.leftOut, 0
	return true, leftOut
}

// memberlistLevel maps memberlist's levels. Its errors are about one peer or
// one packet, which it survives: warnings here.
func memberlistLevel(name string) slog.Level {
	switch name {
	case "DEBUG":
		return slog.LevelDebug
	case "WARN", "ERR", "ERROR":
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// expected lists the warnings that belong to normal life with our use: nodes
// that we refuse (and log, once each) ourselves, and a restarted node meeting
// its former life. Nothing depends on the texts but the level of a log line.
func expected(text string) bool {
	for _, prefix := range []string{"ignoring alive message for", "Failed push/pull merge:", "Refuting an alive message for"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}
