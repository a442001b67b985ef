//! Plugins made by hand, for what no SDK would let through: a core module in text form, any of its functions replaced by
//! a hostile one, wrapped as a component. Needs no toolchain.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use swift_plugin::{Kind, sections};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A pointer to this many zero bytes is an `ok` without content, a `none`, and an empty list.
const ZEROS: u32 = 1024;
/// Where functions put what they return.
const ANSWER: u32 = 2048;
/// Where the name `test` stands.
const NAME: u32 = 16;
/// Where `{}` stands.
const EMPTY_OBJECT: u32 = 32;

/// A component in the making: one function of each of its kinds, called `test`, that does what the contract asks until a
/// body is replaced.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    kinds: Vec<Kind>,
    bodies: BTreeMap<&'static str, String>,
    imports: Vec<String>,
    fields: String,
    contracts: Vec<(String, String)>,
    manifest: Option<String>,
}

impl Guest {
    /// A well-behaved plugin of these kinds, without `plugin.toml`.
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self {
            kinds: kinds.to_vec(),
            bodies: BTreeMap::new(),
            imports: Vec::new(),
            fields: String::new(),
            contracts: Vec::new(),
            manifest: None,
        }
    }

    /// Replaces the body of an export. Parameters are called as in [`functions`].
    pub(crate) fn body(mut self, function: &'static str, body: impl Into<String>) -> Self {
        self.bodies.insert(function, body.into());
        self
    }

    /// Imports a function of `swift:plugin/INTERFACE` under the name `$FUNCTION`.
    pub(crate) fn import(self, interface: &str, function: &str, signature: &str) -> Self {
        self.import_from(&format!("swift:plugin/{interface}@0.1.0"), function, function, signature)
    }

    /// Imports a function of any interface under the name `$NAME`.
    pub(crate) fn import_from(mut self, interface: &str, function: &str, name: &str, signature: &str) -> Self {
        self.imports.push(format!("(import \"{interface}\" \"{function}\" (func ${name} {signature}))"));
        self
    }

    /// Adds fields to the core module.
    pub(crate) fn fields(mut self, fields: &str) -> Self {
        self.fields.push_str(fields);
        self
    }

    /// Changes the contract that it is built for.
    pub(crate) fn contract(mut self, old: &str, new: &str) -> Self {
        self.contracts.push((old.into(), new.into()));
        self
    }

    /// Gives it a `plugin.toml`.
    pub(crate) fn manifest(mut self, text: impl Into<String>) -> Self {
        self.manifest = Some(text.into());
        self
    }

    /// Gives it the usual `plugin.toml` with this name and these lines more.
    pub(crate) fn named(self, name: &str, more: &str) -> Self {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("{:?}", kind.name())).collect();
        let text = format!(
            "name = {name:?}\nversion = \"0.1.0\"\nkind = [{}]\nsummary = \"a test\"\n{more}\n",
            kinds.join(", ")
        );
        self.manifest(text)
    }

    /// The component.
    pub(crate) fn build(&self) -> Vec<u8> {
        let text = self.module();
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut resolve = Resolve::default();
        for name in ["plugin", "model", "template", "dataset", "reward", "metric"] {
            let path = format!("{}/../../wit/{name}/{name}.wit", env!("CARGO_MANIFEST_DIR"));
            resolve.push_source(&path, &self.edited(std::fs::read_to_string(&path).unwrap())).unwrap();
        }
        let mut world = String::from("package test:guest;\nworld guest {\n");
        for interface in ["log", "files", "http"] {
            let _ = writeln!(world, "import swift:plugin/{interface}@0.1.0;");
        }
        if self.kinds.contains(&Kind::Model) {
            let _ = writeln!(world, "import swift:model/graph@0.1.0;");
        }
        for kind in &self.kinds {
            let _ = writeln!(world, "export {}@0.1.0;", kind.interface());
        }
        world.push('}');
        let package = resolve.push_source("guest.wit", &self.edited(world)).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
        let mut encoder = ComponentEncoder::default();
        let encoded = encoder.validate(true).module(&module).and_then(ComponentEncoder::encode);
        let component = encoded.unwrap_or_else(|error| panic!("{error:#}\n{text}"));
        match &self.manifest {
            Some(manifest) => sections::embed(&component, &[(sections::MANIFEST, manifest.as_bytes())]),
            None => component,
        }
    }

    fn edited(&self, text: String) -> String {
        self.contracts.iter().fold(text, |text, (old, new)| text.replace(old, new))
    }

    /// The core module in text form.
    fn module(&self) -> String {
        let mut text = String::from("(module\n");
        for import in &self.imports {
            let _ = writeln!(text, "{import}");
        }
        for kind in &self.kinds {
            let resource = match kind {
                Kind::Dataset => "reader",
                Kind::Template => "parser",
                _ => continue,
            };
            let interface = kind.interface();
            let _ = writeln!(
                text,
                "(import \"[export]{interface}@0.1.0\" \"[resource-new]{resource}\" (func $new-{resource} (param i32) (result i32)))"
            );
        }
        text.push_str(MEMORY);
        let _ = writeln!(text, "{}", data(NAME, b"test"));
        let _ = writeln!(text, "{}", data(EMPTY_OBJECT, b"{}"));
        for kind in &self.kinds {
            let _ = writeln!(text, "{}", infos(*kind));
            for (name, signature, body) in functions(*kind) {
                let body = self.bodies.get(name).map_or(body.as_str(), String::as_str);
                let _ = writeln!(text, "(func (export \"{}@0.1.0#{name}\") {signature}\n  {body})", kind.interface());
            }
        }
        let text = text + &self.fields + "\n)";
        self.edited(text)
    }
}

