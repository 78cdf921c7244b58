//! Compiled kernels on disk. An entry is published whole or not at all, and one that does not check out is no entry, so
//! any number of processes may share a folder.

use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, DirEntry, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const MAGIC: &[u8; 8] = b"farspan1";
const CHECKSUM_BYTES: usize = 32;
const ENTRY_SUFFIX: &str = ".cubin";
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// What a kernel was made from, as the digest of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of these parts; where one ends and the next begins is a part of it.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Key {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        Key(digest.finalize().into())
    }

    fn name(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Of the content and of the key: an entry under another's name does not pass for it.
    fn checksum(&self, content: &[u8]) -> [u8; CHECKSUM_BYTES] {
        Sha256::new().chain_update(self.0).chain_update(content).finalize().into()
    }
}

/// A folder of entries. It need not exist.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// What a cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The folder.
    pub folder: PathBuf,
    /// How many compiled kernels there are.
    pub entries: usize,
    /// The size of all of them.
    pub bytes: u64,
}

impl Cache {
    /// The cache in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    /// `$FARSPAN_CACHE_DIR`, else `farspan` in `$XDG_CACHE_HOME`, else in `~/.cache`.
    pub fn usual() -> Cache {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("FARSPAN_CACHE_DIR")
            .or_else(|| variable("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("farspan")))
            .unwrap_or_else(|| std::env::home_dir().unwrap_or_else(|| "/".into()).join(".cache/farspan"));
        Cache::new(folder)
    }

    /// The folder, whether or not it exists.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was put under `key`; `None` when there is nothing, or nothing whole.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let mut entry = fs::read(self.path(key)).ok()?;
        let header = MAGIC.len() + CHECKSUM_BYTES;
        let (magic, checksum) = entry.get(..header)?.split_at(MAGIC.len());
        if magic != MAGIC || checksum != key.checksum(&entry[header..]) {
            return None;
        }
        entry.drain(..header);
        Some(entry)
    }

    /// Keeps `content` under `key`, in place of whatever is there.
    pub fn put(&self, key: &Key, content: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        create_private(&self.folder)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{}.{}-{count}{UNFINISHED_SUFFIX}", key.name(), std::process::id()));
        let written = File::create_new(&unfinished).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&key.checksum(content))?;
            file.write_all(content)?;
            file.sync_all()
        });
        let published = written.and_then(|()| match fs::rename(&unfinished, self.path(key)) {
            // Somebody cleared the cache in this very moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        });
        if published.is_err() {
            let _ = fs::remove_file(&unfinished); // it may never have come to be
        }
        published
    }

    /// What the folder holds; nothing when it does not exist.
    pub fn contents(&self) -> io::Result<Contents> {
        let mut contents = Contents { folder: self.folder.clone(), entries: 0, bytes: 0 };
        for file in self.own_files()? {
            contents.entries += usize::from(has_suffix(&file, ENTRY_SUFFIX));
            contents.bytes += file.metadata().map_or(0, |known| known.len()); // it may be gone by now
        }
        Ok(contents)
    }

    /// Removes every entry, and what an interrupted process left. Files of another origin stay. Gives the number of
    /// entries removed.
    pub fn clear(&self) -> io::Result<usize> {
        let mut entries = 0;
        for file in self.own_files()? {
            match fs::remove_file(file.path()) {
                Ok(()) => entries += usize::from(has_suffix(&file, ENTRY_SUFFIX)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // another process was quicker
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(key.name() + ENTRY_SUFFIX)
    }

    fn own_files(&self) -> io::Result<Vec<DirEntry>> {
        let entries = match self.folder.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        Ok(entries.into_iter().filter(is_own).collect())
    }
}

fn is_own(file: &DirEntry) -> bool {
    let name = file.file_name();
    let is_key = |name: &str| name.len() >= 64 && name.bytes().take(64).all(|byte| byte.is_ascii_hexdigit());
    let known = has_suffix(file, ENTRY_SUFFIX) || has_suffix(file, UNFINISHED_SUFFIX);
    known && name.to_str().is_some_and(is_key) && file.file_type().is_ok_and(|kind| kind.is_file())
}

fn has_suffix(file: &DirEntry, suffix: &str) -> bool {
    file.file_name().to_str().is_some_and(|name| name.ends_with(suffix))
}

/// Nobody else shall put machine code there for us to run.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
