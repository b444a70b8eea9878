// Package gossip says who is alive and who hosts what.
package gossip
