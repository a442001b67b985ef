//! Compiled plugins on disk: compiling takes 20 to 40 ms, loading a compiled one 0.2 ms.
//!
//! Compiled code is code: whoever can write it can do anything the user can. So it lies in a folder that only the user
//! can enter, and every file carries a MAC under a secret that lies there too; a file that does not verify is compiled
//! again. The key of a file is the plugin's digest and the engine's compatibility hash.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use sha2::{Digest, Sha256};

const SECRET: &str = "secret";
const KEY_BYTES: usize = 32;
const BLOCK_BYTES: usize = 64;

/// A private folder of compiled plugins.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: Dir,
    secret: [u8; KEY_BYTES],
}

/// Where compiled plugins are kept when nothing else is said.
pub(crate) fn default_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join("swift").join("compiled-plugins"))
}

impl Cache {
    /// Opens the folder, making it and its secret when they are not there.
    ///
    /// # Errors
    /// When the folder cannot be made private or written to: then there is no cache, and everything still works.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        make_private_folder(path)?;
        let folder = Dir::open_ambient_dir(path, ambient_authority())?;
        check_owner(&folder)?;
        let secret = match read_secret(&folder) {
            Ok(secret) => secret,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_secret(&folder)?;
                read_secret(&folder)?
            }
            Err(error) => return Err(error),
        };
        Ok(Self { folder, secret })
    }

    fn name(key: &str) -> String {
        format!("{key}.compiled")
    }

    /// The compiled plugin under `key`, if it is there and is what this user's swift wrote.
    pub(crate) fn load(&self, key: &str) -> Option<Vec<u8>> {
        let content = self.folder.read(Self::name(key)).ok()?;
        let (mac, code) = content.split_at_checked(KEY_BYTES)?;
        same(mac, &self.mac(key, code)).then(|| code.to_vec())
    }

    /// Writes a compiled plugin; readers see the whole file or none.
    pub(crate) fn store(&self, key: &str, code: &[u8]) -> std::io::Result<()> {
        let temporary = format!(".{key}.{}.{:08x}", std::process::id(), rand::random::<u32>());
        let written = (|| {
            let mut file = self.folder.open_with(&temporary, &private_file())?;
            file.write_all(&self.mac(key, code))?;
            file.write_all(code)?;
            self.folder.rename(&temporary, &self.folder, Self::name(key))
        })();
        if written.is_err() {
            let _ = self.folder.remove_file(&temporary);
        }
        written
    }

    /// HMAC-SHA256 over the key's length, the key and the code (RFC 2104).
    fn mac(&self, key: &str, code: &[u8]) -> [u8; KEY_BYTES] {
        let length = (key.len() as u64).to_le_bytes();
        hmac_sha256(&self.secret, &[&length, key.as_bytes(), code])
    }
}

fn hmac_sha256(secret: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK_BYTES];
        block.iter_mut().zip(secret).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let mut inner = Sha256::new_with_prefix(padded(0x36));
    parts.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(padded(0x5c)).chain_update(inner.finalize()).finalize().into()
}

/// Compares without telling by its time where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn read_secret(folder: &Dir) -> std::io::Result<[u8; KEY_BYTES]> {
    let mut secret = Vec::new();
    folder.open(SECRET)?.take(KEY_BYTES as u64 + 1).read_to_end(&mut secret)?;
    secret.try_into().map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "the cache's secret is damaged"))
}

