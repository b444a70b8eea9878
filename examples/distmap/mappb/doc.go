// Package mappb holds the messages of the distributed hashmap, generated from
// map.proto by pb/generate.sh.
package mappb
