package measure

import (
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
