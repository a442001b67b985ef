//! The shape of a row: a file's schema as a tree that rows are put together by.
//!
//! Lists and maps are written in several ways by old and new writers; here they are lists and maps.

use std::ops::Range;

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::schema::types::{SchemaDescriptor, Type};

use crate::value::Scalar;

/// Deeper than any data set, and shallow enough for the stack.
const MAX_DEPTH: usize = 32;

/// One field of a row, and what is in it.
#[derive(Debug)]
pub(crate) struct Node {
    pub name: String,
    /// For a field that may be null: the definition level from which on it is there.
    pub present: Option<i16>,
    pub shape: Shape,
    /// The columns of the file that it is made of; never empty.
    pub leaves: Range<usize>,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// A value of the column of this number.
    Leaf(usize),
    Struct(Vec<Node>),
    /// Elements are there from this definition level on, and repeat at this repetition level.
    List {
        definition: i16,
        repetition: i16,
        element: Box<Node>,
    },
    Map {
        definition: i16,
        repetition: i16,
        key: Box<Node>,
        value: Box<Node>,
    },
    /// `{bytes, path}`: an image or a sound as Hugging Face's datasets hold it.
    Media {
        bytes: Box<Node>,
        path: Box<Node>,
    },
}

/// The fields of a row; with `only`, those of these names.
pub(crate) fn fields(schema: &SchemaDescriptor, only: Option<&[String]>) -> Result<Vec<Node>, String> {
    let mut builder = Builder { schema, next: 0 };
    let mut nodes = Vec::new();
    for field in schema.root_schema().get_fields() {
        nodes.push(builder.node(field, Levels { definition: 0, repetition: 0 }, 0)?);
    }
    if let Some(only) = only {
        if let Some(missing) = only.iter().find(|name| nodes.iter().all(|node| node.name != **name)) {
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(format!("there is no column `{missing}`; the columns are {}", names.join(", ")));
        }
        nodes.retain(|node| only.contains(&node.name));
    }
    if nodes.is_empty() {
        return Err("it has no columns".into());
    }
    Ok(nodes)
}

#[derive(Clone, Copy)]
struct Levels {
    definition: i16,
    repetition: i16,
}

struct Builder<'a> {
    schema: &'a SchemaDescriptor,
    /// The next column, in the order of the schema.
    next: usize,
}

impl Builder<'_> {
    fn node(&mut self, field: &Type, outer: Levels, depth: usize) -> Result<Node, String> {
        let info = field.get_basic_info();
        let repetition = if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED };
        match repetition {
            Repetition::REQUIRED => self.content(field, outer, depth),
            Repetition::OPTIONAL => {
                let levels = Levels { definition: outer.definition + 1, ..outer };
                Ok(Node { present: Some(levels.definition), ..self.content(field, levels, depth)? })
            }
            // Repeated without saying that it is a list: a list of required elements.
            Repetition::REPEATED => {
                let levels = Levels { definition: outer.definition + 1, repetition: outer.repetition + 1 };
                let element = self.content(field, levels, depth + 1)?;
                Ok(list(field.name(), levels, element))
            }
        }
    }

    /// The field without its own repetition.
    fn content(&mut self, field: &Type, levels: Levels, depth: usize) -> Result<Node, String> {
        let name = field.name();
        if depth > MAX_DEPTH {
            return Err(format!("`{name}` is nested more than {MAX_DEPTH} deep"));
        }
        let first = self.next;
        if field.is_primitive() {
            self.next += 1;
            if first >= self.schema.num_columns() {
                return Err("its schema has fewer columns than fields".into());
            }
            return Ok(Node { name: name.into(), present: None, shape: Shape::Leaf(first), leaves: first..self.next });
        }
        let inside = Levels { definition: levels.definition + 1, repetition: levels.repetition + 1 };
        match (annotation(field), field.get_fields()) {
            (Some(Annotation::List), [repeated]) if is_repeated(repeated) => {
                let element = if is_element(repeated, name) {
                    self.content(repeated, inside, depth + 1)?
                } else {
                    self.node(&repeated.get_fields()[0], inside, depth + 1)?
                };
                Ok(list(name, inside, element))
            }
            (Some(Annotation::Map), [pair]) if is_repeated(pair) && !pair.is_primitive() => match pair.get_fields() {
                [key, value] => {
                    let key = Box::new(self.node(key, inside, depth + 1)?);
                    let value = Box::new(self.node(value, inside, depth + 1)?);
                    let shape = Shape::Map { definition: inside.definition, repetition: inside.repetition, key, value };
                    Ok(Node { name: name.into(), present: None, shape, leaves: first..self.next })
                }
                // A map without values is a set.
                [key] => {
                    let element = self.node(key, inside, depth + 1)?;
                    Ok(list(name, inside, element))
                }
                other => Err(format!("`{name}` is a map whose entries have {} fields", other.len())),
            },
            (_, []) => Err(format!("`{name}` is a struct without fields")),
            (_, fields) => {
                let mut nodes = Vec::new();
                for field in fields {
                    nodes.push(self.node(field, levels, depth + 1)?);
                }
                let shape = self.structure(nodes);
                Ok(Node { name: name.into(), present: None, shape, leaves: first..self.next })
            }
        }
    }

    fn structure(&self, mut nodes: Vec<Node>) -> Shape {
        let is = |node: &Node, name: &str, binary: bool| {
            let Shape::Leaf(column) = node.shape else { return false };
            let is_binary = matches!(Scalar::of(&self.schema.column(column), false), Ok(Scalar::Binary));
            node.name == name && is_binary == binary
        };
        match nodes.as_slice() {
            [bytes, path] if is(bytes, "bytes", true) && is(path, "path", false) => {
                let path = Box::new(nodes.remove(1));
                Shape::Media { bytes: Box::new(nodes.remove(0)), path }
            }
            _ => Shape::Struct(nodes),
        }
    }
}

fn list(name: &str, levels: Levels, element: Node) -> Node {
    let leaves = element.leaves.clone();
    let Levels { definition, repetition } = levels;
    let shape = Shape::List { definition, repetition, element: Box::new(element) };
    Node { name: name.into(), present: None, shape, leaves }
}

enum Annotation {
    List,
    Map,
}

fn annotation(field: &Type) -> Option<Annotation> {
    let info = field.get_basic_info();
    match (info.logical_type_ref(), info.converted_type()) {
        (Some(LogicalType::List), _) | (_, ConvertedType::LIST) => Some(Annotation::List),
        (Some(LogicalType::Map), _) | (_, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE) => Some(Annotation::Map),
        _ => None,
    }
}

fn is_repeated(field: &Type) -> bool {
    let info = field.get_basic_info();
    info.has_repetition() && info.repetition() == Repetition::REPEATED
}

/// Whether the repeated field of a list is its element itself and not a group around it: the rules of the format's
/// "backward compatibility" section (<https://github.com/apache/parquet-format/blob/master/LogicalTypes.md>).
fn is_element(repeated: &Type, list: &str) -> bool {
    if repeated.is_primitive() {
        return true;
    }
    match repeated.get_fields() {
        [only] => is_repeated(only) || repeated.name() == "array" || repeated.name() == format!("{list}_tuple"),
        _ => true,
    }
}
