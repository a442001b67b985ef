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
        has: offered.as_ref().map_or_else(|| "no such contract".into(), minor).into(),
        usable: usable.cloned().map(Box::new),
    })
}

/// What counts of a contract's version: under 1.0 the minor number.
fn minor(version: &Version) -> String {
    if version.major == 0 { format!("0.{}", version.minor) } else { version.major.to_string() }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    const SUBJECT: Subject<'_> = Subject { name: "polite", place: "here" };

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    /// This swift has swift:model 0.1 and swift:reward 0.3.
    fn has(contract: &Contract) -> std::result::Result<(), Option<Version>> {
        let here = match contract.package.as_str() {
            "swift:model" => version("0.1.2"),
            "swift:reward" => version("0.3.0"),
            _ => return Err(None),
        };
        if contract.version.minor == here.minor { Ok(()) } else { Err(Some(here)) }
    }

    fn needs(package: &str, minor: u64) -> Vec<Contract> {
        vec![Contract { package: package.into(), version: Version::new(0, minor, 0) }]
    }

    fn choose(requirement: Option<&str>, offered: &[(&str, Vec<Contract>)]) -> Result<Choice<Vec<Contract>>> {
        let versions: Vec<Version> = offered.iter().map(|(text, _)| version(text)).collect();
        let look = |wanted: &Version| Ok(offered.iter().find(|(text, _)| version(text) == *wanted).unwrap().1.clone());
        let requirement = requirement.map(|text| VersionReq::parse(text).unwrap());
        resolve(SUBJECT, requirement.as_ref(), &versions, look, |found| found, has)
    }

    #[test]
    fn the_newest_that_this_swift_can_run() {
        let offered = [
            ("0.3.0", needs("swift:model", 1)),
            ("0.4.0", needs("swift:model", 2)),
            ("0.3.1", needs("swift:model", 1)),
        ];
        let choice = choose(None, &offered).unwrap();
        assert_eq!(choice.version, version("0.3.1"));
        assert_eq!(choice.passed_over, [(version("0.4.0"), needs("swift:model", 2).remove(0))]);
        let error = choose(Some("^0.4"), &offered).unwrap_err();
        assert_eq!(error.to_string(), "`polite` 0.4.0 needs swift:model 0.2, this swift has 0.1");
        assert_eq!(error.hint(), "use polite@0.3.1 or update swift");
        let error = choose(None, &[("1.0.0", needs("swift:magic", 1))]).unwrap_err();
        assert_eq!(error.to_string(), "`polite` 1.0.0 needs swift:magic 0.1, this swift has no such contract");
        assert_eq!(error.hint(), "no version fits this swift: update swift");
    }

    #[test]
    fn pre_releases_only_when_asked() {
        let offered = [("1.0.0-rc.1", vec![]), ("0.9.0", vec![]), ("1.0.0-rc.2", vec![])];
        assert_eq!(choose(None, &offered).unwrap().version, version("0.9.0"));
        assert_eq!(choose(Some(">=0.1"), &offered).unwrap().version, version("0.9.0"));
        assert_eq!(choose(Some("=1.0.0-rc.1"), &offered).unwrap().version, version("1.0.0-rc.1"));
        assert_eq!(choose(Some("1.0.0-rc"), &offered).unwrap().version, version("1.0.0-rc.2"));
        let error = choose(None, &offered[..1]).unwrap_err();
        assert_eq!(error.to_string(), "here has no `polite` release");
        assert_eq!(error.hint(), "there are 1.0.0-rc.1");
    }

    #[test]
    fn few_questions_are_asked() {
        let versions: Vec<Version> = (0..1000).map(|minor| Version::new(0, minor, 0)).collect();
        let mut looks = 0;
        let look = |_: &Version| {
            looks += 1;
            Ok(needs("swift:model", 9))
        };
        assert!(resolve(SUBJECT, None, &versions, look, |found| found, has).is_err());
        assert_eq!(looks, MOST_LOOKS);
        let failing = |_: &Version| Err::<(), _>(RegistryError::NoRegistry);
        let none: fn(&()) -> &[Contract] = |()| &[];
        assert!(matches!(resolve(SUBJECT, None, &versions, failing, none, has), Err(RegistryError::NoRegistry)));
    }

    /// For random offers: what is chosen fits, nothing newer would have, and an error is only given when nothing fits.
    #[test]
    fn nothing_better_was_there() {
        let requirements = ["*", "^0.2", "~1.1", ">=0.1.1, <2", "=1.0.0", "1.0.0-rc.0", "2"];
        for _ in 0..3000 {
            let mut random = rand::rng();
            let offered: Vec<(String, Vec<Contract>)> = (0..random.random_range(0..8))
                .map(|_| {
                    let pre = if random.random_bool(0.2) {
                        format!("-rc.{}", random.random_range(0..2))
                    } else {
                        String::new()
                    };
                    let text = format!(
                        "{}.{}.{}{pre}",
                        random.random_range(0..3),
                        random.random_range(0..3),
                        random.random_range(0..3)
                    );
                    let package = if random.random_bool(0.5) { "swift:model" } else { "swift:reward" };
                    (text, needs(package, random.random_range(1..4)))
                })
                .collect();
            let first = |text: &str| offered.iter().find(|(other, _)| other == text).unwrap().1.clone();
            let offered: Vec<(&str, Vec<Contract>)> =
                offered.iter().map(|(text, _)| (text.as_str(), first(text))).collect();
            let text = requirements[random.random_range(0..requirements.len())];
            let requirement = VersionReq::parse(text).unwrap();
            let runs = |contracts: &[Contract]| contracts.iter().all(|contract| has(contract).is_ok());
            let fits =
                |(text, contracts): &&(&str, Vec<Contract>)| requirement.matches(&version(text)) && runs(contracts);
            let best = offered.iter().filter(fits).map(|(text, _)| version(text)).max();
            match choose(Some(text), &offered) {
                Ok(choice) => assert_eq!(Some(choice.version), best),
                Err(RegistryError::NoVersion { .. }) => {
                    assert!(offered.iter().all(|(text, _)| !requirement.matches(&version(text))));
                }
                Err(RegistryError::Contract { usable, .. }) => {
                    assert_eq!(best, None);
                    let others =
                        offered.iter().filter(|(text, contracts)| version(text).pre.is_empty() && runs(contracts));
                    assert_eq!(usable.map(|usable| *usable), others.map(|(text, _)| version(text)).max());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
