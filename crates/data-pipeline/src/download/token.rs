//! Access tokens, which messages never show.

use std::fmt;

use crate::{Error, Result};

/// A bearer token. Its `Debug` output hides it.
///
/// ```
/// use data_pipeline::download::Token;
/// let token = Token::new("hf_secret")?;
/// assert_eq!(format!("{token:?}"), "Token(hidden)");
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Creates a token from the text of a variable or file.
    ///
    /// # Errors
    /// [`Error::Setting`] if the text is empty or has characters that tokens cannot have.
    pub fn new(token: impl Into<String>) -> Result<Self> {
        let token = token.into();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "the access token is empty, or has spaces or other invalid characters";
            return Err(Error::setting("token", reason));
        }
        Ok(Token(token))
    }

    /// Returns the value of the header `Authorization`.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}
