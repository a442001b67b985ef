//! Takes out of a guest what nobody reads: a stack shows the plugin's and the SDK's functions, so the standard library's
//! names go, and the kept ones are written as people read them; remarks of the tools go altogether. All of it together
//! is a quarter of a plugin otherwise. And what a plugin says about itself goes in.

use wasmparser::{KnownCustom, Name, Parser, Payload};

use crate::Result;

/// Crates whose functions no stack shows.
const LEFT_OUT: &[&str] = &["std::", "core::", "alloc::", "compiler_builtins::", "__rustc::", "rust_", "__rust", "_R"];

/// Custom sections that say which tools made the file: `toolchain.txt` does. `component-name` names each import again.
const REMARKS: &[&str] = &["producers", "target_features", "component-name"];

/// The module or component without the sections that say what made it.
pub(crate) fn without_remarks(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut out = wasm[..HEADER].to_vec();
    let mut at = HEADER;
    while at < wasm.len() {
        let (content, end) = section(wasm, at)?;
        let remark = wasm[at] == 0 && {
            let (length, start) = read_number(wasm, content)?;
            let name = wasm.get(start..start + length).ok_or(CUT)?;
            REMARKS.iter().any(|remark| remark.as_bytes() == name)
        };
        if !remark {
            out.extend(&wasm[at..end]);
        }
        at = end;
    }
    Ok(out)
}

/// The module with its `name` section rewritten to the functions worth showing.
pub(crate) fn shorten(module: &[u8]) -> Result<Vec<u8>> {
    let mut kept: Vec<(u32, String)> = Vec::new();
    let (mut section, mut imports) = (None, 0);
    for payload in Parser::new(0).parse_all(module) {
        let custom = match payload? {
            Payload::CustomSection(custom) => custom,
            // A guest imports nothing but functions, which have the first indices; no stack shows one.
            Payload::ImportSection(section) => {
                imports = section.count();
                continue;
            }
            _ => continue,
        };
        let KnownCustom::Name(names) = custom.as_known() else { continue };
        section = Some(custom.range());
        for subsection in names {
            let Name::Function(functions) = subsection? else { continue };
            for naming in functions {
                let naming = naming?;
                let name = format!("{:#}", rustc_demangle::demangle(naming.name));
                if naming.index >= imports && !is_left_out(&name) {
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

/// Adds a custom section at the end.
pub(crate) fn append(wasm: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut content = Vec::new();
    text(&mut content, name);
    content.extend(data);
    wasm.push(0);
    number(wasm, content.len());
    wasm.extend(content);
}

/// Bytes before the first section.
const HEADER: usize = 8;
const CUT: &str = "a module that ends inside a section";

/// Whether every crate that the name mentions is left out: `<str as alloc::borrow::ToOwned>::to_owned` is.
fn is_left_out(name: &str) -> bool {
    let prefixed = |path: &str| LEFT_OUT.iter().any(|prefix| path.starts_with(prefix));
    let mut paths = name
        .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .filter(|part| part.contains("::") && !part.starts_with("::"))
        .peekable();
    if paths.peek().is_some() { paths.all(prefixed) } else { prefixed(name) }
}

/// Where the section begins whose content begins at `content`: at the id in front of its length.
fn header_start(module: &[u8], content: usize) -> Result<usize> {
    let mut at = HEADER;
    while at < content {
        let (start, end) = section(module, at)?;
        if start == content {
            return Ok(at);
        }
        at = end;
    }
    Err("a section that the parser saw is not there".into())
}

/// Where the content of the section that starts at `at` begins and ends.
fn section(wasm: &[u8], at: usize) -> Result<(usize, usize)> {
    let (length, content) = read_number(wasm, at + 1)?;
    let end = content + length;
    if end > wasm.len() { Err(CUT.into()) } else { Ok((content, end)) }
}

/// Unsigned LEB128 at `at`, and where it ends.
fn read_number(wasm: &[u8], mut at: usize) -> Result<(usize, usize)> {
    let (mut value, mut shift) = (0usize, 0);
    loop {
        let byte = *wasm.get(at).ok_or(CUT)?;
        at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok((value, at));
        }
    }
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
    fn a_name_that_mentions_only_the_standard_library_goes() {
        for name in ["<str as alloc::borrow::ToOwned>::to_owned", "core::fmt::write", "<&T as core::fmt::Display>::fmt"]
        {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["<a::Heap as core::alloc::GlobalAlloc>::alloc", "a::b::{{closure}}", "swift:model/x@0.1.0#build"] {
            assert!(!is_left_out(name), "{name}");
        }
    }

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
        let mut remarked = short.clone();
        remarked.extend(b"\0\x0b\x09producersx");
        assert_eq!(without_remarks(&remarked).unwrap(), short);
        // What has no names stays as it is.
        assert_eq!(shorten(&module[..28]).unwrap(), module[..28]);
    }
}
