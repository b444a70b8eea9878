package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/copycat-replication/copycat/id"
)

// identity is what one side of a handshake knows and is.
type identity struct {
	cluster     id.Cluster
	node        id.Node
	incarnation uint64
	instance    uint64 // of the process, by chance; 0: not to be told
	key         []byte
	binding     []byte // ties the proofs to the TLS session, if there is one
	nonce       [nonceSize]byte
}

// stranger is what a handshake has found out about the other side.
type stranger struct {
	node        id.Node // zero: it never said
	incarnation uint64
	instance    uint64 // 0: it did not say
	purpose     purpose
	idle        time.Duration
}

// dialHandshake runs the dialer's side: hello, then (with a key) challenge and
// proof, then welcome or a refusal.
func (me *identity) dialHandshake(rw io.ReadWriter, target id.Node, p purpose, idle time.Duration) (stranger, error) {
	it := stranger{node: target, purpose: p}
	if me.cluster.IsZero() {
		return it, fmt.Errorf("%w: this node", ErrNotReady)
	}
	h := hello{
		cluster: me.cluster, from: me.node, target: target, incarnation: me.incarnation,
		purpose: p, keyed: len(me.key) > 0, idle: idle, nonce: me.nonce, instance: me.instance,
	}
	sent := appendRecord(nil, recordHello, h.append(nil))
	if _, err := rw.Write(sent); err != nil {
		return it, fmt.Errorf("write handshake: %w", err)
	}
	r, err := readRecord(rw)
	if err != nil {
		return it, err
	}
	var challenge []byte
	if h.keyed && r.kind == recordChallenge {
		challenge = r.raw
		mac := me.proof("dialer", sent, challenge)
		if _, err := rw.Write(appendRecord(nil, recordProof, mac)); err != nil {
			return it, fmt.Errorf("write handshake: %w", err)
		}
		if r, err = readRecord(rw); err != nil {
			return it, err
		}
	}
	switch r.kind {
	case recordRefuse:
		return it, me.refusedBy(r.body, target)
	case recordWelcome:
	default:
		return it, fmt.Errorf("%w: handshake record of kind %d", ErrMalformed, r.kind)
	}
	w, err := parseWelcome(r.body)
	if err != nil {
		return it, err
	}
	it.incarnation, it.instance = w.incarnation, w.instance
	switch {
	case h.keyed && (challenge == nil || !hmac.Equal(w.mac[:], me.proof("listener", sent, challenge, w.appendProven(nil)))):
		return it, fmt.Errorf("%w: node %s did not prove that it knows the key", ErrBadKey, w.node)
	case w.cluster != me.cluster:
		return it, wrongCluster(me.cluster, w.cluster)
	case w.node != target:
		return it, wrongNode(target, w.node)
	}
	return it, nil
}

// refusedBy makes an error of the body of a refusal.
func (me *identity) refusedBy(body []byte, target id.Node) error {
	r, err := parseRefusal(body)
	if err != nil {
		return err
	}
	if r.code == 0 || int(r.code) >= len(refusalReasons) {
		return fmt.Errorf("%w: node %s refuses with the unknown code %d", ErrPeerDown, r.node, r.code)
	}
	switch reason := refusalReasons[r.code]; reason {
	case ErrWrongCluster:
		return wrongCluster(me.cluster, r.cluster)
	case ErrWrongNode:
		return wrongNode(target, r.node)
	case ErrNewerVersion:
		return fmt.Errorf("%w: node %s reads none as new as %d.%d", reason, r.node, versionMajor, versionMinor)
	default:
		return fmt.Errorf("%w: says node %s", reason, r.node)
	}
}

// acceptHandshake runs the listener's side. admit is asked last, when the
// other side has proven who it is. What it returns names the other side as far
// as that is known, also with an error.
func (me *identity) acceptHandshake(rw io.ReadWriter, admit func(stranger) error) (stranger, error) {
	it, err := me.examine(rw, admit)
	if err == nil {
		return it, nil
	}
	for code, reason := range refusalReasons {
		if reason != nil && errors.Is(err, reason) {
			r := refusal{code: byte(code), cluster: me.cluster, node: me.node}
			if _, werr := rw.Write(appendRecord(nil, recordRefuse, r.append(nil))); werr != nil {
				return it, fmt.Errorf("%w (and the refusal could not be sent: %w)", err, werr)
			}
			break
		}
	}
	return it, err
}

func (me *identity) examine(rw io.ReadWriter, admit func(stranger) error) (it stranger, err error) {
	r, err := readRecord(rw)
	if err != nil {
		return it, err
	}
	if r.kind != recordHello {
		return it, fmt.Errorf("%w: handshake record of kind %d", ErrMalformed, r.kind)
	}
	h, err := parseHello(r.body)
	if err != nil {
		return it, err
	}
	it = stranger{node: h.from, incarnation: h.incarnation, instance: h.instance, purpose: h.purpose, idle: h.idle}
	switch {
	case me.cluster.IsZero():
		return it, fmt.Errorf("%w: this node", ErrNotReady)
	case h.cluster != me.cluster:
		return it, wrongCluster(me.cluster, h.cluster)
	case h.target != me.node:
		return it, wrongNode(h.target, me.node)
	case h.from == me.node || h.from.IsZero():
		return it, fmt.Errorf("%w: the other side calls itself %s, and this is %s", ErrWrongNode, h.from, me.node)
	case h.keyed != (len(me.key) > 0):
		return it, fmt.Errorf("%w: only one of the two sides has one", ErrBadKey)
	}
	w := welcome{cluster: me.cluster, node: me.node, incarnation: me.incarnation, instance: me.instance}
	if h.keyed {
		challenge := appendRecord(nil, recordChallenge, me.nonce[:])
		if _, err := rw.Write(challenge); err != nil {
			return it, fmt.Errorf("write handshake: %w", err)
		}
		answer, err := readRecord(rw)
		if err != nil {
			return it, err
		}
		if answer.kind != recordProof || !hmac.Equal(answer.body, me.proof("dialer", r.raw, challenge)) {
			return it, fmt.Errorf("%w: node %s did not prove that it knows the key", ErrBadKey, h.from)
		}
		copy(w.mac[:], me.proof("listener", r.raw, challenge, w.appendProven(nil)))
	}
	if err := admit(it); err != nil {
		return it, err
	}
	if _, err := rw.Write(appendRecord(nil, recordWelcome, w.append(nil))); err != nil {
		return it, fmt.Errorf("write handshake: %w", err)
	}
	return it, nil
}

// proof is the HMAC of everything said so far. The role keeps one side's proof
// from serving as the other's, the lengths keep the parts apart.
func (me *identity) proof(role string, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, me.key)
	for _, part := range append([][]byte{[]byte("copycat transport 1 " + role), me.binding}, parts...) {
		var size [8]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(part)))
		mac.Write(size[:])
		mac.Write(part)
	}
	return mac.Sum(nil)
}

func wrongCluster(ours, theirs id.Cluster) error {
	return fmt.Errorf("%w: this node is in %s, the other in %s", ErrWrongCluster, ours, theirs)
}

func wrongNode(wanted, found id.Node) error {
	return fmt.Errorf("%w: node %s was wanted, node %s is there", ErrWrongNode, wanted, found)
}
