// A load generator on etcd's own client: what a service would see, from a program that favours neither server.
//
// Closed loop: N clients, each with one request under way. Open loop (-rate): requests start at their due time, and the
// latency of each counts from then, so that a server that stalls cannot hide the requests that it kept from starting.
// One JSON object on stdout.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

type options struct {
	endpoints   string
	load        string
	connections int
	clients     int
	keys        int
	value       int
	rate        int
	warmup      time.Duration
	duration    time.Duration
	statFile    string
}

// result is the JSON on stdout. Latencies are in milliseconds.
type result struct {
	Load      string  `json:"load"`
	Clients   int     `json:"clients"`
	Rate      int     `json:"rate,omitempty"`
	Ops       int     `json:"ops"`
	Errors    int     `json:"errors"`
	Seconds   float64 `json:"seconds"`
	OpsPerSec float64 `json:"ops_per_s"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	Max       float64 `json:"max_ms"`
	CPUMicros float64 `json:"server_cpu_us"`
}

func main() {
	var o options
	flag.StringVar(&o.endpoints, "endpoint", "http://127.0.0.1:2379", "where servers listen, with commas between; connections take turns")
	flag.StringVar(&o.load, "load", "put", strings.Join(names(), ", "))
	flag.IntVar(&o.connections, "connections", 16, "TCP connections; clients share them")
	flag.IntVar(&o.clients, "clients", 64, "requests under way; watchers, for the load watch")
	flag.IntVar(&o.keys, "keys", 10000, "distinct keys")
	flag.IntVar(&o.value, "value", 256, "bytes of a value")
	flag.IntVar(&o.rate, "rate", 0, "requests a second (open loop); 0 is a closed loop")
	flag.DurationVar(&o.warmup, "warmup", time.Second, "time before the measurement")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "time of the measurement")
	flag.StringVar(&o.statFile, "stat", "", "the servers' /proc/PID/stat, with commas between: their CPU time during the measurement is reported")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	load, ok := loads[o.load]
	if !ok {
		return fmt.Errorf("no load %q; there are %s", o.load, strings.Join(names(), ", "))
	}
	clients, err := dial(o)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	ctx := context.Background()
	if load.fill != nil {
		if err := load.fill(ctx, clients, o); err != nil {
			return fmt.Errorf("filling the store: %w", err)
		}
	}
	r, err := load.measure(ctx, clients, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func dial(o options) ([]*clientv3.Client, error) {
	clients := make([]*clientv3.Client, 0, o.connections)
	endpoints := strings.Split(o.endpoints, ",")
	for i := range min(o.connections, o.clients) {
		c, err := clientv3.New(clientv3.Config{
			Endpoints:   []string{endpoints[i%len(endpoints)]},
			DialTimeout: 10 * time.Second,
			DialOptions: []grpc.DialOption{grpc.WithBlock()}, //nolint:staticcheck // a connection that fails must fail here
			Logger:      zap.NewNop(),
		})
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	return clients, nil
}
