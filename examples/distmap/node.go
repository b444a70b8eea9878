package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/copycat-replication/copycat"
)

// mapID names the map: every node subscribes to the same ID.
const mapID = "01CFR5R4JJE9KNRAJFFEAQ2SAJ"

// patience is how long a node that ends waits for requests and changes under way.
const patience = 3 * time.Second

// options of one node of a real cluster.
type options struct {
	node    string
	config  *copycat.Config
	http    string
	timeout time.Duration
}

// runNode runs one node until ctx ends. It tells on out where it listens.
func runNode(ctx context.Context, o options, out io.Writer, log *slog.Logger) (err error) {
	listener, err := net.Listen("tcp", o.http)
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	cc, err := copycat.NewCopyCat(o.config)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer cc.Shutdown()
	m, err := Subscribe(cc, mapID, log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, closeMap(m, log)) }()

	a := &api{node: o.node, cc: cc, m: m, timeout: o.timeout, log: log}
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	s := cc.Status()
	_, err = fmt.Fprintf(out, "ready node=%s id=%s gossip=%s copycat=%s http=http://%s\n",
		o.node, s.NodeID, s.GossipAddress, s.CopyCatAddress, listener.Addr())
	if err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	return stopHTTP(server, failed)
}

// stopHTTP lets requests under way finish, for a while.
func stopHTTP(server *http.Server, failed <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// closeMap unsubscribes. Changes whose fate is not known by then are reported
// by the shutdown that follows.
func closeMap(m *Map, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := m.Close(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("changes are still under way", "error", err)
		return nil
	}
	return err
}
