//! Errors of recipes, sweeps and suites in the words of their documentation: place, key, what was found and what is
//! expected.
//!
//! The parser's errors are in the words of Rust. If a file does not fit its type, [`Places::read`] therefore compares it
//! with the type's schema and describes the first difference. Only errors that this project wrote are used as they are.

mod difference;
mod names;
mod places;
#[cfg(test)]
mod tests;
mod words;

use serde::de::DeserializeOwned;
use serde_json::Value as Schema;
use toml::{Table, Value};

pub(crate) use names::did_you_mean;
pub use places::{Places, Step};

impl Places {
    /// Reads the settings whose places these are. `schema` is the JSON schema of the type.
    ///
    /// # Errors
    /// The place, the key, what was found and what is expected.
    pub fn read<T: DeserializeOwned>(
        &self,
        table: Table,
        schema: impl FnOnce() -> Schema,
    ) -> Result<T, String> {
        let value = Value::Table(table);
        let error = match value.clone().try_into::<T>() {
            Ok(read) => return Ok(read),
            Err(error) => words::Message::of(&error),
        };
        if error.is_own() {
            let key = places::written(&error.path);
            let names_it = error.text.starts_with('[') || error.text.starts_with(&key);
            let reason = if names_it { error.text } else { format!("{key}: {}", error.text) };
            let located = self.locate(&reason);
            return Err(if located == reason { self.at(&error.path, &reason) } else { located });
        }
        Err(match difference::first(&schema(), &value) {
            Some(found) => self.at(&found.path, &found.text),
            None => self.at(&error.path, &error.translated()),
        })
    }
}
