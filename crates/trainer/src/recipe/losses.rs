//! The `losses` of a recipe: a number, or a table for a term with more settings than its weight.

use std::path::PathBuf;

use data_pipeline::notice;
use kd_losses::{Curve, Loss, Term, WeightSchedule};
use serde::{Deserialize, Serialize};
use zeroshot_eval::names::repeated;

use super::Templates;
use crate::{Error, Result};

/// Fraction of patches that CLIP-KD masks in masked feature distillation.
const MASKED_SHARE: f64 = 0.75;
/// Default number of anchors.
pub(super) const ANCHORS: usize = 1024;
/// Default number of blocks of each tower that `hidden` compares; fewer if a tower has fewer.
const LAYERS: usize = 3;
/// Maximum number of duplicate names that a warning lists.
const NAMED: usize = 5;

/// One entry of `losses`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// The weight at the first step.
    pub weight: f64,
    /// How the weight changes over the run.
    #[serde(default)]
    pub schedule: Curve,
    /// The weight at the end of a schedule that is not constant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub end: f64,
    /// First step with a nonzero weight.
    #[serde(default = "start", skip_serializing_if = "is_start")]
    pub from: When,
    /// End of the schedule; default: the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    /// Temperatures, for losses that use them; if empty, the loss's defaults.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        alias = "temperature",
        deserialize_with = "one_or_many"
    )]
    pub temperatures: Vec<f64>,
    /// `mfd`: fraction of the patches that are masked for the student.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<f64>,
    /// `anchors`, `anchors-within`, `anchors-across`: number of pairs in the bank, which they share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// `hidden`: number of blocks of each tower to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// `hinton`, `vocabulary`: the class list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// `hinton`, `vocabulary`: templates for the class names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Templates>,
    /// `hinton`, `vocabulary`: number of classes that a step draws from the list; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_per_step: Option<usize>,
}

/// A point in a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum When {
    /// A number of steps.
    Step(u64),
    /// A fraction of the run, 0..=1, written with a decimal point.
    Share(f64),
}

/// A class list: names, or their file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`classes` is neither a list of names nor the path of a file with one per line"
)]
pub enum Classes {
    /// The names.
    Listed(Vec<String>),
    /// A text file with one name per line.
    File(PathBuf),
}

impl When {
    fn step(self, steps: u64) -> u64 {
        match self {
            When::Step(step) => step,
            When::Share(share) => (share * steps as f64).round() as u64,
        }
    }
}

impl LossConfig {
    /// A constant weight.
    pub fn new(weight: f64) -> Self {
        LossConfig {
            weight,
            schedule: Curve::Constant,
            end: 0.0,
            from: When::Step(0),
            until: None,
            temperatures: Vec::new(),
            masked: None,
            count: None,
            layers: None,
            classes: None,
            prompts: None,
            classes_per_step: None,
        }
    }

    /// Whether the term ever has a weight.
    pub fn is_on(&self) -> bool {
        self.weight != 0.0 || (self.schedule != Curve::Constant && self.end != 0.0)
    }

    /// Returns the term for a run of `steps` steps.
    pub fn term(&self, loss: Loss, steps: u64) -> Term {
        let until = match (self.until, self.schedule) {
            (Some(when), _) => when.step(steps),
            (None, Curve::Constant) => u64::MAX,
            (None, _) => steps,
        };
        let end = if self.schedule == Curve::Constant { self.weight } else { self.end };
        let weight = WeightSchedule {
            shape: self.schedule,
            start: self.weight,
            end,
            from: self.from.step(steps),
            until,
        };
        Term { loss, weight, temperatures: self.temperatures.clone() }
    }

    /// Fraction of masked patches.
    pub fn masked_share(&self) -> f64 {
        self.masked.unwrap_or(MASKED_SHARE)
    }

    /// Number of blocks of each tower to compare.
    pub fn layer_count(&self) -> usize {
        self.layers.unwrap_or(LAYERS)
    }

