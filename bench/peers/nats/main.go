package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/copycat-replication/copycat/bench/internal/cli"
)

func main() { os.Exit(command().Main()) }

func command() *cli.Command {
	s := &settings{}
	return &cli.Command{
		Name:        "NATS JetStream",
		About:       "Measures NATS JetStream, its servers and clients in this process.",
		Subscribers: true,
		Flags: func(f *flag.FlagSet) {
			f.StringVar(&s.settle, "settle", "delivery", "`when` a proposal is done: delivery (to the proposer's consumer) or ack (by the stream's leader)")
		},
		Settings: s.String,
		Open:     s.open,
	}
}

type settings struct{ settle string }

func (s *settings) String() string {
	return fmt.Sprintf("R3 file streams, sync_interval always, in-process clients, ordered consumers, done at %s", s.settle)
}
