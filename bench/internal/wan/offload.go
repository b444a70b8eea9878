package wan

import "encoding/binary"

// virtioHeader stands before each packet of a TUN device that was opened with
// IFF_VNET_HDR: flags 1, kind 1, header length 2, segment size 2, checksum
// start 2, checksum offset 2, in the machine's byte order (struct
// virtio_net_hdr of the kernel).
const virtioHeader = 10

// tunBytes is the largest packet with its header.
const tunBytes = virtioHeader + 1<<16

const (
	kindNone  = 0
	kindTCPv4 = 1
	kindECN   = 0x80 // a flag beside the kind
	protoTCP  = 6
	flagFIN   = 0x01
	flagPSH   = 0x08
	flagCWR   = 0x80
)

// frame is a packet as the device gives it.
type frame struct {
	raw      []byte // virtioHeader, IP header, and what follows
	headers  int    // of IP and TCP, where it is to be cut
	segment  int    // payload of a segment; 0: it is not to be cut
	segments int
	source   [4]byte
	target   [4]byte
}

// parse reads the headers. False: it is no IPv4, or makes no sense.
func parse(raw []byte) (f frame, ok bool) {
	if len(raw) < virtioHeader+20 || raw[virtioHeader]>>4 != 4 {
		return f, false
	}
	ip := raw[virtioHeader:]
	f = frame{raw: raw, segments: 1, source: [4]byte(ip[12:16]), target: [4]byte(ip[16:20])}
	switch raw[1] &^ kindECN {
	case kindNone:
		return f, true
	case kindTCPv4:
	default:
		return f, false // not offered
	}
	size := int(binary.NativeEndian.Uint16(raw[4:]))
	at := int(ip[0]&15) * 4
	if size == 0 || ip[9] != protoTCP || len(ip) < at+20 {
		return f, false
	}
	f.headers = at + int(ip[at+12]>>4)*4
	if len(ip) <= f.headers {
		return f, false
	}
	f.segment = size
	f.segments = (len(ip) - f.headers + size - 1) / size
	return f, true
}

// size is how many bytes segment i has on the wire.
func (f *frame) size(i int) int {
	ip := len(f.raw) - virtioHeader
	if f.segments == 1 {
		return ip
	}
	return f.headers + min(f.segment, ip-f.headers-i*f.segment)
}

// cut writes segments from to below to into buf as a packet of their own, and
// returns it. buf has room for it. Checksums of TCP stay half done, as the
// kernel left them: the receiving kernel trusts the device.
func (f *frame) cut(buf []byte, from, to int) []byte {
	if from == 0 && to == f.segments {
		return buf[:copy(buf, f.raw)]
	}
	payload := f.raw[virtioHeader+f.headers:]
	part := payload[from*f.segment : min(to*f.segment, len(payload))]
	n := copy(buf, f.raw[:virtioHeader+f.headers])
	n += copy(buf[n:], part)
	buf = buf[:n]
	if to-from == 1 {
		buf[1] = kindNone
		binary.NativeEndian.PutUint16(buf[4:], 0)
	}
	ip := buf[virtioHeader:]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(from))
	binary.BigEndian.PutUint16(ip[10:], 0)
	at := int(ip[0]&15) * 4
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:at])))

	tcp := ip[at:]
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(from*f.segment))
	if to < f.segments {
		tcp[13] &^= flagFIN | flagPSH
	}
	if from > 0 {
		tcp[13] &^= flagCWR
		buf[1] &^= kindECN
	}
	pseudo := sum(0, ip[12:20]) + protoTCP + uint32(len(tcp))
	binary.BigEndian.PutUint16(tcp[16:], fold(pseudo))
	return buf
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