    /// Returns the reason why the settings are invalid, if they are.
    pub fn problem(&self, loss: Loss) -> Option<String> {
        let only = |given: bool, owner: Loss, key: &str| {
            (given && loss != owner).then(|| format!("`{key}` belongs to `{}`", owner.name()))
        };
        let of_lists = |given: bool, key: &str| {
            (given && !loss.reads_classes()).then(|| format!("`{key}` belongs to `hinton` and `vocabulary`"))
        };
        let of_banks = |given: bool, key: &str| {
            (given && !loss.reads_anchors()).then(|| format!("`{key}` belongs to `anchors` and its parts"))
        };
        let share = |when: When| matches!(when, When::Share(share) if !(0.0..=1.0).contains(&share));
        if [Some(self.from), self.until].into_iter().flatten().any(share) {
            return Some(
                "a fraction of the run is between 0.0 and 1.0; write steps without a decimal point".into(),
            );
        }
        if self.schedule == Curve::Constant && self.end != 0.0 {
            return Some("`end` needs schedule = \"linear\" or \"cosine\"".into());
        }
        if self.masked.is_some_and(|share| !(share > 0.0 && share < 1.0)) {
            return Some(format!("masked = {} is not between 0 and 1", self.masked_share()));
        }
        for (key, number, least) in [
            ("count", self.count, 1),
            ("layers", self.layers, 1),
            ("classes_per_step", self.classes_per_step, 2),
        ] {
            if let Some(number) = number.filter(|number| *number < least) {
                return Some(format!(
                    "{key} = {number} is too small to compare anything: set at least {least}"
                ));
            }
        }
        if loss.reads_classes() && self.classes.is_none() {
            return Some("it needs `classes`: names, or a file with one name per line".into());
        }
        if let Some(Err(error)) = self.prompts.as_ref().map(Templates::texts) {
            return Some(format!("prompts: {error}"));
        }
        if let Some(Classes::Listed(names)) = self.classes.as_ref().filter(|_| loss.reads_classes())
            && let Some(reason) = problem_of(names).or_else(|| equal_names(names))
        {
            return Some(reason);
        }
        only(self.masked.is_some(), Loss::Mfd, "masked")
            .or_else(|| of_banks(self.count.is_some(), "count"))
            .or_else(|| only(self.layers.is_some(), Loss::Hidden, "layers"))
            .or_else(|| of_lists(self.classes.is_some(), "classes"))
            .or_else(|| of_lists(self.prompts.is_some(), "prompts"))
            .or_else(|| of_lists(self.classes_per_step.is_some(), "classes_per_step"))
    }
}

impl Classes {
    /// Returns the names; a relative path starts at `root`. A warning lists duplicates: in an evaluation the first one
    /// wins.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Data`] if it is not UTF-8, [`Error::Recipe`] for fewer than
    /// two names or an empty one.
    pub fn names(&self, root: &std::path::Path) -> Result<Vec<String>> {
        let names = self.read(root)?;
        if let Some(reason) = problem_of(&names) {
            return Err(Error::recipe(self.origin(root), reason));
        }
        let equal = repeated(&names);
        if !equal.is_empty() {
            let more = if equal.len() > NAMED { ", ..." } else { "" };
            notice::warn_once(&format!(
                "`{}`: classes with equal names, which a model cannot tell apart: `{}`{more}; in an evaluation the first one wins",
                self.origin(root),
                equal[..equal.len().min(NAMED)].join("`, `")
            ));
        }
        Ok(names)
    }

    /// Returns the class names for a loss, which must all differ; a relative path starts at `root`.
    ///
    /// # Errors
    /// The errors of [`Classes::names`], and [`Error::Recipe`] for a duplicate name.
    pub fn distinct_names(&self, root: &std::path::Path) -> Result<Vec<String>> {
        let names = self.read(root)?;
        match problem_of(&names).or_else(|| equal_names(&names)) {
            Some(reason) => Err(Error::recipe(self.origin(root), reason)),
            None => Ok(names),
        }
    }

