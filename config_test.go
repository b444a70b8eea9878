package copycat

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNilConfig(t *testing.T) {
	t.Parallel()
	if _, err := NewCopyCat(nil); !errors.Is(err, ErrConfig) {
		t.Fatalf("got %v, want ErrConfig", err)
	}
}

// TestConfigFaults wants every fault in one error, and the caller's struct and
// what it points to as they were.
func TestConfigFaults(t *testing.T) {
	t.Parallel()
	cfg := &Config{
		Hostname: "127.0.0.1:11983", BindAddress: "nowhere", CopyCatPort: -1, GossipPort: 65536,
		CopyCatDataDir: t.TempDir(), JoinTimeout: -time.Second, ProposalTimeout: -time.Second,
		ReplaceAfter: -time.Second, SnapshotBandwidth: -1, MaxProposalBytes: maxProposalCeiling + 1, WindowBytes: -1, DataCenter: strings.Repeat("x", 65), Rack: "rack 1\n",
		Profile: 99, ClusterKey: []byte("short"),
		PeersToContact: []string{"no-port", "h:1  :2", "h:0", "h:port", "h:65536", "1.2.3.4:5", "[::1]:5"},
		TLS:            &tls.Config{}, Logger: slog.New(slog.DiscardHandler),
	}
	before := *cfg
	before.PeersToContact, before.ClusterKey = slices.Clone(cfg.PeersToContact), slices.Clone(cfg.ClusterKey)
	cc, err := NewCopyCat(cfg)
	if err == nil {
		cc.Shutdown()
	}
	if !errors.Is(err, ErrConfig) {
		t.Fatalf("got %v, want ErrConfig", err)
	}
	for _, fault := range []string{
		"Hostname", "BindAddress", "CopyCatPort -1", "GossipPort 65536", "JoinTimeout", "ProposalTimeout", "ReplaceAfter",
		"SnapshotBandwidth", "MaxProposalBytes", "WindowBytes", "DataCenter", "Rack", "Profile", "ClusterKey", "TLS", `"no-port"`, `":2"`, `"h:0"`, `"h:port"`, `"h:65536"`,
	} {
		if !strings.Contains(err.Error(), fault) {
			t.Errorf("the error does not name %s", fault)
		}
	}
	for _, fine := range []string{`"h:1"`, "1.2.3.4:5", "[::1]:5"} {
		if strings.Contains(err.Error(), fine) {
			t.Errorf("the error names %s, which is no fault", fine)
		}
	}
	if !reflect.DeepEqual(*cfg, before) {
		t.Errorf("the caller's struct was changed:\n%+v\n%+v", *cfg, before)
	}
}

// TestConfigCopied wants a node that works with a struct that is half empty
// and whose slices the caller goes on to change, and an unchanged struct.
func TestConfigCopied(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.JoinTimeout, cfg.Profile = 0, Local
	cfg.ClusterKey = []byte("0123456789abcdef")
	before := *cfg
	before.ClusterKey = slices.Clone(cfg.ClusterKey)
	cc := start(t, cfg)
	if !reflect.DeepEqual(*cfg, before) {
		t.Errorf("the caller's struct was changed:\n%+v\n%+v", *cfg, before)
	}
	if st := cc.Status(); st.DataCenter != "default" || st.Rack != "default" || strings.HasSuffix(st.CopyCatAddress, ":0") {
		t.Errorf("defaults not filled in: %+v", st)
	}
	other := testConfig(t, "", cc.Status().GossipAddress)
	other.ClusterKey = slices.Clone(cfg.ClusterKey)
	clear(cfg.ClusterKey)
	waitStatus(t, start(t, other), "two nodes alive", func(s Status) bool { return alive(s) == 2 })
}

func TestDefaultConfig(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	if cfg.CopyCatPort != 11983 || cfg.GossipPort != 12983 || cfg.CopyCatDataDir != "./copy-cat-db/" {
		t.Errorf("not the published defaults: %+v", cfg)
	}
	if err := cfg.withDefaults().validate(); err != nil {
		t.Error(err)
	}
}

func TestSamePortTwice(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.CopyCatPort, cfg.GossipPort = 20000, 20000
	if _, err := NewCopyCat(cfg); !errors.Is(err, ErrConfig) {
		t.Fatalf("got %v, want ErrConfig", err)
	}
}

func TestHostnameDoesNotResolve(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "")
	cfg.Hostname, cfg.JoinTimeout = "no host name", time.Second
	if _, err := NewCopyCat(cfg); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "no host name") {
		t.Fatalf("got %v, want ErrConfig with the name", err)
	}
}

