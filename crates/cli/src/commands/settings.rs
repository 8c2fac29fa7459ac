//! `clip-distill settings`: the reference of all settings.

use std::fs;

use anyhow::{Context, bail};
use experiments::settings::{self, FileKind};

use crate::args::{FileType, Settings};
use crate::exit::Code;
use crate::output;

pub(crate) fn run(args: Settings) -> anyhow::Result<Code> {
    let kind = args.kind.map(|kind| match kind {
        FileType::Recipe => FileKind::Recipe,
        FileType::Sweep => FileKind::Sweep,
        FileType::Suite => FileKind::Suite,
    });
    if let Some(kind) = kind.filter(|_| args.json_schema) {
        output::text(serde_json::to_string_pretty(&settings::json_schema(kind))?)?;
        return Ok(Code::Done);
    }
    let kinds = kind.map_or(FileKind::ALL.to_vec(), |kind| vec![kind]);
    let Some(path) = args.check.as_ref().or(args.write.as_ref()) else {
        output::text(settings::markdown(&kinds))?;
        return Ok(Code::Done);
    };
    let name = path.display();
    let page = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
    let updated = settings::update_page(&page, &kinds).with_context(|| format!("`{name}`"))?;
    if updated == page {
        return Ok(Code::Done);
    }
    if args.check.is_some() {
        let lines = page.lines().zip(updated.lines()).take_while(|(old, new)| old == new).count() + 1;
        bail!("`{name}` is out of date from line {lines}: run `clip-distill settings --write {name}`");
    }
    file_ext::write_atomic(path, updated.as_bytes())?;
    Ok(Code::Done)
}
