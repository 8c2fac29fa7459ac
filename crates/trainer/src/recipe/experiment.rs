//! The two parts of a recipe: the experiment, which determines the result of a run, and the runtime, which does not.

use std::mem::replace;
use std::path::PathBuf;

use toml::{Table, Value};

use super::{Checkpoints, Data, DeviceSetting, Eval, Metrics, Recipe, Train};
use crate::{Error, Result};

/// Maximum number of characters of a value in a message.
const MAX_CHARACTERS: usize = 80;

/// The device in the identity of every experiment, whatever the setting. It is `cpu` because this was the setting's
/// first default, so that runs of that time keep their identities.
const IDENTITY_DEVICE: DeviceSetting = DeviceSetting::Cpu;

/// The settings of a recipe that do not affect the trained weights: machine, checkpoints, logs and evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// `data.root`.
    pub root: PathBuf,
    /// `data.workers`.
    pub workers: usize,
    /// `data.prefetch`.
    pub prefetch: usize,
    /// `train.threads`.
    pub threads: i32,
    /// `train.device`.
    pub device: DeviceSetting,
    /// `[checkpoint]`.
    pub checkpoint: Checkpoints,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[eval]`.
    pub eval: Eval,
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime {
            root: PathBuf::new(),
            workers: 0,
            prefetch: 0,
            threads: 0,
            device: DeviceSetting::default(),
            checkpoint: Checkpoints::default(),
            metrics: Metrics::default(),
            eval: Eval::default(),
        }
    }
}

/// The settings of a recipe that affect the trained weights. Two runs with equal experiments are the same run.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// The recipe with the default [`Runtime`].
    recipe: Recipe,
}

impl Recipe {
    /// Splits the recipe into its experiment and its runtime.
    pub fn split(mut self) -> (Experiment, Runtime) {
        // Every field is named, so that a new setting does not compile until it belongs to one of the parts.
        let Recipe {
            name: _,
            seed: _,
            student: _,
            teachers: _,
            cross_modal: _,
            data,
            losses: _,
            targets: _,
            optimizer: _,
            prune: _,
            train,
            checkpoint,
            metrics,
            eval,
        } = &mut self;
        let Data {
            root,
            train: _,
            augment: _,
            caption: _,
            variants: _,
            variants_seed: _,
            damaged: _,
            workers,
            prefetch,
        } = data;
        let Train {
            batch_size: _,
            accumulate: _,
            micro_batch: _,
            epochs: _,
            steps: _,
            warmup_steps: _,
            ema: _,
            grad_checkpointing: _,
            precision: _,
            threads,
            device,
        } = train;
        let default = Runtime::default();
        let runtime = Runtime {
            root: replace(root, default.root),
            workers: replace(workers, default.workers),
            prefetch: replace(prefetch, default.prefetch),
            threads: replace(threads, default.threads),
            device: replace(device, IDENTITY_DEVICE),
            checkpoint: replace(checkpoint, default.checkpoint),
            metrics: replace(metrics, default.metrics),
            eval: replace(eval, default.eval),
        };
        (Experiment { recipe: self }, runtime)
    }

    /// Returns the experiment of the recipe.
    pub fn experiment(&self) -> Experiment {
        self.clone().split().0
    }
}

impl Experiment {
    /// Returns the identity of the experiment: equal tables train equal weights.
    ///
    /// # Errors
    /// [`Error::Recipe`] if TOML cannot represent a number.
    pub fn identity(&self) -> Result<Table> {
        Table::try_from(&self.recipe).map_err(|e| Error::recipe(&self.recipe.name, e.to_string()))
    }

    /// Lists the settings that differ from an earlier experiment, as `key: new, was old`.
    ///
    /// # Errors
    /// The errors of [`Experiment::identity`].
    pub fn changes_since(&self, earlier: &Experiment) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let [old, new] = [earlier.identity()?, self.identity()?].map(Value::Table);
        compare(&mut found, "", Some(&old), Some(&new));
        Ok(found)
    }
}

/// Adds the differences of two values below `key` to `found`.
fn compare(found: &mut Vec<String>, key: &str, old: Option<&Value>, new: Option<&Value>) {
    if old == new {
        return;
    }
    let table = |value: Option<&Value>| value.map_or_else(|| Some(Table::new()), |v| v.as_table().cloned());
    match (old, new, table(old), table(new)) {
        // A table that only one recipe has is also listed key by key.
        (_, _, Some(old), Some(new)) => {
            let keys = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key)));
            for name in keys {
                let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                compare(found, &inner, old.get(name), new.get(name));
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new)), ..) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(found, &format!("{key}[{index}]"), Some(old), Some(new));
            }
        }
        _ => {
            let shown = |value: Option<&Value>| value.map_or_else(|| "not set".into(), short);
            found.push(format!("{key}: {}, was {}", shown(new), shown(old)));
        }
    }
}

/// Formats a value on one line, truncated if long.
fn short(value: &Value) -> String {
    let text = value.to_string().replace('\n', " ");
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Recipe, parse};

    fn recipe(settings: &[&str]) -> Recipe {
        let text = "name = 'r'\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1.0\n\
                    train = { batch_size = 8, steps = 3 }\ndata.train = [{ source = 'emoji' }]";
        let settings = settings.iter().map(ToString::to_string).collect::<Vec<_>>();
        parse(text, &settings, "test").unwrap().runs.remove(0)
    }

    #[test]
    fn runtime_settings_do_not_change_the_experiment() {
        let plain = recipe(&[]).experiment();
        let machine = ["train.device=cuda:1", "train.threads=3", "data.workers=5", "checkpoint.keep=9"];
        assert_eq!(recipe(&machine).experiment(), plain);
        assert_eq!(
            recipe(&["data.root=elsewhere", "metrics.every_steps=1", "eval.every_steps=1"]).experiment(),
            plain
        );
        let changed = recipe(&["seed=4", "train.steps=5"]).experiment();
        assert_eq!(changed.changes_since(&plain).unwrap(), ["seed: 4, was 0", "train.steps: 5, was 3"]);
        assert_eq!(recipe(&machine).split().1.threads, 3);
    }
}
