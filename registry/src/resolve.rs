//! Which version is installed: the newest that the user allows and that this swift can run.
//!
//! A plugin has two kinds of version: its own, and those of the contracts it was built for. Everything here is a pure
//! function of what is on offer; where that comes from is somebody else's concern.

use semver::{Version, VersionReq};
use swift_plugin::Contract;

use crate::{RegistryError, Result};

/// At most so many versions are looked at before giving up: each may cost a request.
const MOST_LOOKS: usize = 64;

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<T> {
    /// The version.
    pub version: Version,
    /// What was found out about it.
    pub found: T,
    /// Newer versions that would have been taken if this swift served what they need, newest first.
    pub passed_over: Vec<(Version, Contract)>,
}

/// Whom the versions belong to, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The plugin.
    pub name: &'a str,
    /// Where the versions are.
    pub place: &'a str,
}

/// Chooses among `versions`. `look` finds out about one of them, `contracts` says what it needs, and `has` which
/// version of a contract's package this swift has (`Ok` when it serves the one asked for).
///
/// Pre-releases are taken only when the requirement names one.
///
/// # Errors
/// [`RegistryError::NoVersion`] when nothing fits the requirement, [`RegistryError::Contract`] when nothing that fits
/// can be run, and whatever `look` fails with.
pub fn resolve<T>(
    subject: Subject<'_>,
    requirement: Option<&VersionReq>,
    versions: &[Version],
    mut look: impl FnMut(&Version) -> Result<T>,
    contracts: impl Fn(&T) -> &[Contract],
    has: impl Fn(&Contract) -> std::result::Result<(), Option<Version>>,
) -> Result<Choice<T>> {
    let mut versions: Vec<&Version> = versions.iter().collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.dedup();
    let allowed = |version: &Version| requirement.unwrap_or(&VersionReq::STAR).matches(version);
    let missing =
        |found: &T| contracts(found).iter().find_map(|contract| Some((contract.clone(), has(contract).err()?)));

    let mut looks = MOST_LOOKS;
    let mut passed_over = Vec::new();
    let mut newest = None;
    for version in versions.iter().copied().filter(|version| allowed(version)) {
        if looks == 0 {
            break;
        }
        looks -= 1;
        let found = look(version)?;
        match missing(&found) {
            None => return Ok(Choice { version: version.clone(), found, passed_over }),
            Some((contract, offered)) => {
                newest.get_or_insert_with(|| (version, contract.clone(), offered));
                passed_over.push((version.clone(), contract));
            }
        }
    }
    let Some((version, contract, offered)) = newest else {
        let wanted = requirement.map_or_else(|| "release".into(), ToString::to_string);
        let versions = versions.into_iter().cloned().collect();
        return Err(RegistryError::NoVersion {
            place: subject.place.into(),
            name: subject.name.into(),
            wanted,
            versions,
        });
    };
    // What the user could take instead: the newest release outside the requirement that can be run.
    let others = versions.iter().copied().filter(|version| !allowed(version) && version.pre.is_empty()).take(looks);
    let usable = others.into_iter().find(|version| look(version).is_ok_and(|found| missing(&found).is_none()));
    Err(RegistryError::Contract {
        name: subject.name.into(),
        version: version.clone(),
        needs: format!("{} {}", contract.package, minor(&contract.version)),
        has: offered.as_ref().map_or_else(|| "no such contract".into(), minor),
        usable: usable.cloned(),
    })
}

/// What counts of a contract's version: under 1.0 the minor number.
fn minor(version: &Version) -> String {
    if version.major == 0 { format!("0.{}", version.minor) } else { version.major.to_string() }
}