    /// The origin of the names, for messages.
    fn origin(&self, root: &std::path::Path) -> String {
        match self {
            Classes::Listed(_) => "classes".to_string(),
            Classes::File(file) => root.join(file).display().to_string(),
        }
    }

    fn read(&self, root: &std::path::Path) -> Result<Vec<String>> {
        Ok(match self {
            Classes::Listed(names) => names.clone(),
            Classes::File(file) => {
                let text = crate::text::read(&root.join(file))?;
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
            }
        })
    }
}

/// Returns the reason why the names are not a class list, if any.
fn problem_of(names: &[String]) -> Option<String> {
    (names.len() < 2 || names.iter().any(|name| name.trim().is_empty()))
        .then(|| "a class list needs at least two names, none of them empty".to_string())
}

/// Returns the reason why a loss cannot use the names, if any: no text tower can tell equal classes apart.
fn equal_names(names: &[String]) -> Option<String> {
    repeated(names).first().map(|twice| {
        format!(
            "the class `{twice}` is there twice (case and spaces make no difference), and `hinton` and `vocabulary` \
             need classes that differ: remove one of the two, or give it a name that tells them apart"
        )
    })
}

/// The `losses` table: numbers, or tables.
pub(super) mod written {
    use std::collections::BTreeMap;

    use kd_losses::Loss;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    use super::LossConfig;

    pub(in crate::recipe) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<Loss, LossConfig>, D::Error> {
        let read = |(loss, value): (Loss, toml::Value)| {
            let config = match value {
                toml::Value::Float(weight) => LossConfig::new(weight),
                toml::Value::Integer(weight) => LossConfig::new(weight as f64),
                table => table.try_into().map_err(|e: toml::de::Error| {
                    de::Error::custom(format!("{}: {}", loss.name(), e.message()))
                })?,
            };
            Ok((loss, config))
        };
        BTreeMap::<Loss, toml::Value>::deserialize(from)?.into_iter().map(read).collect()
    }

    pub(in crate::recipe) fn serialize<S: Serializer>(
        losses: &BTreeMap<Loss, LossConfig>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let write = |(loss, config): (&Loss, &LossConfig)| {
            let value = match *config == LossConfig::new(config.weight) {
                true => toml::Value::Float(config.weight),
                false => toml::Value::try_from(config).map_err(ser::Error::custom)?,
            };
            Ok((*loss, value))
        };
        losses.iter().map(write).collect::<Result<BTreeMap<_, _>, _>>()?.serialize(to)
    }
}

fn start() -> When {
    When::Step(0)
}

