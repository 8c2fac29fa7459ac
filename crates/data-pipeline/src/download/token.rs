//! Who asks a server: a secret that goes to it and into no message.

use std::fmt;

use crate::{Error, Result};

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as it is written in a variable or file.
    ///
    /// # Errors
    /// [`Error::Config`] where it has characters that no token has.
    pub fn new(token: impl Into<String>) -> Result<Self> {
        let token = token.into();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Config(
                "the access token has spaces or other characters that no token has".into(),
            ));
        }
        Ok(Token(token))
    }

    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}
