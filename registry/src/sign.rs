//! Signatures: minisign's, over the whole component, with a trusted comment that names the plugin.
//!
//! The comment keeps a good signature from being put under another name or an older version. Whose key it is, minisign
//! cannot say: the store remembers the first key of a name, and the user may give keys.

use std::path::Path;

use minisign_verify::{PublicKey, Signature};
use semver::Version;
use swift_plugin::clean;

use crate::{RegistryError, Result, files};

const LARGEST_KEY: u64 = 4 << 10;
/// A signature has four lines and about 300 bytes.
pub(crate) const LARGEST_SIGNATURE: usize = 4 << 10;

/// A component's signature with the key that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The text of the `.minisig` file.
    pub signature: String,
    /// The public key that was published with it: worth no more than the place it came from.
    pub key: Option<String>,
}

/// What a component's signature must say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a Version,
    pub(crate) digest: &'a str,
}

impl Claim<'_> {
    fn comment(&self) -> String {
        format!("swift plugin {}@{} sha256:{}", self.name, self.version, self.digest)
    }

    fn wrong(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::Signature { name: self.name.into(), version: self.version.clone(), what: what.into() }
    }
}

/// Whether a text is the second line of a minisign public key.
pub(crate) fn check_key(key: &str) -> std::result::Result<(), String> {
    PublicKey::from_base64(key).map(drop).map_err(|error| error.to_string())
}

/// A public key: the line itself, or a file of it as minisign writes it.
///
/// # Errors
/// When it is neither.
pub fn read_key(given: &str) -> Result<String> {
    if check_key(given).is_ok() {
        return Ok(given.into());
    }
    let wrong = |what: &str| RegistryError::Key { given: clean(given, 120), what: what.into() };
    let Some(text) = files::read_text(Path::new(given), LARGEST_KEY)? else {
        return Err(wrong("it is no key and no such file exists"));
    };
    let key = text.lines().map(str::trim).find(|line| check_key(line).is_ok());
    key.map(Into::into).ok_or_else(|| wrong("the file holds no public key"))
}

/// Verifies a signature and returns the key that made it, which is one of `keys`, or the one it came with when `keys` is
/// empty.
pub(crate) fn verify(component: &[u8], claim: Claim<'_>, signed: &Signed, keys: &[String]) -> Result<String> {
    let signature = Signature::decode(&signed.signature).map_err(|_| claim.wrong("it is no minisign signature"))?;
    let offered = signed.key.as_slice();
    let mut found = None;
    for key in if keys.is_empty() { offered } else { keys } {
        let public = PublicKey::from_base64(key).map_err(|_| claim.wrong("the key beside it is none"))?;
        match public.verify(component, &signature, false) {
            Ok(()) => found = Some(key),
            Err(minisign_verify::Error::UnexpectedKeyId) => {}
            Err(_) => return Err(claim.wrong("it was made for other bytes")),
        }
    }
    let Some(key) = found else {
        return Err(match signed.key.as_ref().filter(|_| !keys.is_empty()) {
            Some(offered) => changed(claim, keys, offered),
            None => claim.wrong("nobody said whose key it is; give the publisher's with --key"),
        });
    };
    let comment = signature.trusted_comment();
    if comment != claim.comment() {
        return Err(claim.wrong(format!("it is for `{}`, not for `{}`", clean(comment, 200), claim.comment())));
    }
    Ok(key.clone())
}

fn changed(claim: Claim<'_>, keys: &[String], offered: &str) -> RegistryError {
    RegistryError::ChangedSigner {
        name: claim.name.into(),
        version: claim.version.clone(),
        recorded: keys.join(" or "),
        offered: clean(offered, 80),
    }
}

/// A new pair of keys, as the texts of the secret and the public file. Without a password the secret file alone signs.
///
/// # Errors
/// When the system has no randomness.
pub fn generate(password: Option<&str>) -> Result<(String, String)> {
    let failed = |error: minisign::PError| RegistryError::Key { given: "a new key".into(), what: error.to_string() };
    let pair = match password {
        Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password.into())),
        None => minisign::KeyPair::generate_unencrypted_keypair(),
    }
    .map_err(failed)?;
    let secret = pair.sk.to_box(Some("swift plugin secret key")).map_err(failed)?;
    let public = pair.pk.to_box().map_err(failed)?;
    Ok((secret.into_string(), public.into_string()))
}

/// A secret key that signs.
pub struct Signer {
    secret: minisign::SecretKey,
    public: minisign::PublicKey,
}

