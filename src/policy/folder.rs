//! A folder's bytes, apart from the file system that they came from: what a snapshot is made of.
//! INVARIANT: paths are relative, with `/` between their parts; the order of files is that of their paths.

use std::collections::BTreeMap;

use thiserror::Error;

/// Relative path → contents. Whoever fills one by hand asks `check` afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder(pub BTreeMap<String, Vec<u8>>);

/// All files together, in bytes.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
pub const FILES_MAX: usize = 100_000;

/// The folder is more than a snapshot is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FolderLimit {
    #[error("there are more than {FILES_MAX} files")]
    Files,
    #[error("the files are more than {} MiB together", BYTES_MAX / 1024 / 1024)]
    Bytes,
}

impl Folder {
    /// Whether it is within the limits.
    pub fn check(&self) -> Result<(), FolderLimit> {
        if self.0.len() > FILES_MAX {
            return Err(FolderLimit::Files);
        }
        let bytes = self.0.values().fold(0usize, |bytes, file| bytes.saturating_add(file.len()));
        if bytes > BYTES_MAX { Err(FolderLimit::Bytes) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let of = |files: usize, bytes: usize| {
            Folder(
                (0..files).map(|number| (number.to_string(), vec![0; if number == 0 { bytes } else { 0 }])).collect(),
            )
        };
        let cases = [
            ("nothing", of(0, 0), Ok(())),
            ("as many as may be", of(FILES_MAX, BYTES_MAX), Ok(())),
            ("a file more", of(FILES_MAX + 1, 0), Err(FolderLimit::Files)),
            ("a byte more", of(1, BYTES_MAX + 1), Err(FolderLimit::Bytes)),
        ];
        for (name, folder, expected) in cases {
            assert_eq!(folder.check(), expected, "{name}");
        }
    }
}
