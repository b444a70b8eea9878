package netproxy

import (
	"container/heap"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxWaiting bounds the datagrams that wait on one link.
const maxWaiting = 2048

// udpFront is where datagrams to one node arrive.
type udpFront struct {
	proxy  *Proxy
	node   Node
	socket *net.UDPConn
	back   netip.AddrPort

	routes map[Node]*route // by sender; used by receive alone
}

// datagram waits until it is due.
type datagram struct {
	data []byte
	due  time.Time
}

func (f *udpFront) receive() {
	p := f.proxy
	buf := make([]byte, 64<<10)
	for {
		n, source, err := f.socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			continue // an ICMP error of an earlier send
		}
		p.mu.Lock()
		from, known := p.sources[unmap(source)]
		p.mu.Unlock()
		if !known {
			p.strangers.Add(1)
			continue
		}
		r := f.routes[from]
		if r == nil {
			r = f.route(from)
			f.routes[from] = r
		}
		now := time.Now()
		first, second, copies := r.line.datagram(now, n)
		if copies == 0 {
			p.dropped.Add(1)
			continue
		}
		data := append([]byte(nil), buf[:n]...)
		r.put(datagram{data, first})
		if copies == 2 {
			r.put(datagram{data, second})
		}
	}
}

// route is the way of datagrams from one node to another.
type route struct {
	proxy *Proxy
	line  *line
	out   *net.UDPConn // the sender's front: that is whom the receiver knows
	to    netip.AddrPort
	more  chan struct{} // cap 1

	mu      sync.Mutex
	waiting datagrams
}

func (f *udpFront) route(from Node) *route {
	p := f.proxy
	r := &route{proxy: p, line: p.line(from, f.node), to: f.back, out: f.socket, more: make(chan struct{}, 1)}
	p.mu.Lock()
	if own := p.udp[from]; own != nil {
		r.out = own.socket
	}
	p.mu.Unlock()
	p.owned.Go(r.run)
	return r
}

func (r *route) put(d datagram) {
	r.mu.Lock()
	full := len(r.waiting) >= maxWaiting
	if !full {
		heap.Push(&r.waiting, d)
	}
	r.mu.Unlock()
	if full {
		r.proxy.dropped.Add(1)
		return
	}
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// next takes what is due; otherwise it tells how long to wait for it.
func (r *route) next(now time.Time) (d datagram, ok bool, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return d, false, time.Hour
	}
	if wait = r.waiting[0].due.Sub(now); wait > 0 {
		return d, false, wait
	}
	return heap.Pop(&r.waiting).(datagram), true, 0
}

func (r *route) run() {
	p := r.proxy
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d, ok, wait := r.next(time.Now())
		if !ok {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-r.more:
			case <-p.ctx.Done():
				return
			}
			continue
		}
		if cut, _ := r.line.look(); cut {
			p.dropped.Add(1)
			continue
		}
		if _, err := r.out.WriteToUDPAddrPort(d.data, r.to); err != nil {
			p.dropped.Add(1)
			continue
		}
		p.datagrams.Add(1)
	}
}

// datagrams is a heap by due time.
type datagrams []datagram

func (h datagrams) Len() int           { return len(h) }
func (h datagrams) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h datagrams) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *datagrams) Push(x any) { *h = append(*h, x.(datagram)) }

// Pop implements heap.Interface.
func (h *datagrams) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = datagram{}
	*h = (*h)[:last]
	return d
}
