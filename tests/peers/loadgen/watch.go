package main

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxUnseen bounds the events on their way, so that the writer runs as fast as the slowest watcher reads.
const maxUnseen = 50_000

// watch opens o.clients watchers on one prefix, spread over the connections; one writer puts. An operation is one event
// seen by one watcher; its latency counts from the start of the put, whose time is in the value.
func watch(ctx context.Context, clients []*clientv3.Client, o options) (result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	recorders := make([]recorder, o.clients)
	var seen atomic.Int64
	var group, started sync.WaitGroup
	var c *clock
	begin := make(chan struct{})
	started.Add(o.clients)
	for i := range recorders {
		events := clients[i%len(clients)].Watch(ctx, "bench/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		group.Go(func() {
			<-events
			started.Done()
			<-begin
			for response := range events {
				now := time.Now()
				for _, event := range response.Events {
					sent := time.Unix(0, int64(binary.BigEndian.Uint64(event.Kv.Value)))
					if sent.After(c.start) && !now.After(c.end) {
						recorders[i].record(now.Sub(sent), nil)
					}
				}
				seen.Add(int64(len(response.Events)))
			}
		})
	}
	started.Wait()
	c = newClock(o)
	close(begin)
	group.Go(func() {
		v := value(o.value)
		for n := 0; time.Now().Before(c.end) && ctx.Err() == nil; n++ {
			for int64(n)*int64(o.clients)-seen.Load() > maxUnseen && ctx.Err() == nil {
				time.Sleep(100 * time.Microsecond)
			}
			binary.BigEndian.PutUint64(v, uint64(time.Now().UnixNano()))
			_, _ = clients[0].Put(ctx, key(n%o.keys), string(v))
		}
	})
	c.sample()
	stop()
	group.Wait()
	return summary(o, c, recorders)
}
