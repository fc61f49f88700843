// Prints what etcd's own generated code says its wire format is, one line for each service method, message field and
// enum value, sorted. proto/tests/golden/etcd-wire.txt is this output; a test compares our descriptors to it.
package main

import (
	"fmt"
	"sort"
	"strings"

	_ "go.etcd.io/etcd/api/v3/authpb"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/api/v3/mvccpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// The packages that clients meet. Two files of etcdserverpb never leave a cluster: what stands in its raft log.
var packages = map[protoreflect.FullName]bool{
	"authpb": true, "etcdserverpb": true, "mvccpb": true, "v3electionpb": true, "v3lockpb": true, "grpc.health.v1": true,
}

func main() {
	var lines []string
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		internal := strings.HasSuffix(file.Path(), "raft_internal.proto") || strings.HasSuffix(file.Path(), "etcdserver.proto")
		if packages[file.Package()] && !internal {
			lines = append(lines, services(file)...)
			lines = append(lines, enums(file.Enums())...)
			lines = append(lines, messages(file.Messages())...)
		}
		return true
	})
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
}

func services(file protoreflect.FileDescriptor) (lines []string) {
	for i := range file.Services().Len() {
		methods := file.Services().Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			lines = append(lines, fmt.Sprintf("rpc %s %s%s returns %s%s", m.FullName(), stream(m.IsStreamingClient()),
				m.Input().FullName(), stream(m.IsStreamingServer()), m.Output().FullName()))
		}
	}
	return lines
}

func stream(yes bool) string {
	if yes {
		return "stream "
	}
	return ""
}

func enums(list protoreflect.EnumDescriptors) (lines []string) {
	for i := range list.Len() {
		values := list.Get(i).Values()
		for j := range values.Len() {
			v := values.Get(j)
			lines = append(lines, fmt.Sprintf("enum %s %s = %d", list.Get(i).FullName(), v.Name(), v.Number()))
		}
	}
	return lines
}

func messages(list protoreflect.MessageDescriptors) (lines []string) {
	for i := range list.Len() {
		m := list.Get(i)
		lines = append(lines, fmt.Sprintf("message %s", m.FullName()))
		for j := range m.Fields().Len() {
			lines = append(lines, field(m.Fields().Get(j)))
		}
		lines = append(lines, enums(m.Enums())...)
		lines = append(lines, messages(m.Messages())...)
	}
	return lines
}

func field(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.Message() != nil:
		kind = string(f.Message().FullName())
	case f.Enum() != nil:
		kind = string(f.Enum().FullName())
	}
	oneof := ""
	if f.ContainingOneof() != nil {
		oneof = " in " + string(f.ContainingOneof().Name())
	}
	repeated := ""
	if f.Cardinality() == protoreflect.Repeated {
		repeated = "repeated "
	}
	return fmt.Sprintf("field %s = %d %s%s%s", f.FullName(), f.Number(), repeated, kind, oneof)
}