fn is_start(when: &When) -> bool {
    *when == start()
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// A single temperature needs no brackets.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(f64),
        Many(Vec<f64>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(value) => vec![value],
        Either::Many(values) => values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Recipe, parse};

    fn recipe(losses: &str) -> Result<Recipe> {
        let text = format!(
            "name = 'test'\nstudent.model = 'ViT-nano-32px'\nteacher.model = 'x'\nlosses = {{ {losses} }}\n\
             train = {{ batch_size = 8, steps = 100 }}\ndata.train = [{{ source = 'emoji' }}]"
        );
        Ok(parse(&text, &[], "test")?.runs.remove(0))
    }

    #[test]
    fn numbers_and_tables_go_in_and_out() {
        let recipe = recipe(
            "task = 1, fd = { weight = 0.0, schedule = 'cosine', end = 2000.0, until = 0.5 }, \
             gram = { weight = 1.0, temperatures = [0.1, 1.0] }, hinton = { weight = 2.0, temperature = 3.0, classes = ['a', 'b'] }, \
             icl = { weight = 1.0, until = 40 }, crd = 0",
        )
        .unwrap();
        let again: Recipe = toml::from_str(&recipe.to_toml().unwrap()).unwrap();
        assert_eq!(again, recipe);
        let terms = recipe.terms(100);
        assert_eq!(terms.len(), 5, "a weight of 0 leaves the term out");
        let find = |loss| terms.iter().find(|term| term.loss == loss).unwrap();
        assert_eq!(
            [0, 25, 50, 99].map(|step| find(Loss::Fd).weight.at(step).round()),
            [0.0, 1000.0, 2000.0, 2000.0]
        );
        assert_eq!([39, 40].map(|step| find(Loss::Icl).weight.at(step)), [1.0, 0.0]);
        assert_eq!(find(Loss::Gram).temperatures(), [0.1, 1.0]);
        assert_eq!(find(Loss::Hinton).temperatures(), [3.0]);
    }

    #[test]
    fn one_bank_is_as_large_as_the_losses_say() {
        let count = |losses: &str| recipe(losses).unwrap().anchor_count();
        assert_eq!(
            (count("crd = 1"), count("anchors = 1"), count("anchors = 0, crd = 1")),
            (None, Some(ANCHORS), None)
        );
        let small = "anchors-within = { weight = 1.0, count = 16 }, anchors-across = 1";
        assert_eq!(count(small), Some(16), "one that names no number asks for none");
        assert_eq!(count(&format!("{small}, anchors = {{ weight = 1.0, count = 32 }}")), Some(32));
    }

    #[test]
    fn a_gap_between_losses_is_found_with_the_steps_that_there_are() {
        let losses = "task = { weight = 1.0, until = 0.5 }, fd = { weight = 1.0, from = 50 }";
        let mut recipe = recipe(losses).unwrap();
        (recipe.train.steps, recipe.train.epochs) = (None, Some(1.0));
        recipe.validate("test").unwrap();
        assert!(recipe.check_terms(100, "test").is_ok());
        let error = recipe.check_terms(60, "test").unwrap_err().to_string();
        assert!(error.contains("at step 30"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (losses, part) in [
            ("fd = { weight = 1.0, end = 2.0 }", "schedule"),
            ("fd = { weight = 1.0, masked = 0.5 }", "`masked` belongs to `mfd`"),
            ("mfd = { weight = 1.0, masked = 1.5 }", "masked"),
            ("fd = { weight = 1.0, layers = 2 }", "`layers` belongs to `hidden`"),
            ("hidden = { weight = 1.0, layers = 0 }", "layers = 0"),
            ("fd = { weight = 1.0, until = 1.5 }", "between 0.0 and 1.0"),
            ("fd = { weight = 1.0, temperature = 1.0 }", "no temperature"),
            ("hinton = 1.0", "classes"),
            ("vocabulary = 1.0", "classes"),
            ("crd = { weight = 1.0, classes = ['a', 'b'] }", "`hinton` and `vocabulary`"),
            (
                "hinton = { weight = 1.0, classes = ['a', 'b'] }, vocabulary = { weight = 1.0, classes = ['a', 'c'] }",
                "leave one out",
            ),
            ("hinton = { weight = 1.0, classes = ['a', 'b'], classes_per_step = 1 }", "classes_per_step = 1"),
            ("fd = { weight = 1.0, until = 10 }", "step 10"),
            ("fd = { weight = 1.0, from = 10 }", "step 0"),
            ("fd = { wieght = 1.0 }", "wieght"),
            ("fd = 'much'", "fd"),
        ] {
            let error = recipe(losses).unwrap_err().to_string();
            assert!(error.contains(part), "{losses}: {error}");
        }
        let names = |names: &[&str]| Classes::Listed(names.iter().map(|n| n.to_string()).collect());
        assert!(names(&["a", "b"]).distinct_names(".".as_ref()).is_ok());
        for twice in [["a", "a"], ["a", "A"], ["a b", " a  b"]] {
            let error = names(&twice).distinct_names(".".as_ref()).unwrap_err().to_string();
            assert!(error.contains(&format!("`{}`", twice[0])) && error.contains("remove"), "{error}");
            // An evaluation accepts duplicates.
            assert_eq!(names(&twice).names(".".as_ref()).unwrap(), twice);
        }
        assert!(names(&["a", " "]).names(".".as_ref()).is_err());
        assert!(names(&["a"]).names(".".as_ref()).is_err());
        assert!(Classes::File("missing.txt".into()).names(".".as_ref()).is_err());
    }
}
