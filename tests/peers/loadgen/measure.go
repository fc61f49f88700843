package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// operation is one request of client i; n counts the requests of that client.
type operation func(ctx context.Context, i, n int) error

// recorder keeps the latencies of one client. Each client has its own, so that recording needs no lock.
type recorder struct {
	latencies []time.Duration
	errors    int
	first     error
}

func (r *recorder) record(latency time.Duration, err error) {
	if err != nil {
		r.errors++
		if r.first == nil {
			r.first = err
		}
		return
	}
	r.latencies = append(r.latencies, latency)
}

// clock says when the measurement starts and ends, and reads the server's CPU time at both.
type clock struct {
	start, end time.Time
	stat       string
	cpu        [2]time.Duration
}

func newClock(o options) *clock {
	start := time.Now().Add(o.warmup)
	return &clock{start: start, end: start.Add(o.duration), stat: o.statFile}
}

// sample blocks until the end of the measurement.
func (c *clock) sample() {
	time.Sleep(time.Until(c.start))
	c.cpu[0] = cpuTimes(c.stat)
	time.Sleep(time.Until(c.end))
	c.cpu[1] = cpuTimes(c.stat)
}

// closed runs N clients, each with one request under way.
func closed(ctx context.Context, o options, op operation) (result, error) {
	c := newClock(o)
	recorders := make([]recorder, o.clients)
	var group sync.WaitGroup
	for i := range recorders {
		group.Go(func() {
			for n := 0; ; n++ {
				began := time.Now()
				if began.After(c.end) {
					return
				}
				err := op(ctx, i, n)
				if ended := time.Now(); began.After(c.start) && !ended.After(c.end) {
					recorders[i].record(ended.Sub(began), err)
				}
			}
		})
	}
	c.sample()
	group.Wait()
	return summary(o, c, recorders)
}

// open starts requests at their due times, whatever became of the earlier ones: client i serves every N-th due time, so
// that a slow answer delays later ones of that client, and their wait counts as latency.
func open(ctx context.Context, o options, op operation) (result, error) {
	c := newClock(o)
	recorders := make([]recorder, o.clients)
	interval := time.Second / time.Duration(o.rate)
	zero := time.Now()
	var group sync.WaitGroup
	for i := range recorders {
		group.Go(func() {
			for n := 0; ; n++ {
				due := zero.Add(time.Duration(i+n*o.clients) * interval)
				if due.After(c.end) {
					return
				}
				time.Sleep(time.Until(due))
				err := op(ctx, i, n)
				if due.After(c.start) {
					recorders[i].record(time.Since(due), err)
				}
			}
		})
	}
	c.sample()
	group.Wait()
	return summary(o, c, recorders)
}

func drive(ctx context.Context, o options, op operation) (result, error) {
	if o.rate > 0 {
		return open(ctx, o, op)
	}
	return closed(ctx, o, op)
}

func summary(o options, c *clock, recorders []recorder) (result, error) {
	var all []time.Duration
	r := result{Load: o.load, Clients: o.clients, Rate: o.rate, Seconds: c.end.Sub(c.start).Seconds()}
	var first error
	for _, rec := range recorders {
		all = append(all, rec.latencies...)
		r.Errors += rec.errors
		if first == nil {
			first = rec.first
		}
	}
	if len(all) == 0 {
		return r, fmt.Errorf("not one request succeeded: %w", first)
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[min(len(all)-1, int(q*float64(len(all))))].Microseconds()) / 1000
	}
	r.Ops = len(all)
	r.OpsPerSec = float64(len(all)) / r.Seconds
	r.P50, r.P99, r.P999, r.Max = at(0.5), at(0.99), at(0.999), at(1)
	r.CPUMicros = float64((c.cpu[1] - c.cpu[0]).Microseconds()) / float64(len(all))
	return r, nil
}

// cpuTimes is the sum over several processes.
func cpuTimes(stats string) (sum time.Duration) {
	for _, stat := range strings.Split(stats, ",") {
		sum += cpuTime(stat)
	}
	return sum
}

// cpuTime is user plus system time of a process, from its stat file; the kernel counts in hundredths of a second.
func cpuTime(stat string) time.Duration {
	if stat == "" {
		return 0
	}
	text, err := os.ReadFile(stat)
	if err != nil {
		return 0
	}
	// The name in parentheses may hold spaces; the fields after it are counted from 3.
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	ticks := 0
	for _, f := range fields[11:13] {
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
