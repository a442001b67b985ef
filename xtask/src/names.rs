//! Shortens a guest's table of function names: a stack shows the plugin's and the SDK's functions, so the standard
//! library's names go, and the kept ones are written as people read them. Names are a fifth of a plugin otherwise.

use wasmparser::{KnownCustom, Name, Parser, Payload};

use crate::Result;

/// Crates whose functions no stack shows.
const LEFT_OUT: &[&str] = &["std::", "core::", "alloc::", "compiler_builtins::", "__rustc::", "rust_", "__rust", "_R"];

/// The module with its `name` section rewritten to the functions worth showing.
pub(crate) fn shorten(module: &[u8]) -> Result<Vec<u8>> {
    let mut kept: Vec<(u32, String)> = Vec::new();
    let mut section = None;
    for payload in Parser::new(0).parse_all(module) {
        let Payload::CustomSection(custom) = payload? else { continue };
        let KnownCustom::Name(names) = custom.as_known() else { continue };
        section = Some(custom.range());
        for subsection in names {
            let Name::Function(functions) = subsection? else { continue };
            for naming in functions {
                let naming = naming?;
                let name = format!("{:#}", rustc_demangle::demangle(naming.name));
                let plain = name.trim_start_matches(['<', '&', '(', '[']);
                if !LEFT_OUT.iter().any(|prefix| plain.starts_with(prefix)) {
                    kept.push((naming.index, name));
                }
            }
        }
    }
    let Some(section) = section else { return Ok(module.to_vec()) };
    let mut map = Vec::new();
    number(&mut map, kept.len());
    for (index, name) in kept {
        number(&mut map, index as usize);
        text(&mut map, &name);
    }
    let mut content = Vec::new();
    text(&mut content, "name");
    // Subsection 1 holds the names of functions.
    content.push(1);
    number(&mut content, map.len());
    content.extend(map);

    // The section's range starts behind its id and length, which are rewritten too.
    let (start, end) = (header_start(module, usize::try_from(section.start)?)?, usize::try_from(section.end)?);
    let mut out = module[..start].to_vec();
    out.push(0);
    number(&mut out, content.len());
    out.extend(content);
    out.extend(&module[end..]);
    Ok(out)
}

/// Where the section begins whose content begins at `content`: at the id in front of its length.
fn header_start(module: &[u8], content: usize) -> Result<usize> {
    let mut at = 8;
    while at < content {
        let start = at;
        let (mut length, mut shift) = (0usize, 0);
        at += 1;
        loop {
            let byte = *module.get(at).ok_or("a module that ends inside a section")?;
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if at == content {
            return Ok(start);
        }
        at += length;
    }
    Err("a section that the parser saw is not there".into())
}

/// Unsigned LEB128.
fn number(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_plugins_names_and_the_rest_of_the_module() {
        // (module (func $core::fmt) (func $_ZN5llama5build17h0123456789abcdefE)) with a section behind the names.
        let mut module =
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x03\x02\0\0\x0a\x07\x02\x02\0\x0b\x02\0\x0b".to_vec();
        let mut map = vec![2, 0];
        text(&mut map, "_ZN4core3fmt17h0123456789abcdefE");
        map.push(1);
        text(&mut map, "_ZN5llama5build17h0123456789abcdefE");
        let mut content = Vec::new();
        text(&mut content, "name");
        content.push(1);
        number(&mut content, map.len());
        content.extend(map);
        module.push(0);
        number(&mut module, content.len());
        module.extend(content);
        let behind = b"\0\x03\x01xy";
        module.extend(behind);

        let short = shorten(&module).unwrap();
        wasmparser::validate(&short).unwrap();
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(&short) {
            if let Payload::CustomSection(custom) = payload.unwrap()
                && let KnownCustom::Name(reader) = custom.as_known()
            {
                for part in reader {
                    if let Name::Function(functions) = part.unwrap() {
                        names.extend(functions.into_iter().map(|naming| naming.unwrap().name.to_owned()));
                    }
                }
            }
        }
        assert_eq!(names, ["llama::build"]);
        assert!(short.ends_with(behind));
        // What has no names stays as it is.
        assert_eq!(shorten(&module[..28]).unwrap(), module[..28]);
    }
}