impl Signer {
    /// Reads a secret key file of `swift plugin key` or minisign.
    ///
    /// # Errors
    /// When it is none, or the password does not open it.
    pub fn open(path: &Path, password: Option<&str>) -> Result<Self> {
        let text = files::read_text(path, LARGEST_KEY)?;
        let wrong = |what: String| RegistryError::Key { given: path.display().to_string(), what };
        let text = text.ok_or_else(|| wrong("there is no such file".into()))?;
        let failed = |error: minisign::PError| wrong(clean(&error.to_string(), 200));
        let sealed = minisign::SecretKeyBox::from_string(&text).map_err(failed)?;
        let secret = match password {
            Some(password) => sealed.into_secret_key(Some(password.into())),
            None => sealed.into_unencrypted_secret_key(),
        };
        let secret = secret.map_err(|error| match password {
            None => wrong(format!("{}; if it has a password, set SWIFT_KEY_PASSWORD", clean(&error.to_string(), 200))),
            Some(_) => failed(error),
        })?;
        let public = minisign::PublicKey::from_secret_key(&secret).map_err(failed)?;
        Ok(Self { secret, public })
    }

    /// The public key, as users give it with `--key`.
    pub fn key(&self) -> String {
        self.public.to_base64()
    }

    pub(crate) fn sign(&self, component: &[u8], claim: Claim<'_>) -> Result<Signed> {
        let comment = claim.comment();
        let signature =
            minisign::sign(Some(&self.public), &self.secret, component, Some(&comment), Some("swift plugin"))
                .map_err(|error| claim.wrong(error.to_string()))?;
        Ok(Signed { signature: signature.into_string(), key: Some(self.key()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> (tempfile::TempDir, Signer) {
        let folder = tempfile::tempdir().unwrap();
        let (secret, _) = generate(None).unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, secret).unwrap();
        let signer = Signer::open(&path, None).unwrap();
        (folder, signer)
    }

    #[test]
    fn a_signature_holds_for_its_bytes_its_name_and_its_version_only() {
        let (_folder, signer) = signer();
        let (component, version) = (b"component".as_slice(), Version::new(0, 1, 0));
        let digest = files::sha256(component);
        let claim = Claim { name: "polite", version: &version, digest: &digest };
        let signed = signer.sign(component, claim).unwrap();
        assert!(signed.signature.len() < LARGEST_SIGNATURE);
        assert_eq!(verify(component, claim, &signed, &[]).unwrap(), signer.key());
        assert_eq!(verify(component, claim, &signed, &[signer.key()]).unwrap(), signer.key());

        let error = verify(b"compOnent", claim, &signed, &[]).unwrap_err().to_string();
        assert!(error.contains("other bytes"), "{error}");
        let newer = Version::new(0, 2, 0);
        for other in [Claim { name: "rude", ..claim }, Claim { version: &newer, ..claim }] {
            let error = verify(component, other, &signed, &[]).unwrap_err().to_string();
            assert!(error.contains("it is for `swift plugin polite@0.1.0 sha256:"), "{error}");
        }
        // The trusted comment is signed too.
        let forged = Signed { signature: signed.signature.replace("polite@0.1.0", "polite@0.2.0"), ..signed.clone() };
        assert!(verify(component, Claim { version: &newer, ..claim }, &forged, &[]).is_err());

        let (_other_folder, other) = self::signer();
        let error = verify(component, claim, &signed, &[other.key()]).unwrap_err();
        assert!(error.to_string().contains(&other.key()) && error.to_string().contains(&signer.key()), "{error}");
        let keyless = Signed { key: None, ..signed };
        assert!(verify(component, claim, &keyless, &[]).unwrap_err().to_string().contains("--key"));
        let none = Signed { signature: "none".into(), key: None };
        assert!(verify(component, claim, &none, &[]).unwrap_err().to_string().contains("no minisign signature"));
    }

    #[test]
    fn keys_are_read_from_lines_and_files_and_may_have_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, public) = generate(Some("open")).unwrap();
        let (secret_path, public_path) = (folder.path().join("key"), folder.path().join("key.pub"));
        std::fs::write(&secret_path, secret).unwrap();
        std::fs::write(&public_path, &public).unwrap();
        let signer = Signer::open(&secret_path, Some("open")).unwrap();
        assert_eq!(read_key(&public_path.to_string_lossy()).unwrap(), signer.key());
        assert_eq!(read_key(&signer.key()).unwrap(), signer.key());
        for (path, password) in [(&secret_path, Some("shut")), (&secret_path, None), (&public_path, None)] {
            assert!(Signer::open(path, password).is_err());
        }
        assert!(read_key("RWnothing").unwrap_err().to_string().contains("no such file"));
    }
}
