//! Columns back to rows, as JSON: the record assembly of the Dremel paper (Melnik et al., 2010), read off the tree of
//! the schema.

use crate::column::Column;
use crate::schema::{Node, Shape};
use crate::value::{Fault, write_text};

/// The largest row: the host takes 8 MiB a row.
const LARGEST_ROW: usize = 7 << 20;

/// Writes the next row of the columns: `Ok(Err(reason))` for a row that is left out. The error: the file is damaged.
pub(crate) fn next(columns: &mut [Option<Column>], fields: &[Node]) -> Result<Result<String, String>, String> {
    let starts: Vec<u64> = columns.iter().map(|column| column.as_ref().map_or(0, Column::taken)).collect();
    let mut assembly = Assembly { columns, out: String::new() };
    let reason = match assembly.fields(fields) {
        Ok(()) => None,
        Err(Trouble::Row(reason)) => Some(reason),
        Err(Trouble::File(error)) => return Err(error),
    };
    let out = assembly.out;
    for (column, start) in columns.iter_mut().zip(starts) {
        let Some(column) = column else { continue };
        if reason.is_some() {
            column.leave_row(start)?;
        } else if column.is_inside_row()? {
            return Err(DISAGREE.into());
        }
    }
    Ok(reason.map_or(Ok(out), Err))
}

const DISAGREE: &str = "its columns have rows of different form, or end too early";

/// Why a row could not be written.
enum Trouble {
    /// This row is left out.
    Row(String),
    /// The file is damaged.
    File(String),
}

impl From<String> for Trouble {
    fn from(error: String) -> Self {
        Self::File(error)
    }
}

fn disagree() -> Trouble {
    Trouble::File(DISAGREE.into())
}

struct Assembly<'a> {
    columns: &'a mut [Option<Column>],
    out: String,
}

impl Assembly<'_> {
    fn fields(&mut self, fields: &[Node]) -> Result<(), Trouble> {
        self.out.push('{');
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            write_text(&mut self.out, &field.name);
            self.out.push(':');
            self.node(field)?;
        }
        self.out.push('}');
        Ok(())
    }

    /// Levels of what comes next in the first column of a node.
    fn peek(&mut self, node: &Node) -> Result<Option<(i16, i16)>, String> {
        self.columns.get_mut(node.leaves.start).and_then(Option::as_mut).map_or(Ok(None), Column::peek)
    }

    fn node(&mut self, node: &Node) -> Result<(), Trouble> {
        let (definition, _) = self.peek(node)?.ok_or_else(disagree)?;
        if node.present.is_some_and(|level| definition < level) {
            return self.absent(node, "null");
        }
        match &node.shape {
            Shape::Leaf(_) => {
                let column = self.columns[node.leaves.start].as_mut().ok_or_else(disagree)?;
                let written = column.write(&mut self.out)?.ok_or_else(disagree)?;
                written.map_err(|fault: Fault| Trouble::Row(format!("column `{}` {fault}", node.name)))?;
                if self.out.len() > LARGEST_ROW {
                    return Err(Trouble::Row(format!("larger than {} MiB", LARGEST_ROW >> 20)));
                }
                Ok(())
            }
            Shape::Struct(fields) => self.fields(fields),
            Shape::Media { bytes, path } => {
                let start = self.out.len();
                self.node(bytes)?;
                if &self.out[start..] == "null" {
                    self.out.truncate(start);
                    return self.node(path);
                }
                let end = self.out.len();
                self.node(path)?;
                self.out.truncate(end);
                Ok(())
            }
            Shape::List { definition: level, repetition, element } => {
                if definition < *level {
                    return self.absent(node, "[]");
                }
                self.out.push('[');
                loop {
                    self.node(element)?;
                    if !self.repeats(node, *repetition)? {
                        break;
                    }
                    self.out.push(',');
                }
                self.out.push(']');
                Ok(())
            }
            Shape::Map { definition: level, repetition, key, value } => {
                if definition < *level {
                    return self.absent(node, "{}");
                }
                self.out.push('{');
                loop {
                    self.key(key)?;
                    self.out.push(':');
                    self.node(value)?;
                    if !self.repeats(node, *repetition)? {
                        break;
                    }
                    self.out.push(',');
                }
                self.out.push('}');
                Ok(())
            }
        }
    }

    /// JSON knows only texts as keys.
    fn key(&mut self, key: &Node) -> Result<(), Trouble> {
        let start = self.out.len();
        self.node(key)?;
        if !self.out[start..].starts_with('"') {
            let text = self.out.split_off(start);
            write_text(&mut self.out, &text);
        }
        Ok(())
    }

    /// Whether another element of this list comes next.
    fn repeats(&mut self, node: &Node, level: i16) -> Result<bool, String> {
        Ok(self.peek(node)?.is_some_and(|(_, repetition)| repetition == level))
    }

    /// Null, or no elements: one entry in each of the columns.
    fn absent(&mut self, node: &Node, text: &str) -> Result<(), Trouble> {
        for column in self.columns[node.leaves.clone()].iter_mut() {
            column.as_mut().ok_or_else(disagree)?.advance()?;
        }
        self.out.push_str(text);
        Ok(())
    }
}
