//! SHA-256 of bytes and files, as lowercase hexadecimal.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes that are read from a file at once.
const BLOCK: usize = 1 << 20;

/// Formats bytes as lowercase hexadecimal.
///
/// ```
/// assert_eq!(file_ext::to_hex([0x00, 0xAB, 0x7F]), "00ab7f");
/// ```
pub fn to_hex(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Returns the SHA-256 of bytes as lowercase hexadecimal.
///
/// ```
/// assert!(file_ext::sha256_hex(b"abc").starts_with("ba7816bf8f01cfea"));
/// ```
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    to_hex(Sha256::digest(bytes.as_ref()))
}

/// Returns the SHA-256 of a file as lowercase hexadecimal. The file is read in blocks of 1 MiB.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("file");
/// std::fs::write(&path, "abc")?;
/// assert_eq!(file_ext::sha256_file(&path)?, file_ext::sha256_hex("abc"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn sha256_file(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut block = vec![0u8; BLOCK];
        loop {
            match file.read(&mut block) {
                Ok(0) => return Ok(to_hex(hash.finalize())),
                Ok(count) => hash.update(&block[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    read().map_err(|e| Error::io(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_the_published_values() {
        // FIPS 180-4, examples of one block and of the empty message.
        assert_eq!(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn file_longer_than_a_block_has_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes = (0..BLOCK + 17).map(|i| (i % 251) as u8).collect::<Vec<_>>();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(sha256_file(&path).unwrap(), sha256_hex(&bytes));
        assert!(matches!(sha256_file(folder.path().join("missing")), Err(Error::Io { .. })));
    }
}
