// Package gossippb holds the messages of the gossip layer, generated from
// gossip.proto by pb/generate.sh. Package gossip says what they mean.
package gossippb
