//! What a component carries about itself: custom sections at its top level.

use wasmparser::{Parser, Payload};

/// The section that holds `plugin.toml`.
pub const MANIFEST: &str = "swift:manifest";
/// The section that holds the golden tests: a JSON array.
pub const TESTS: &str = "swift:tests";

/// Bytes of the top-level custom section `name`, if there is one. Damaged bytes have none.
pub fn read<'a>(component: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload.ok()? {
            Payload::ComponentSection { .. } | Payload::ModuleSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::CustomSection(section) if depth == 0 && section.name() == name => return Some(section.data()),
            _ => {}
        }
    }
    None
}

/// The component with these sections at its end, instead of any of the same names. Its code stays as it is.
///
/// Bytes that are no WebAssembly come back with the sections added; whoever loads them says what they are.
pub fn embed(component: &[u8], sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(component.len() + sections.iter().map(|(_, data)| data.len() + 64).sum::<usize>());
    // `end` is where the last item at the top ended, which is where the next one's header begins.
    let (mut depth, mut copied, mut end) = (0, 0, 0);
    for payload in Parser::new(0).parse_all(component) {
        let Ok(payload) = payload else { break };
        match &payload {
            Payload::End(_) if depth > 0 => depth -= 1,
            _ if depth > 0 => {
                let nested = matches!(payload, Payload::ComponentSection { .. } | Payload::ModuleSection { .. });
                depth += usize::from(nested);
            }
            Payload::Version { range, .. } => end = range.end as usize,
            Payload::ComponentSection { unchecked_range, .. } | Payload::ModuleSection { unchecked_range, .. } => {
                depth += 1;
                end = unchecked_range.end as usize;
            }
            other => {
                let Some((_, range)) = other.as_section() else { continue };
                if let Payload::CustomSection(section) = other
                    && sections.iter().any(|(name, _)| *name == section.name())
                {
                    out.extend_from_slice(&component[copied..end]);
                    copied = range.end as usize;
                }
                end = range.end as usize;
            }
        }
    }
    out.extend_from_slice(&component[copied..]);
    for (name, data) in sections {
        let name_length = leb128(name.len());
        out.push(0);
        out.extend(leb128(name_length.len() + name.len() + data.len()));
        out.extend(name_length);
        out.extend(name.as_bytes());
        out.extend(*data);
    }
    out
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &[u8] = include_bytes!("../../../plugins/dist/llama.wasm");

    #[test]
    fn what_is_embedded_is_read_and_replaced() {
        let long = vec![b'x'; 300];
        let once = embed(LLAMA, &[(MANIFEST, b"one"), (TESTS, &long)]);
        assert_eq!(read(&once, MANIFEST), Some(&b"one"[..]));
        assert_eq!(read(&once, TESTS), Some(&long[..]));
        wasmparser::validate(&once).unwrap();
        let twice = embed(&once, &[(MANIFEST, b"two"), (TESTS, &long)]);
        assert_eq!(read(&twice, MANIFEST), Some(&b"two"[..]));
        assert_eq!(twice.len(), once.len());
        let other = embed(&twice, &[(MANIFEST, b"")]);
        assert_eq!((read(&other, MANIFEST), read(&other, TESTS)), (Some(&b""[..]), Some(&long[..])));
        wasmparser::validate(&other).unwrap();
    }

    #[test]
    fn sections_of_what_lies_inside_are_not_the_components() {
        let text = r#"(component (core module (@custom "swift:manifest" "inner")))"#;
        let component = wat::parse_str(text).unwrap();
        assert_eq!(read(&component, MANIFEST), None);
        assert_eq!(read(b"no wasm", MANIFEST), None);
    }
}
