package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/copycat-replication/copycat"
)

// demoLimit is for the whole demonstration, which takes a few seconds, and more on a busy machine.
const demoLimit = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "distmap:", err)
		os.Exit(1)
	}
}

// run is the program: the demonstration, or with -node one node.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, level, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if o.node == "" {
		ctx, cancel := context.WithTimeout(ctx, demoLimit)
		defer cancel()
		return runDemo(ctx, stdout, log)
	}
	o.config.Logger = log.With("name", o.node)
	return runNode(ctx, o, stdout, log)
}

func parse(args []string, stderr io.Writer) (options, slog.Level, error) {
	c := copycat.DefaultConfig()
	o := options{config: c}
	var peers, profile string
	level := slog.LevelError
	f := flag.NewFlagSet("distmap", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.node, "node", "", "`name` of this node; without it, three nodes run in this process as a demonstration")
	f.StringVar(&c.CopyCatDataDir, "dir", "", "data `directory`; default ./distmap-<name>")
	f.StringVar(&peers, "peers", "", "gossip `addresses` of other nodes, separated by spaces or commas; none: start a new cluster, unless the directory knows one")
	f.StringVar(&c.Hostname, "host", c.Hostname, "`name` or address by which other nodes reach this one")
	f.StringVar(&c.BindAddress, "bind", "", "`address` to listen on; default: that of -host")
	f.IntVar(&c.CopyCatPort, "port", 0, "`port` for other nodes; 0: a free one, which the directory keeps")
	f.IntVar(&c.GossipPort, "gossip-port", 0, "`port` for gossip; 0: a free one, which the directory keeps")
	f.StringVar(&c.DataCenter, "dc", c.DataCenter, "`name` of the data center")
	f.StringVar(&profile, "profile", "lan", "time-outs of gossip: lan, wan or local")
	f.DurationVar(&c.JoinTimeout, "join-timeout", 30*time.Second, "how long to wait for a peer at start, and for the birth of the map")
	f.StringVar(&o.http, "http", "127.0.0.1:0", "`address` of the HTTP interface")
	f.DurationVar(&o.timeout, "timeout", 5*time.Second, "how long a PUT or DELETE waits for its commit")
	f.Uint64Var(&c.SnapshotEntries, "snapshot-entries", 0, "a snapshot is due after that many `commits`; goes with the map when it is created; 0: CopyCat's default")
	f.TextVar(&level, "log", level, "`level` of the log: debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return o, level, err
	}
	if f.NArg() > 0 {
		return o, level, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.node == "" {
		var err error
		f.Visit(func(f *flag.Flag) {
			if f.Name != "log" {
				err = fmt.Errorf("-%s needs -node", f.Name)
			}
		})
		return o, level, err
	}
	c.PeersToContact = strings.FieldsFunc(peers, func(r rune) bool { return r == ' ' || r == ',' })
	if c.CopyCatDataDir == "" {
		c.CopyCatDataDir = "./distmap-" + o.node
	}
	switch profile {
	case "lan":
		c.Profile = copycat.LAN
	case "wan":
		c.Profile = copycat.WAN
	case "local":
		c.Profile = copycat.Local
	default:
		return o, level, fmt.Errorf("-profile %q is none of lan, wan, local", profile)
	}
	return o, level, nil
}
