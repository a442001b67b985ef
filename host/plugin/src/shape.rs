//! What would keep the compiler busy without end, or fill the memory while it compiles, found by one pass over the bytes
//! before it sees them. The limits are several times what real plugins have, whole Python interpreters included.
//!
//! It must not know what a plugin does: only how large the parts of a component are and how deep they nest.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, Operator,
    Parser, Payload,
};

use crate::binding::TABLE_ELEMENTS;

/// Core functions of a component. (A Python interpreter has 14 000.)
const FUNCTIONS: u64 = 100_000;
/// Bytes of one function's body. (A Python interpreter's largest has 430 000.)
const BODY: u64 = 2 << 20;
/// Blocks within blocks. The compiler's work grows with the square of it. (A Python interpreter has 780.)
const DEPTH: usize = 2_000;
/// Bytes of functions times their depth: bounds the sum of what [`DEPTH`] lets pass. (Go's run time has 250 million.)
const WORK: u64 = 4_000_000_000;
/// Instances of components, those inside of inner ones counted as often as they come to be. Components that hold the one
/// before them twice come to 2^40 in two kilobytes. (A JavaScript interpreter has 27.)
const INSTANCES: u64 = 10_000;

/// A component that is being read.
#[derive(Default)]
struct Scope {
    /// How many instances each component of its index space comes to; nothing for one that is handed in from elsewhere.
    components: Vec<Option<u64>>,
    /// How many it comes to itself.
    instances: u64,
}