/// Makes the secret whole or not at all; of two processes that start at once, the first one's is kept.
fn make_secret(folder: &Dir) -> std::io::Result<()> {
    let making = format!(".secret.{}.{:08x}", std::process::id(), rand::random::<u32>());
    let mut file = folder.open_with(&making, &private_file())?;
    let written = file.write_all(&rand::random::<[u8; KEY_BYTES]>()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| folder.hard_link(&making, folder, SECRET));
    let _ = folder.remove_file(&making);
    match linked {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use cap_std::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

/// The folder, and a secret that lies in it, belong to the user who runs this, and nobody else could have written there. A
/// folder that someone else prepared holds code of someone else, whatever its mode is now.
#[cfg(unix)]
fn check_owner(folder: &Dir) -> std::io::Result<()> {
    use cap_std::fs::{MetadataExt, PermissionsExt};
    let denied = |what| Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, what));
    // Whose files this process makes, asked of the file system itself.
    let probe = format!(".probe.{}.{:08x}", std::process::id(), rand::random::<u32>());
    let user = folder.open_with(&probe, &private_file()).and_then(|file| file.metadata()).map(|made| made.uid());
    let _ = folder.remove_file(&probe);
    let user = user?;
    let metadata = folder.dir_metadata()?;
    if metadata.uid() != user || metadata.permissions().mode() & 0o077 != 0 {
        return denied("it belongs to another user, or others may enter it");
    }
    match folder.symlink_metadata(SECRET) {
        Ok(secret) if !secret.is_file() || secret.uid() != user || secret.permissions().mode() & 0o077 != 0 => {
            denied("its secret is not this user's alone")
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_owner(_: &Dir) -> std::io::Result<()> {
    Ok(())
}

fn make_private_folder(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mode = std::fs::metadata(path)?.permissions().mode();
        if mode & 0o022 != 0 && path.read_dir()?.next().is_some() {
            let what =
                "others could write into it; remove it, or make it private yourself after a look at what it holds";
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, what));
        }
        if mode & 0o077 != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }
    #[cfg(not(unix))]
    std::fs::create_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_hmac_sha256() {
        // RFC 4231 has no key of 32 bytes; this one was computed with Python's hmac.
        let secret: [u8; 32] = std::array::from_fn(|i| i as u8);
        let mac = hmac_sha256(&secret, &[b"what do ya want ", b"for nothing?"]);
        let text: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "099805f4ac310786968565c098db515cc50862b420ae31e20238312344bed36a");
    }

    #[test]
    fn two_first_starts_share_one_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let starts: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn({
                    let path = path.clone();
                    move || Cache::open(&path)
                })
            })
            .collect();
        let secrets: Vec<_> = starts.into_iter().map(|start| start.join().unwrap().unwrap().secret).collect();
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        let left: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [SECRET]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_prepared_is_no_cache() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SECRET), [7; KEY_BYTES]).unwrap();
        mode(folder.path(), 0o777);
        assert!(Cache::open(folder.path()).is_err(), "others could write into it");
        // Its mode is mended, the secret in it was still everyone's.
        mode(folder.path(), 0o700);
        mode(&folder.path().join(SECRET), 0o644);
        assert!(Cache::open(folder.path()).is_err(), "the secret is no secret");
        mode(&folder.path().join(SECRET), 0o600);
        Cache::open(folder.path()).unwrap();
        assert!(folder.path().read_dir().unwrap().flatten().all(|file| file.file_name() == SECRET), "no probe is left");
    }

    #[test]
    fn only_untouched_code_comes_back() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cache");
        let cache = Cache::open(&path).unwrap();
        assert_eq!(cache.load("a"), None);
        cache.store("a", b"machine code").unwrap();
        assert_eq!(cache.load("a").as_deref(), Some(&b"machine code"[..]));
        // The secret stays, so a second start reads what the first wrote.
        assert_eq!(Cache::open(&path).unwrap().load("a").as_deref(), Some(&b"machine code"[..]));
        // A file under another key, a changed byte and a short file do not verify.
        std::fs::copy(path.join("a.compiled"), path.join("b.compiled")).unwrap();
        assert_eq!(cache.load("b"), None);
        let mut bytes = std::fs::read(path.join("a.compiled")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path.join("a.compiled"), &bytes).unwrap();
        assert_eq!(cache.load("a"), None);
        std::fs::write(path.join("a.compiled"), &bytes[..5]).unwrap();
        assert_eq!(cache.load("a"), None);
        // Another user's secret does not verify either.
        let other = Cache::open(&place.path().join("other")).unwrap();
        cache.store("c", b"code").unwrap();
        std::fs::copy(path.join("c.compiled"), place.path().join("other/c.compiled")).unwrap();
        assert_eq!(other.load("c"), None);
    }

    #[cfg(unix)]
    #[test]
    fn folder_and_files_are_the_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cache");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let cache = Cache::open(&path).unwrap();
        cache.store("a", b"code").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(SECRET)), 0o600);
        assert_eq!(mode(&path.join("a.compiled")), 0o600);
    }
}
