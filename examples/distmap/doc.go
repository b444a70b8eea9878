// Command distmap is a distributed hashmap on top of CopyCat. Every process
// keeps the whole map in its own memory; CopyCat carries the changes.
//
// Without flags it shows what CopyCat does: three nodes in this one process,
// on loopback, with their data in a temporary directory. It ends by itself.
//
//	go run ./examples/distmap
//
// With -node it is one node of a real cluster, with a small HTTP interface:
//
//	distmap -node a -dc berlin  -dir /var/lib/distmap-a -gossip-port 12983 -http 127.0.0.1:8001
//	distmap -node b -dc paris   -dir /var/lib/distmap-b -peers 127.0.0.1:12983 -http 127.0.0.1:8002
//	distmap -node c -dc lisbon  -dir /var/lib/distmap-c -peers 127.0.0.1:12983 -http 127.0.0.1:8003
//
//	PUT    /keys/{key}   body: the value. 200 after the change came back committed
//	DELETE /keys/{key}   likewise
//	GET    /keys/{key}   this node's copy of the value; 404 if it has none
//	GET    /keys         this node's copy of the whole map, as JSON
//	GET    /status       what the node knows of itself and its replicas, as JSON
//
// A 503 to a PUT or DELETE says which of two things happened: the change was
// not made, or its outcome is not known and it may still be made.
//
// Where to read: map.go is the data structure and all that it has to do with
// CopyCat; http.go the interface; node.go one node with its ports; demo.go the
// demonstration.
package main
