//! The reference of all settings of recipes, sweeps and suites, generated from their types: tables and JSON schemas.
//!
//! Descriptions are the doc comments of the fields; defaults and types are those of their schemas.

mod page;
pub(crate) mod schema;
mod tables;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use page::update_page;
pub(crate) use schema::RecipeSettings;

/// A kind of file that users write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A recipe: one or more training runs.
    Recipe,
    /// A sweep: a comparison of runs.
    Sweep,
    /// A suite: data sets for the evaluation of a model.
    Suite,
}

impl FileKind {
    /// All kinds, in the order of the reference.
    pub const ALL: [FileKind; 3] = [FileKind::Recipe, FileKind::Sweep, FileKind::Suite];

    fn parts(self) -> &'static [Part] {
        match self {
            FileKind::Recipe => &[Part::Recipe, Part::Losses, Part::Sources, Part::Sets],
            FileKind::Sweep => &[Part::Sweep],
            FileKind::Suite => &[Part::Suite, Part::Sets, Part::Sources],
        }
    }
}

/// A part of the reference, which a page shows in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Recipe,
    Losses,
    Sources,
    Sets,
    Sweep,
    Suite,
}

impl Part {
    /// The name in the marker comments of a page.
    fn name(self) -> &'static str {
        match self {
            Part::Recipe => "recipe",
            Part::Losses => "losses",
            Part::Sources => "sources",
            Part::Sets => "sets",
            Part::Sweep => "sweep",
            Part::Suite => "suite",
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Part::Recipe => "Recipe",
            Part::Losses => "Losses",
            Part::Sources => "Sources",
            Part::Sets => "Evaluation sets",
            Part::Sweep => "Sweep",
            Part::Suite => "Suite",
        }
    }

    /// Returns the tables of the part.
    fn tables(self) -> String {
        match self {
            Part::Recipe => tables::of_file(&schema::recipe()),
            Part::Losses => tables::of_losses(&schema::recipe()),
            Part::Sources => tables::of_sources(&schema::recipe()),
            Part::Sets => tables::of_sets(&schema::recipe()),
            Part::Sweep => tables::of_file(&schema::sweep()),
            Part::Suite => tables::of_file(&schema::suite()),
        }
    }
}

/// Returns the parts of some kinds of files, each once.
fn parts(kinds: &[FileKind]) -> Vec<Part> {
    let mut parts = Vec::new();
    for part in kinds.iter().flat_map(|kind| kind.parts()) {
        if !parts.contains(part) {
            parts.push(*part);
        }
    }
    parts
}

/// Returns the reference of some kinds of files as Markdown.
pub fn markdown(kinds: &[FileKind]) -> String {
    let sections = parts(kinds).into_iter().map(|part| format!("## {}\n\n{}", part.heading(), part.tables()));
    sections.collect::<Vec<_>>().join("\n")
}

/// Returns the JSON schema of a kind of file, with which editors complete and check settings.
pub fn json_schema(kind: FileKind) -> Value {
    match kind {
        FileKind::Recipe => schema::recipe_file(),
        FileKind::Sweep => schema::sweep_file(),
        FileKind::Suite => schema::suite(),
    }
}
