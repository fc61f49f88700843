//! Our descriptors say what etcd's say: every service, message, field and enum value, by name, number and type.
//!
//! `golden/etcd-wire.txt` was printed by `tests/peers/descriptors` from etcd 3.7.1's own generated code:
//! `$(scripts/peers.sh)/descriptors > proto/tests/golden/etcd-wire.txt`.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const ETCD_PACKAGES: [&str; 6] = ["authpb", "etcdserverpb", "mvccpb", "v3electionpb", "v3lockpb", "grpc.health.v1"];

#[test]
fn equals_etcd() {
    let theirs = include_str!("golden/etcd-wire.txt").lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let set = FileDescriptorSet::decode(conclave_proto::DESCRIPTORS).expect("protox wrote it");
    let etcd = set.file.iter().filter(|file| ETCD_PACKAGES.contains(&file.package()));
    let ours = etcd.flat_map(lines).collect::<BTreeSet<_>>();
    let missing = theirs.difference(&ours).collect::<Vec<_>>();
    let extra = ours.difference(&theirs).collect::<Vec<_>>();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot etcd's: {extra:#?}");
}

fn lines(file: &FileDescriptorProto) -> Vec<String> {
    let package = file.package();
    let mut lines = Vec::new();
    for service in &file.service {
        for method in &service.method {
            let stream = |yes: bool| if yes { "stream " } else { "" };
            lines.push(format!(
                "rpc {package}.{}.{} {}{} returns {}{}",
                service.name(),
                method.name(),
                stream(method.client_streaming()),
                method.input_type().trim_start_matches('.'),
                stream(method.server_streaming()),
                method.output_type().trim_start_matches('.'),
            ));
        }
    }
    enums(package, &file.enum_type, &mut lines);
    messages(package, &file.message_type, &mut lines);
    lines
}

fn enums(scope: &str, list: &[EnumDescriptorProto], lines: &mut Vec<String>) {
    for one in list {
        for value in &one.value {
            lines.push(format!("enum {scope}.{} {} = {}", one.name(), value.name(), value.number()));
        }
    }
}

fn messages(scope: &str, list: &[DescriptorProto], lines: &mut Vec<String>) {
    for message in list {
        let name = format!("{scope}.{}", message.name());
        lines.push(format!("message {name}"));
        for field in &message.field {
            lines.push(format!("field {name}.{}", describe(field, message)));
        }
        enums(&name, &message.enum_type, lines);
        messages(&name, &message.nested_type, lines);
    }
}

fn describe(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    let oneof = match field.oneof_index {
        Some(at) => format!(" in {}", message.oneof_decl[usize::try_from(at).expect("an index")].name()),
        None => String::new(),
    };
    format!("{} = {} {repeated}{kind}{oneof}", field.name(), field.number())
}
