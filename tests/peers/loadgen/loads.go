package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

type load struct {
	fill    func(ctx context.Context, clients []*clientv3.Client, o options) error
	measure func(ctx context.Context, clients []*clientv3.Client, o options) (result, error)
}

var loads = map[string]load{
	"put":        {measure: put},
	"get":        {fill: fillKeys, measure: get},
	"get-local":  {fill: fillKeys, measure: get},
	"list":       {fill: fillKeys, measure: list},
	"list-churn": {fill: fillKeys, measure: listChurn},
	"watch":      {measure: watch},
}

// A list is of this many keys.
const listLimit = 500

// churnRate is the overwrites a second under list-churn: the same for every server, so that lists compare.
const churnRate = 2000

func names() (list []string) {
	for name := range loads {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func key(n int) string { return fmt.Sprintf("bench/%08d", n) }

// value is random, so that no compression makes it cheaper than a real one; each client rewrites its own.
func value(size int) []byte {
	v := make([]byte, size)
	for i := range v {
		v[i] = byte(rand.Uint32())
	}
	return v
}

func fillKeys(ctx context.Context, clients []*clientv3.Client, o options) error {
	var group sync.WaitGroup
	failures := make(chan error, 32)
	for w := range 32 {
		group.Go(func() {
			v := string(value(o.value))
			for n := w; n < o.keys; n += 32 {
				if _, err := clients[n%len(clients)].Put(ctx, key(n), v); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

func put(ctx context.Context, clients []*clientv3.Client, o options) (result, error) {
	values := make([][]byte, o.clients)
	for i := range values {
		values[i] = value(o.value)
	}
	return drive(ctx, o, func(ctx context.Context, i, n int) error {
		binary.BigEndian.PutUint64(values[i], rand.Uint64())
		_, err := clients[i%len(clients)].Put(ctx, key(rand.IntN(o.keys)), string(values[i]))
		return err
	})
}

func get(ctx context.Context, clients []*clientv3.Client, o options) (result, error) {
	var opts []clientv3.OpOption
	if strings.HasSuffix(o.load, "-local") {
		opts = append(opts, clientv3.WithSerializable())
	}
	return drive(ctx, o, func(ctx context.Context, i, n int) error {
		r, err := clients[i%len(clients)].Get(ctx, key(rand.IntN(o.keys)), opts...)
		if err == nil && len(r.Kvs) != 1 {
			return fmt.Errorf("a get found %d keys", len(r.Kvs))
		}
		return err
	})
}

func list(ctx context.Context, clients []*clientv3.Client, o options) (result, error) {
	want := min(listLimit, o.keys)
	return drive(ctx, o, func(ctx context.Context, i, n int) error {
		from := key(rand.IntN(max(1, o.keys-want)))
		r, err := clients[i%len(clients)].Get(ctx, from, clientv3.WithRange("bench0"), clientv3.WithLimit(int64(want)))
		if err == nil && len(r.Kvs) != want {
			return fmt.Errorf("a list found %d keys, not %d", len(r.Kvs), want)
		}
		return err
	})
}

// listChurn lists while every key of the range is overwritten again and again.
func listChurn(ctx context.Context, clients []*clientv3.Client, o options) (result, error) {
	ctx, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	const writers = 8
	for w := range writers {
		group.Go(func() {
			v := string(value(o.value))
			zero := time.Now()
			for n := w; ctx.Err() == nil; n += writers {
				time.Sleep(time.Until(zero.Add(time.Duration(n) * time.Second / churnRate)))
				_, _ = clients[w%len(clients)].Put(ctx, key(n%o.keys), v)
			}
		})
	}
	r, err := list(ctx, clients, o)
	stop()
	group.Wait()
	return r, err
}
