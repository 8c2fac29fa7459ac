//! The generated parts of a Markdown page, between marker comments.

use super::{FileKind, Part, parts};
use crate::{Error, Result};

const END: &str = "<!-- end of settings -->";

impl Part {
    fn start(self) -> String {
        format!("<!-- settings: {} -->", self.name())
    }
}

/// Returns a Markdown page with its generated parts replaced by the present ones. Text around them stays.
///
/// A part is the text between the lines `<!-- settings: NAME -->` and `<!-- end of settings -->`.
///
/// # Errors
/// [`Error::Reference`] if the page lacks a part of these kinds of files, or the end of one.
pub fn update_page(page: &str, kinds: &[FileKind]) -> Result<String> {
    parts(kinds).into_iter().try_fold(page.to_string(), replace)
}

fn replace(page: String, part: Part) -> Result<String> {
    let start = part.start();
    let missing = |line: &str| Error::Reference {
        reason: format!("the part `{}` has no line `{line}`: add `{start}` and `{END}`", part.name()),
    };
    let (before, rest) = page.split_once(&start).ok_or_else(|| missing(&start))?;
    let (old, after) = rest.split_once(END).ok_or_else(|| missing(END))?;
    if old.contains("<!-- settings: ") || after.contains(&start) {
        return Err(missing(END));
    }
    Ok(format!("{before}{start}\n\n{}\n{END}{after}", part.tables()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "before\n<!-- settings: sweep -->\nold\n<!-- end of settings -->\nafter\n";

    #[test]
    fn only_the_generated_part_changes() {
        let page = update_page(PAGE, &[FileKind::Sweep]).unwrap();
        assert!(
            page.starts_with("before\n<!-- settings: sweep -->\n\n")
                && page.ends_with("settings -->\nafter\n")
        );
        assert!(page.contains("| `baseline` |") && !page.contains("old"), "{page}");
        assert_eq!(update_page(&page, &[FileKind::Sweep]).unwrap(), page);
    }

    #[test]
    fn a_missing_marker_is_named() {
        for (page, line) in [
            ("", "<!-- settings: sweep -->"),
            ("<!-- settings: sweep -->", END),
            ("<!-- settings: sweep -->\n<!-- settings: suite -->\n<!-- end of settings -->", END),
        ] {
            let error = update_page(page, &[FileKind::Sweep]).unwrap_err().to_string();
            assert!(error.contains("`sweep`") && error.contains(line), "{error}");
        }
    }
}