/// Memory and an allocator that never frees: an instance lives for one call.
const MEMORY: &str = r#"
(memory (export "memory") 2)
(global $top (mut i32) (i32.const 65536))
(func $alloc (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
  (local $start i32)
  (local.set $start (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
  (global.set $top (i32.add (local.get $start) (local.get $size)))
  (block $fits (loop $more
    (br_if $fits (i32.ge_u (i32.shl (memory.size) (i32.const 16)) (global.get $top)))
    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
    (br $more)))
  (local.get $start))
"#;

/// Where a kind's list of functions stands; the pair of pointer and length is eight bytes before it.
fn place(kind: Kind) -> u32 {
    256 + 64 * Kind::ALL.iter().position(|other| *other == kind).unwrap() as u32
}

/// The records that say what a component holds: one called `test`.
fn infos(kind: Kind) -> String {
    let at = place(kind);
    let mut numbers = vec![at, 1, NAME, 4, NAME, 4];
    // `whole-batch` and `higher-is-better`, or an empty list of endings or datasets.
    numbers.extend([0, 0]);
    let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
    data(at - 8, &bytes)
}

fn data(at: u32, bytes: &[u8]) -> String {
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{escaped}\")")
}

/// `n` entries of `stride` zero bytes, as the list that starts `offset` bytes into the answer.
pub(crate) fn zeros_list(n: &str, stride: u32, offset: u32) -> String {
    format!(
        "(i32.store offset={offset} (i32.const {ANSWER}) (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) \
         (i32.mul {n} (i32.const {stride}))))\n  \
         (i32.store offset={} (i32.const {ANSWER}) {n})\n  (i32.const {ANSWER})",
        offset + 4
    )
}

/// Returns a result whose error is this text.
pub(crate) fn error_text(text_at: u32, length: u32) -> String {
    format!(
        "(i32.store8 (i32.const {ANSWER}) (i32.const 1)) (i32.store offset=4 (i32.const {ANSWER}) (i32.const {text_at})) \
         (i32.store offset=8 (i32.const {ANSWER}) (i32.const {length})) (i32.const {ANSWER})"
    )
}

/// Name, signature and well-behaved body of each export of a kind.
pub(crate) fn functions(kind: Kind) -> Vec<(&'static str, &'static str, String)> {
    let zeros = || format!("(i32.const {ZEROS})");
    let listed = format!("(i32.const {})", place(kind) - 8);
    let configure = (
        "configure",
        "(param $name i32) (param $name-length i32) (param $config i32) (param $config-length i32) (result i32)",
        zeros(),
    );
    let n = "(local.get $n)";
    match kind {
        Kind::Model => vec![
            ("claims", "(param $config i32) (param $config-length i32) (result i32)", zeros()),
            (
                "build",
                "(param $config i32 ) (param $config-length i32) (param i32 i32) (param $g i32) (result i32)",
                zeros(),
            ),
        ],
        Kind::Reward => vec![
            ("rewards", "(result i32)", listed),
            configure,
            (
                "score",
                "(param $samples i32) (param $n i32) (param i64 i64 f64 i64 i32 i32) (result i32)",
                zeros_list(n, 16, 4),
            ),
        ],
        Kind::Metric => vec![
            ("metrics", "(result i32)", listed),
            configure,
            ("update", "(param $examples i32) (param $n i32) (result i32)", zeros()),
            ("state", "(result i32)", zeros()),
            ("merge", "(param $state i32) (param $n i32) (result i32)", zeros()),
            // One number, called `test`: 0.
            (
                "compute",
                "(result i32)",
                format!(
                    "{} drop (i32.store (i32.load offset=4 (i32.const {ANSWER})) (i32.const {NAME})) (i32.store offset=4 (i32.load offset=4 (i32.const {ANSWER})) (i32.const 4)) (i32.const {ANSWER})",
                    zeros_list("(i32.const 1)", 16, 4)
                ),
            ),
        ],
        Kind::Preprocessor => vec![
            ("preprocessors", "(result i32)", listed),
            configure,
            ("process", "(param $rows i32) (param $n i32) (result i32)", empty_rows(n, 4)),
        ],
        Kind::Dataset => vec![
            ("loaders", "(result i32)", listed),
            (
                "open",
                "(param i32 i32) (param $location i32) (param $location-length i32) (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
                format!(
                    "(i32.store offset=4 (i32.const {ANSWER}) (call $new-reader (i32.const 1))) (i32.const {ANSWER})"
                ),
            ),
            ("[method]reader.length", "(param $reader i32) (result i32)", zeros()),
            // One row and no more.
            (
                "[method]reader.next",
                "(param $reader i32) (param $limit i32) (result i32)",
                format!("{} (i32.store8 offset=20 (i32.const {ANSWER}) (i32.const 1))", empty_rows("(i32.const 1)", 4)),
            ),
        ],
        Kind::Template => vec![
            ("templates", "(result i32)", listed),
            ("claims", "(param i32 i32 i32 i32) (result i32)", zeros()),
            configure,
            // For each conversation no segment at all.
            (
                "render",
                "(param $conversations i32) (param $n i32) (param $form i32) (result i32)",
                zeros_list(n, 12, 0),
            ),
            ("stops", "(result i32)", zeros()),
            (
                "parse",
                "(param $completions i32) (param $n i32) (param i32 i32 i32 i32 i32 i32) (result i32)",
                zeros_list(n, 44, 0),
            ),
            (
                "[constructor]parser",
                "(param i32 i32 i32 i32 i32 i32) (result i32)",
                "(call $new-parser (i32.const 1))".into(),
            ),
            ("[method]parser.push", "(param $parser i32) (param $text i32) (param $n i32) (result i32)", zeros()),
            ("[method]parser.finish", "(param $parser i32) (result i32)", zeros()),
        ],
    }
}

/// `n` rows `{}`, as the list that starts `offset` bytes into the answer.
pub(crate) fn empty_rows(n: &str, offset: u32) -> String {
    format!(
        "(local $row i32) (local $end i32)\n  {}\n  drop\n  \
         (local.set $row (i32.load offset={offset} (i32.const {ANSWER})))\n  \
         (local.set $end (i32.add (local.get $row) (i32.mul {n} (i32.const 12))))\n  \
         (block $done (loop $next (br_if $done (i32.ge_u (local.get $row) (local.get $end)))\n    \
         (i32.store offset=4 (local.get $row) (i32.const {EMPTY_OBJECT}))\n    \
         (i32.store offset=8 (local.get $row) (i32.const 2))\n    \
         (local.set $row (i32.add (local.get $row) (i32.const 12))) (br $next)))\n  (i32.const {ANSWER})",
        zeros_list(n, 12, offset)
    )
}