/// Refuses a component whose shape no plugin has.
///
/// # Errors
/// What is too large, as a sentence. Bytes that are damaged pass: the compiler says what is wrong with them.
pub(crate) fn check(component: &[u8]) -> Result<(), String> {
    // What encloses the part that is read; nothing for a core module.
    let mut scopes: Vec<Option<Scope>> = Vec::new();
    let (mut functions, mut work) = (0, 0);
    for payload in Parser::new(0).parse_all(component) {
        let Ok(payload) = payload else { return Ok(()) };
        match &payload {
            Payload::Version { encoding, .. } => {
                let scope = Scope { components: Vec::new(), instances: 1 };
                scopes.push((*encoding == wasmparser::Encoding::Component).then_some(scope));
            }
            Payload::End(_) => {
                let closed = scopes.pop().flatten();
                if let (Some(closed), Some(Some(around))) = (closed, scopes.last_mut()) {
                    around.components.push(Some(closed.instances));
                }
            }
            Payload::TableSection(section) => {
                let mut tables = section.clone().into_iter().flatten();
                if tables.any(|table| table.ty.initial > TABLE_ELEMENTS as u64) {
                    return Err("it asks for tables of more than a million elements".into());
                }
            }
            Payload::CodeSectionStart { count, .. } => {
                functions += u64::from(*count);
                if functions > FUNCTIONS {
                    return Err(format!("it has more than {FUNCTIONS} functions"));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let size = body.range().end - body.range().start;
                if size > BODY {
                    return Err(format!("one of its functions has {size} bytes; at most {BODY} are compiled"));
                }
                let Some(depth) = depth(body) else { return Ok(()) };
                if depth > DEPTH {
                    return Err(format!("one of its functions nests blocks more than {DEPTH} deep"));
                }
                work += size * depth as u64;
                if work > WORK {
                    return Err("its functions are too long and too deeply nested in all".into());
                }
            }
            _ => instances(&payload, &mut scopes)?,
        }
    }
    Ok(())
}

/// Follows how many instances of components come to be.
fn instances(payload: &Payload<'_>, scopes: &mut [Option<Scope>]) -> Result<(), String> {
    let named = |scopes: &[Option<Scope>], outwards: u32, index: u32| {
        let at = scopes.len().checked_sub(1 + outwards as usize)?;
        *scopes[at].as_ref()?.components.get(index as usize)?
    };
    let mut added = Vec::new();
    let mut made = 0u64;
    match payload {
        Payload::ComponentInstanceSection(section) => {
            for instance in section.clone().into_iter().flatten() {
                let ComponentInstance::Instantiate { component_index, .. } = instance else { continue };
                // Tools have no use for it, and what it comes to cannot be seen here.
                let inner = named(scopes, 0, component_index)
                    .ok_or("it makes instances of components that are handed to it")?;
                made = made.saturating_add(inner);
            }
        }
        Payload::ComponentImportSection(section) => {
            let imports = section.clone().into_iter().flatten();
            added.extend(imports.filter(|one| matches!(one.ty, ComponentTypeRef::Component(_))).map(|_| None));
        }
        Payload::ComponentExportSection(section) => {
            let exports = section.clone().into_iter().flatten();
            let exports = exports.filter(|one| one.kind == ComponentExternalKind::Component);
            added.extend(exports.map(|one| named(scopes, 0, one.index)));
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section.clone().into_iter().flatten() {
                match alias {
                    ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                        added.push(named(scopes, count, index));
                    }
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => added.push(None),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    if let Some(Some(scope)) = scopes.last_mut() {
        scope.components.append(&mut added);
        scope.instances = scope.instances.saturating_add(made);
        if scope.instances > INSTANCES {
            return Err(format!("it comes to more than {INSTANCES} instances of components"));
        }
    }
    Ok(())
}

/// How deep a function's blocks nest; nothing for a damaged body.
fn depth(body: &wasmparser::FunctionBody<'_>) -> Option<usize> {
    let mut operators = body.get_operators_reader().ok()?;
    let (mut open, mut deepest) = (1usize, 1);
    while !operators.eof() {
        match operators.read().ok()? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                open += 1;
                deepest = deepest.max(open);
                if open > DEPTH {
                    break;
                }
            }
            Operator::End => open = open.saturating_sub(1),
            _ => {}
        }
    }
    Some(deepest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        check(&wat::parse_str(text).unwrap())
    }

    fn nested(depth: usize) -> String {
        format!("(component (core module (func {} {})))", "block ".repeat(depth), "end ".repeat(depth))
    }

    #[test]
    fn what_plugins_have_passes() {
        check(include_bytes!("../../../plugins/dist/qwen3.wasm")).unwrap();
        checked(&nested(DEPTH - 1)).unwrap();
        // Instances of instances, as tools make them for what a component exports.
        let shim = "(component (component $x) (instance (instantiate $x)) (instance (instantiate $x)))";
        checked(&format!("(component {})", format!("{shim} (instance (instantiate 0))").repeat(100))).unwrap();
        check(b"no WebAssembly at all").unwrap();
    }

    #[test]
    fn what_no_plugin_has_is_named() {
        assert!(checked(&nested(DEPTH + 1)).unwrap_err().contains("nests blocks"));
        let (each, times) = (1_900, 600);
        let one = format!("(func {} {} {})", "block ".repeat(each), "nop ".repeat(2_000), "end ".repeat(each));
        assert!(checked(&format!("(component (core module {}))", one.repeat(times))).unwrap_err().contains("in all"));
        let mut doubling = String::from("(component $c0)");
        for depth in 1..=14 {
            doubling.push_str(&format!(
                "(component $c{depth} (alias outer 1 $c{} (component $x)) (instance (instantiate $x)) (instance (instantiate $x)))",
                depth - 1
            ));
        }
        let all = format!("(component {doubling} (instance (instantiate $c14)))");
        assert!(checked(&all).unwrap_err().contains("instances of components"));
        // The same by way of an export, and of an import, which cannot be followed.
        let exported = format!(
            "(component {doubling} (export $e \"e\" (component $c12)) {})",
            "(instance (instantiate $e))".repeat(4)
        );
        assert!(checked(&exported).unwrap_err().contains("instances of components"));
        let handed = "(component (component (import \"x\" (component $x)) (instance (instantiate $x))))";
        assert!(checked(handed).unwrap_err().contains("handed to it"));
    }
}