// TestConfigThatCannotListen has configurations that are well-formed, and of
// which only the machine knows that they do not work: each is told by a
// documented error that names what is wrong, and leaves nothing behind.
func TestConfigThatCannotListen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		want   error
		names  string
	}{
		"name that others cannot resolve": {func(c *Config) { c.Hostname, c.BindAddress = "no host name", "127.0.0.1" }, ErrConfig, "no host name"},
		"address of another kind":         {func(c *Config) { c.BindAddress = "::1" }, ErrConfig, "127.0.0.1"},
		"name with a port":                {func(c *Config) { c.Hostname, c.BindAddress = "localhost:7458", "127.0.0.1" }, ErrConfig, "without a port"},
		"name too long":                   {func(c *Config) { c.Hostname, c.BindAddress = strings.Repeat("h", 254), "127.0.0.1" }, ErrConfig, "254"},
		"every address":                   {func(c *Config) { c.Hostname = "0.0.0.0" }, ErrConfig, "BindAddress"},
		"every address of IPv6":           {func(c *Config) { c.Hostname = "::" }, ErrConfig, "BindAddress"},
		"text that is none":               {func(c *Config) { c.DataCenter = "berlin\xff" }, ErrConfig, "DataCenter"},
		"another machine's host":          {func(c *Config) { c.Hostname = "192.0.2.1" }, ErrListen, "192.0.2.1"},
		"another machine's address":       {func(c *Config) { c.BindAddress = "192.0.2.1" }, ErrListen, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			good := *cfg
			c.change(cfg)
			if err := refused(t, cfg, c.want); !strings.Contains(err.Error(), c.names) {
				t.Errorf("%v does not name %s", err, c.names)
			}
			mustBeClosed(t, cfg.CopyCatDataDir)
			works(t, &good)
		})
	}
}

// TestConfigAtItsBounds runs on the largest and the smallest numbers that are
// taken: nothing that is computed of them may overflow, or divide by nothing.
func TestConfigAtItsBounds(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"largest": func(c *Config) {
			c.ReplaceAfter, c.JoinTimeout, c.ProposalTimeout = math.MaxInt64, math.MaxInt64, math.MaxInt64
			c.SnapshotBandwidth, c.WindowBytes, c.Capacity = math.MaxInt64, math.MaxInt64, math.MaxUint32
			c.SnapshotEntries, c.SnapshotBytes, c.MaxProposalBytes = math.MaxUint64, math.MaxUint64, maxProposalCeiling
		},
		"smallest": func(c *Config) {
			c.ReplaceAfter, c.SnapshotBandwidth, c.WindowBytes = 1, 1, 1
			c.SnapshotEntries, c.SnapshotBytes, c.MaxProposalBytes = 1, 1, 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "")
			change(cfg)
			cc := start(t, cfg)
			l := newList(t, cc, sampleID)
			for range 20 {
				l.propose <- []byte("x")
			}
			l.waitFor(20)
			if errs := l.errors(); len(errs) > 0 {
				t.Errorf("errors: %v", errs)
			}
			cc.Shutdown()
			<-l.done
		})
	}
}

// TestMalformedIDs wants ErrMalformedID for what is no ID, and nothing made.
func TestMalformedIDs(t *testing.T) {
	t.Parallel()
	cc := start(t, testConfig(t, ""))
	provider := func() ([]byte, error) { return nil, nil }
	for _, text := range []string{
		"", "x", sampleID[1:], sampleID + "0", "81CFR5R4JJE9KNRAJFFEAQ2SAJ", "01CFR5R4JJE9KNRAJFFEAQ2SA!", "01CFR5R4JJE9KNRAJFFEAQ2SAU",
		"00000000000000000000000000",
	} {
		if _, _, _, _, err := cc.SubscribeToDataStructureWithStringID(text, provider); !errors.Is(err, ErrMalformedID) {
			t.Errorf("subscribe to %q: got %v, want ErrMalformedID", text, err)
		}
	}
	if _, _, _, _, err := cc.SubscribeToDataStructure(nil, provider); !errors.Is(err, ErrMalformedID) {
		t.Errorf("subscribe to nil: got %v, want ErrMalformedID", err)
	}
	for _, st := range cc.Status().Structures {
		if !st.Catalog {
			t.Errorf("structure %s was made", st.ID)
		} else if _, _, _, _, err := cc.SubscribeToDataStructure(&st.ID, provider); !errors.Is(err, ErrMalformedID) {
			t.Errorf("subscribe to the catalog: got %v, want ErrMalformedID", err)
		}
	}
	if _, _, _, _, err := cc.SubscribeToDataStructureWithStringID(sampleID, nil); !errors.Is(err, ErrNoProvider) {
		t.Errorf("nil provider: got %v, want ErrNoProvider", err)
	}
}
