package catalog

import "github.com/copycat-replication/copycat/pb/catalogpb"

// StepOf names the step of a birth that a call to another node is, for tests
// from outside that tell them apart.
func StepOf(method uint16, request []byte) string {
	switch method {
	case methodPrepare:
		return "prepare"
	case methodStart:
		return "start"
	case methodDiscard:
		return "discard"
	case methodCommand, methodCommand2:
		var m catalogpb.Command
		if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
			return "nonsense"
		}
		if c, err := fromProto(&m, 2); err == nil {
			if _, ok := c.(createCommand); ok {
				return "create"
			}
		}
		return "command"
	}
	return "ask"
}
