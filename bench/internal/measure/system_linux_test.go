package measure

import (
	"net"
	"testing"
	"time"
)

func TestMachineTime(t *testing.T) {
	t.Parallel()
	busy, lost := machineTime([]byte("cpu  100 2 30 5000 70 4 5 6 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"))
	if busy != 141*clockTick || lost != 6*clockTick {
		t.Errorf("busy %v, lost %v", busy, lost)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu  a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8 9\n"} {
		if busy, lost := machineTime([]byte(bad)); busy != 0 || lost != 0 {
			t.Errorf("%q: busy %v, lost %v", bad, busy, lost)
		}
	}
	if clockTick != 10*time.Millisecond {
		t.Error("USER_HZ is 100")
	}
}

func TestField(t *testing.T) {
	t.Parallel()
	data := []byte("rchar: 5\nwchar: 17\nVmHWM:\t  1234 kB\nempty:\n")
	for name, want := range map[string]uint64{"rchar:": 5, "wchar:": 17, "VmHWM:": 1234} {
		if n, ok := field(data, name); !ok || n != want {
			t.Errorf("%s %d, %v", name, n, ok)
		}
	}
	for _, name := range []string{"char:", "empty:", "absent:"} {
		if n, ok := field(data, name); ok {
			t.Errorf("%s %d", name, n)
		}
	}
}

// TestSent: what goes over loopback between two sockets of this process counts once.
func TestSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := <-accepted
	if server == nil {
		t.FailNow()
	}
	defer server.Close()
	before := Read()
	const bytes = 1 << 20
	go func() {
		if _, err := client.Write(make([]byte, bytes)); err != nil {
			t.Error(err)
		}
	}()
	for read := 0; read < bytes; {
		n, err := server.Read(make([]byte, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	if used := Read().Since(before); used.Sent < bytes || used.Sent > bytes+bytes/4 || used.Memory == 0 {
		t.Errorf("%d bytes were sent, want %d; memory %d", used.Sent, bytes, used.Memory)
	}
}
