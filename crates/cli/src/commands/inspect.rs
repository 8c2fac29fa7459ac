//! `clip-distill inspect`: size, cost and configuration of models.

use clip_model::{ClipConfig, presets};
use serde_json::json;
use trainer::model::loaded;
use trainer::run::plan::ModelCost;

use crate::args::Inspect;
use crate::exit::Code;
use crate::output;

pub(crate) fn run(args: Inspect) -> anyhow::Result<Code> {
    let named = match &args.model {
        Some(name) => vec![(name.clone(), loaded::config(name)?)],
        None => presets::names()
            .map(|name| Ok((name.to_string(), presets::get(name)?)))
            .collect::<clip_model::Result<_>>()?,
    };
    if args.output.json {
        let entries = named
            .iter()
            .map(|(name, config)| Ok(json!({ "cost": ModelCost::new(name, config)?, "config": config })));
        let entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
        match (&args.model, entries.first()) {
            (Some(_), Some(entry)) => output::json(entry)?,
            _ => output::json(&entries)?,
        }
        return Ok(Code::Done);
    }
    output::text(table(&named)?)?;
    if let (Some(_), Some((_, config))) = (&args.model, named.first()) {
        output::text(serde_json::to_string_pretty(config)?)?;
    }
    Ok(Code::Done)
}

fn table(named: &[(String, ClipConfig)]) -> anyhow::Result<String> {
    let mut text = format!(
        "{:<32} {:>8} {:>14} {:>13} {:>13} {:>12}\n",
        "model", "embed", "image params", "text params", "image MACs", "text MACs"
    );
    for (name, config) in named {
        let cost = ModelCost::new(name, config)?;
        text.push_str(&format!(
            "{:<32} {:>8} {:>12.2} M {:>11.2} M {:>11.3} G {:>10.3} G\n",
            name,
            config.embed_dim,
            cost.image_parameters as f64 / 1e6,
            cost.text_parameters as f64 / 1e6,
            cost.image_macs as f64 / 1e9,
            cost.text_macs as f64 / 1e9
        ));
    }
    Ok(text)
}
