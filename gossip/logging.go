package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
	"sync/atomic"
)

// maxLogLine bounds what one line of memberlist's may say: it prints whole
// metadata.
const maxLogLine = 512

// logAdapter takes memberlist's log lines, "[LEVEL] memberlist: text", to slog.
// memberlist logs under its own lock at times, so this must not call it.
type logAdapter struct {
	logger *slog.Logger
	// quiet takes everything down to debug: for scouts, whose failures the
	// caller reports itself, and once closed, when errors are expected.
	quiet atomic.Bool
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
	a.logger.Log(context.Background(), level, text, "from", "memberlist")
	return len(line), nil
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
