//! Kinds of damaged samples, by which the loader counts them.

use std::fmt;
use std::str::FromStr;

/// The kind of damage of a sample.
///
/// ```
/// use data_pipeline::DamageKind;
/// assert_eq!(DamageKind::NoCaption.to_string(), "no caption");
/// assert_eq!("no caption".parse::<DamageKind>()?, DamageKind::NoCaption);
/// # Ok::<(), data_pipeline::damage::UnknownDamage>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// A file that cannot be read.
    Unreadable,
    /// A sample without an image.
    NoImage,
    /// A sample without a caption.
    NoCaption,
    /// A sample of a classification set without a class.
    NoLabel,
    /// A text that is not UTF-8.
    NotUtf8,
    /// A row of a table with more fields than the header.
    ExtraFields,
    /// A class label outside the list of class names, or not a number.
    Label,
    /// Malformed annotations, such as object boxes.
    Annotations,
    /// An image file of 0 bytes.
    EmptyFile,
    /// A file in no known image format.
    NotAnImage,
    /// An image format that this build does not decode.
    FormatNotBuilt,
    /// An image format, or a variant of one, that is not supported.
    UnsupportedImage,
    /// A JPEG file that cannot be decoded.
    DamagedJpeg,
    /// A JPEG file that ends before its image does.
    TruncatedJpeg,
    /// A file of another image format that cannot be decoded.
    DamagedImage,
    /// An image with a side of 0 pixels.
    EmptyImage,
    /// An image with more pixels than [`crate::image::decode::MAX_PIXELS`].
    TooLarge,
    /// A file on which the decoder panicked.
    DecoderPanic,
}

impl DamageKind {
    const ALL: [DamageKind; 18] = [
        DamageKind::Unreadable,
        DamageKind::NoImage,
        DamageKind::NoCaption,
        DamageKind::NoLabel,
        DamageKind::NotUtf8,
        DamageKind::ExtraFields,
        DamageKind::Label,
        DamageKind::Annotations,
        DamageKind::EmptyFile,
        DamageKind::NotAnImage,
        DamageKind::FormatNotBuilt,
        DamageKind::UnsupportedImage,
        DamageKind::DamagedJpeg,
        DamageKind::TruncatedJpeg,
        DamageKind::DamagedImage,
        DamageKind::EmptyImage,
        DamageKind::TooLarge,
        DamageKind::DecoderPanic,
    ];

    /// Returns the name in counts and messages, such as `no caption`.
    pub fn as_str(self) -> &'static str {
        match self {
            DamageKind::Unreadable => "unreadable",
            DamageKind::NoImage => "no image",
            DamageKind::NoCaption => "no caption",
            DamageKind::NoLabel => "no label",
            DamageKind::NotUtf8 => "not UTF-8",
            DamageKind::ExtraFields => "extra fields",
            DamageKind::Label => "invalid label",
            DamageKind::Annotations => "boxes",
            DamageKind::EmptyFile => "empty file",
            DamageKind::NotAnImage => "not an image",
            DamageKind::FormatNotBuilt => "image format not built in",
            DamageKind::UnsupportedImage => "unsupported image format",
            DamageKind::DamagedJpeg => "damaged jpeg",
            DamageKind::TruncatedJpeg => "truncated jpeg",
            DamageKind::DamagedImage => "damaged image",
            DamageKind::EmptyImage => "empty image",
            DamageKind::TooLarge => "too large",
            DamageKind::DecoderPanic => "decoder panic",
        }
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that does not name a [`DamageKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of damage `{0}`")]
pub struct UnknownDamage(String);

impl FromStr for DamageKind {
    type Err = UnknownDamage;

    fn from_str(text: &str) -> Result<Self, UnknownDamage> {
        DamageKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownDamage(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_parse_back() {
        for kind in DamageKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("no such kind".parse::<DamageKind>().is_err());
    }
}
