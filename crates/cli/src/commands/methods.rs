//! `clip-distill methods`: the list of methods and losses.

use kd_losses::Loss;
use serde_json::json;
use trainer::methods::METHODS;

use crate::args::Methods;
use crate::exit::Code;
use crate::output;

pub(crate) fn run(args: Methods) -> anyhow::Result<Code> {
    if args.output.json {
        let methods = METHODS.iter().map(|method| {
            json!({ "name": method.name, "what": method.what, "recipe": method.recipe, "source": method.source })
        });
        let losses = Loss::all().map(|loss| {
            json!({
                "name": loss.name(), "what": loss.summary(), "source": loss.source(),
                "needs_teacher": loss.needs_teacher(), "temperatures": loss.default_temperatures(),
            })
        });
        output::json(
            &json!({ "methods": methods.collect::<Vec<_>>(), "losses": losses.collect::<Vec<_>>() }),
        )?;
        return Ok(Code::Done);
    }
    let mut text = String::from("Methods (recipes in configs/recipes)\n");
    for method in METHODS {
        text.push_str(&format!(
            "  {:20} {} ({})\n  {:20}   {}\n",
            method.name, method.what, method.source, "", method.recipe
        ));
    }
    text.push_str("\nLosses (losses.NAME = WEIGHT; docs/recipes.md lists those that cannot be combined)\n");
    for loss in Loss::all() {
        text.push_str(&format!("  {:20} {} ({})\n", loss.name(), loss.summary(), loss.source()));
    }
    output::text(text)?;
    Ok(Code::Done)
}
