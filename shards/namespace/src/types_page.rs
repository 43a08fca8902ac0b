//! docs/formats/types.md: the fields of every message and cold record, as the types have them, with an example of each.

use crate::command::{Command, CommandBody, Message};
use crate::data::{Change, DataCommand, DataMessage, Place, Source, WriteAt, WriteData};
use crate::record::{Counters, Session};
use crate::txn::decision::Decision;
use crate::txn::participant::Prepared;
use crate::txn::{Part, TxnCommand};
use cfs_types::FsError;
use cfs_wire::{
    Callback, CallbackReply, DirEntry, FallocateMode, FileKind, Hello, HelloReply, LeaseKind, Op, OpenMode, Proof,
    Reply, Request, Response, SeekWhence, TimeChange, XattrMode,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_reflection::{ContainerFormat, Format, Named, Registry, Samples, Tracer, TracerConfig, VariantFormat};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "# Types: fields of messages and cold records

Made by a test of `shards/namespace` from the types themselves (`CFS_WRITE_GOLDEN=1 cargo test -p cfs-namespace types_page` writes
it anew). [wire.md](wire.md) says how they are encoded and where messages travel, [namespace.md](namespace.md) which
record has which type. Fields are encoded in the order given; an enum begins with the varint of the variant's number. An
example's numbers are the least that its fields allow, its names `a`.
";

/// Types and their examples. Each type is traced alone: a tracer that knows a type already gives it empty names.
#[derive(Default)]
struct Page {
    types: Registry,
    traced: BTreeSet<String>,
    examples: Vec<(String, String)>,
}

/// One that gives the least values that inode numbers and names allow.
fn tracer() -> Tracer {
    let config = TracerConfig::default().default_u64_value(256).default_u8_value(b'a');
    Tracer::new(config.record_samples_for_structs(true))
}

impl Page {
    fn add<T: Serialize + DeserializeOwned>(&mut self, name: &str) {
        // Entries are met again and again in listings, and names must not be empty.
        let (_, entry) = tracer().trace_type_once::<DirEntry>(&Samples::new()).expect("describes itself");
        let (mut tracer, mut samples) = (tracer(), Samples::new());
        tracer.trace_value(&mut samples, &entry).expect("an entry describes itself");
        let (_, values) = tracer.trace_type::<T>(&samples).unwrap_or_else(|e| panic!("{name}: {e}"));
        for value in values {
            let bytes = postcard::to_allocvec(&value).expect("encodes");
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            self.examples.push((name.to_string(), hex));
        }
        // Of an enum inside another type only some variants may have been seen.
        for (container, format) in tracer.registry_unchecked() {
            if container == name || !self.traced.contains(&container) {
                self.types.insert(container, format);
            }
        }
        self.traced.insert(name.to_string());
    }

    fn text(self) -> String {
        let mut out = HEAD.to_string();
        for (name, container) in &self.types {
            let whole = !matches!(container, ContainerFormat::Enum(_)) || self.traced.contains(name);
            assert!(whole, "{name} has to be traced by itself");
            write!(out, "\n## {name}\n\n").expect("a string takes all");
            match container {
                ContainerFormat::Enum(variants) => {
                    out += "| number | variant | fields |\n|---|---|---|\n";
                    for (number, variant) in variants {
                        let fields = fields_of(&variant.value);
                        writeln!(out, "| {number} | {} | {fields} |", variant.name).expect("a string takes all");
                    }
                }
                ContainerFormat::Struct(fields) => writeln!(out, "{}.", named(fields)).expect("a string takes all"),
                ContainerFormat::NewTypeStruct(inner) => {
                    writeln!(out, "{}.", name_of(inner)).expect("a string takes all")
                }
                ContainerFormat::TupleStruct(inner) => writeln!(out, "{}.", list(inner)).expect("a string takes all"),
                ContainerFormat::UnitStruct => out += "Nothing.\n",
            }
        }
        out += "\n## Examples\n\n| type | bytes |\n|---|---|\n";
        for (name, hex) in &self.examples {
            writeln!(out, "| {name} | `{hex}` |").expect("a string takes all");
        }
        out + "\n"
    }
}

fn fields_of(variant: &VariantFormat) -> String {
    match variant {
        VariantFormat::Variable(variable) => variable.borrow().as_ref().map_or_else(String::new, fields_of),
        VariantFormat::Unit => String::new(),
        VariantFormat::NewType(inner) => name_of(inner),
        VariantFormat::Tuple(inner) => list(inner),
        VariantFormat::Struct(fields) => named(fields),
    }
}

fn named(fields: &[Named<Format>]) -> String {
    let fields: Vec<String> = fields.iter().map(|f| format!("{} {}", f.name, name_of(&f.value))).collect();
    fields.join(", ")
}

fn list(formats: &[Format]) -> String {
    let names: Vec<String> = formats.iter().map(name_of).collect();
    format!("({})", names.join(", "))
}

fn name_of(format: &Format) -> String {
    match format {
        Format::Variable(variable) => variable.borrow().as_ref().map_or_else(|| "?".into(), name_of),
        Format::TypeName(name) => name.clone(),
        Format::Option(inner) => format!("Option<{}>", name_of(inner)),
        Format::Seq(inner) => format!("sequence of {}", name_of(inner)),
        Format::Map { key, value } => format!("map of {} to {}", name_of(key), name_of(value)),
        Format::Tuple(inner) => list(inner),
        Format::TupleArray { content, size } => format!("{size} x {}", name_of(content)),
        other => format!("{other:?}").to_lowercase(),
    }
}

#[test]
fn the_page_of_types_is_what_the_types_are() {
    let mut page = Page::default();
    page.add::<Hello>("Hello");
    page.add::<HelloReply>("HelloReply");
    page.add::<Proof>("Proof");
    page.add::<Request>("Request");
    page.add::<Response>("Response");
    page.add::<Op>("Op");
    page.add::<Reply>("Reply");
    page.add::<FsError>("FsError");
    page.add::<Callback>("Callback");
    page.add::<CallbackReply>("CallbackReply");
    page.add::<FileKind>("FileKind");
    page.add::<TimeChange>("TimeChange");
    page.add::<XattrMode>("XattrMode");
    page.add::<FallocateMode>("FallocateMode");
    page.add::<SeekWhence>("SeekWhence");
    page.add::<OpenMode>("OpenMode");
    page.add::<LeaseKind>("LeaseKind");
    page.add::<Command>("Command");
    page.add::<CommandBody>("CommandBody");
    page.add::<DataCommand>("DataCommand");
    page.add::<WriteAt>("WriteAt");
    page.add::<WriteData>("WriteData");
    page.add::<Source>("Source");
    page.add::<TxnCommand>("TxnCommand");
    page.add::<Part>("Part");
    page.add::<Message>("Message");
    page.add::<DataMessage>("DataMessage");
    page.add::<Change>("Change");
    page.add::<Place>("Place");
    page.add::<Prepared>("Prepared");
    page.add::<Decision>("Decision");
    page.add::<Counters>("Counters");
    page.add::<Session>("Session");
    page.add::<Result<Reply, FsError>>("Result");
    let text = page.text();
    assert!(!text.contains(" ?"), "a field's type was not seen:\n{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/types.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    // The line with the fingerprint of the sources is kept by hand.
    let (page, sources) = written.split_at(written.find("Sources: ").unwrap_or(written.len()));
    if std::env::var_os("CFS_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text + sources).expect("a writable source tree");
        return;
    }
    let wrong = page.lines().zip(text.lines()).find(|(page, real)| page != real);
    assert!(page == text, "docs/formats/types.md is out of date at {wrong:?}: run this test with CFS_WRITE_GOLDEN=1");
}
