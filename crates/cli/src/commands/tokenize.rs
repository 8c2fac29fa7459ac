//! `clip-distill tokenize`: token ids of lines of text.

use std::io::BufRead;

use anyhow::Context;
use data_pipeline::text::{self, Encoding, NotUtf8};
use data_pipeline::tokenizer::{
    ClipTokenizer, END_OF_TEXT, JsonTokenizer, START_OF_TEXT, Tokenizer, check_context,
};
use serde_json::json;

use crate::args::Tokenize;
use crate::exit::Code;
use crate::output;

pub(crate) fn run(args: Tokenize) -> anyhow::Result<Code> {
    args.context.map(check_context).transpose()?;
    let other = args.tokenizer.as_deref().map(JsonTokenizer::open).transpose()?;
    let mut input = std::io::stdin().lock();
    let (mut line, mut number) = (Vec::new(), 0);
    while input.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = decode(line.trim_ascii_end(), number).context("standard input")?;
        let ids = match (&other, args.context) {
            (None, None) => {
                let ids = ClipTokenizer::new().encode(text).into_iter().map(i64::from);
                std::iter::once(START_OF_TEXT).chain(ids).chain([END_OF_TEXT]).collect()
            }
            (None, Some(context)) => row(&ClipTokenizer::new(), text, context),
            (Some(tokenizer), context) => row(tokenizer, text, context.unwrap_or(77)),
        };
        match args.output.json {
            true => output::json(&json!({ "text": text, "ids": ids }))?,
            false => output::text(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))?,
        }
        line.clear();
    }
    Ok(Code::Done)
}

/// Decodes a line. The first line may start with a byte order mark.
fn decode(line: &[u8], number: usize) -> Result<&str, NotUtf8> {
    if number == 1 {
        return text::decode(line);
    }
    std::str::from_utf8(line).map_err(|_| NotUtf8 {
        line: number,
        likely: text::decode(line).err().map_or(Encoding::Unknown, |problem| problem.likely),
    })
}

fn row(tokenizer: &dyn Tokenizer, text: &str, context: usize) -> Vec<i64> {
    let mut row = vec![0; context];
    tokenizer.encode_into(text, &mut row);
    row
}
