//! The `losses` of a recipe: a number, or a table for a term with more settings than its weight.

use kd_losses::{Error as LossError, HiddenSettings, Loss, LossSettings, MfdSettings, Term, WeightSettings};
use toml::Table;

use super::classes::{Classes, check_distinct, check_names};
use super::faults::did_you_mean;
use super::{Templates, take};

pub use kd_losses::When;

/// Settings of a class list, which losses that read one have in addition to those of [`LossSettings`].
const CLASS_KEYS: [&str; 2] = ["classes", "prompts"];

/// One entry of `losses`.
#[derive(Clone, Debug, PartialEq)]
pub struct LossConfig {
    /// The weight over the run.
    pub weight: WeightSettings,
    /// The loss's own settings.
    pub settings: LossSettings,
    /// `hinton`, `vocabulary`: the class list.
    pub classes: Option<Classes>,
    /// `hinton`, `vocabulary`: templates for the class names.
    pub prompts: Option<Templates>,
}

impl LossConfig {
    /// Creates an entry with a constant weight and the loss's default settings.
    pub fn new(loss: Loss, weight: f64) -> Self {
        LossConfig {
            weight: WeightSettings::constant(weight),
            settings: loss.default_settings(),
            classes: None,
            prompts: None,
        }
    }

    /// Reads the table of a loss. The message of an error does not name the loss.
    fn from_table(loss: Loss, mut table: Table) -> Result<Self, String> {
        let text = |e: toml::de::Error| e.message().to_string();
        let mut weight = Table::new();
        for key in WeightSettings::KEYS {
            weight.extend(table.remove(key).map(|value| (key.to_string(), value)));
        }
        let (mut classes, mut prompts) = (None, None);
        if loss.reads_classes() {
            classes = take(&mut table, "classes").map_err(text)?;
            prompts = take(&mut table, "prompts").map_err(text)?;
        }
        for key in table.keys() {
            if CLASS_KEYS.contains(&key.as_str()) {
                return Err(format!(
                    "`{key}` belongs to `hinton` and `vocabulary`; `{loss}` has no such setting"
                ));
            }
            loss.check_setting(key).map_err(|error| match error {
                LossError::UnknownSetting { owners, .. } if owners.is_empty() => {
                    format!("unknown setting `{key}`; {}", did_you_mean(key, &valid_keys(loss)))
                }
                error => error.to_string(),
            })?;
        }
        Ok(LossConfig {
            weight: weight.try_into().map_err(text)?,
            settings: loss.read_settings(toml::Value::Table(table)).map_err(text)?,
            classes,
            prompts,
        })
    }

    fn to_table(&self) -> Result<Table, toml::ser::Error> {
        let mut table = Table::try_from(self.weight)?;
        let mut settings = Table::try_from(&self.settings)?;
        // The class list precedes the number of classes that a step draws.
        let per_step = settings.remove("classes_per_step");
        table.extend(settings);
        if let Some(classes) = &self.classes {
            table.insert("classes".into(), toml::Value::try_from(classes)?);
        }
        if let Some(prompts) = &self.prompts {
            table.insert("prompts".into(), toml::Value::try_from(prompts)?);
        }
        table.extend(per_step.map(|value| ("classes_per_step".to_string(), value)));
        Ok(table)
    }

    /// Whether the weight is above 0 at some step.
    pub fn is_on(&self) -> bool {
        self.weight.is_on()
    }

    /// Returns the term for a run of `steps` steps.
    pub fn term(&self, loss: Loss, steps: u64) -> Term {
        let weight = self.weight.schedule(steps);
        Term::new(loss, weight.start).with_schedule(weight).with_settings(self.settings.clone())
    }

    /// Returns the settings of `mfd`.
    pub fn mfd(&self) -> Option<&MfdSettings> {
        match &self.settings {
            LossSettings::Mfd(settings) => Some(settings),
            _ => None,
        }
    }

    /// Returns the settings of `hidden`.
    pub fn hidden(&self) -> Option<&HiddenSettings> {
        match &self.settings {
            LossSettings::Hidden(settings) => Some(settings),
            _ => None,
        }
    }

    /// Returns the number of classes that a step draws from the list; `None` draws all.
    pub fn classes_per_step(&self) -> Option<usize> {
        match &self.settings {
            LossSettings::Hinton(settings) => settings.classes_per_step,
            LossSettings::Vocabulary(settings) => settings.classes_per_step,
            _ => None,
        }
    }

    /// Checks the settings of an entry with a nonzero weight.
    ///
    /// # Errors
    /// The invalid setting, and the reason.
    pub(super) fn validate(&self, loss: Loss) -> Result<(), String> {
        self.weight.validate().and_then(|()| self.settings.validate()).map_err(|error| error.to_string())?;
        if loss.reads_classes() && self.classes.is_none() {
            return Err("it needs `classes`: names, or a file with one name per line".into());
        }
        if let Some(prompts) = &self.prompts {
            prompts.texts().map_err(|error| format!("prompts: {error}"))?;
        }
        match &self.classes {
            Some(Classes::Listed(names)) => check_names(names).and_then(|()| check_distinct(names)),
            _ => Ok(()),
        }
    }
}

/// Lists the settings that the table of a loss may have.
fn valid_keys(loss: Loss) -> Vec<&'static str> {
    let lists = CLASS_KEYS.iter().filter(|_| loss.reads_classes());
    WeightSettings::KEYS.iter().chain(loss.setting_keys()).chain(lists).copied().collect()
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
                toml::Value::Float(weight) => Ok(LossConfig::new(loss, weight)),
                toml::Value::Integer(weight) => Ok(LossConfig::new(loss, weight as f64)),
                toml::Value::Table(table) => LossConfig::from_table(loss, table),
                other => Err(format!("expected a number or a table, found {other}")),
            };
            Ok((loss, config.map_err(|reason| de::Error::custom(format!("losses.{loss}: {reason}")))?))
        };
        BTreeMap::<Loss, toml::Value>::deserialize(from)?.into_iter().map(read).collect()
    }

    pub(in crate::recipe) fn serialize<S: Serializer>(
        losses: &BTreeMap<Loss, LossConfig>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let write = |(&loss, config): (&Loss, &LossConfig)| {
            let weight = config.weight.start;
            let value = match *config == LossConfig::new(loss, weight) {
                true => toml::Value::Float(weight),
                false => toml::Value::Table(config.to_table().map_err(ser::Error::custom)?),
            };
            Ok((loss, value))
        };
        losses.iter().map(write).collect::<Result<BTreeMap<_, _>, _>>()?.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use kd_losses::AnchorSettings;

    use super::*;
    use crate::recipe::{Recipe, parse};

    fn recipe(losses: &str) -> crate::Result<Recipe> {
        let text = format!(
            "name = 'test'\nstudent.model = 'ViT-nano-32px'\nteacher.model = 'x'\nlosses = {{ {losses} }}\n\
             train = {{ batch_size = 8, steps = 100 }}\ndata.train = [{{ source = 'emoji' }}]"
        );
        Ok(parse(&text, &[], "test")?.runs.remove(0))
    }

    #[test]
    fn numbers_and_tables_survive_toml() {
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
        assert_eq!(find(Loss::Gram).settings.temperatures(), [0.1, 1.0]);
        assert_eq!(find(Loss::Hinton).settings.temperatures(), [3.0]);
    }

    #[test]
    fn the_anchor_bank_has_the_largest_count_of_the_losses() {
        let count = |losses: &str| recipe(losses).unwrap().anchor_count();
        assert_eq!(
            (count("crd = 1"), count("anchors = 1"), count("anchors = 0, crd = 1")),
            (None, Some(AnchorSettings::COUNT), None)
        );
        let small = "anchors-within = { weight = 1.0, count = 16 }, anchors-across = 1";
        assert_eq!(count(small), Some(16), "a loss without a count does not raise it to the default");
        assert_eq!(count(&format!("{small}, anchors = {{ weight = 1.0, count = 32 }}")), Some(32));
    }

    #[test]
    fn steps_without_a_loss_are_errors() {
        let losses = "task = { weight = 1.0, until = 0.5 }, fd = { weight = 1.0, from = 50 }";
        let mut recipe = recipe(losses).unwrap();
        (recipe.train.steps, recipe.train.epochs) = (None, Some(1.0));
        recipe.validate("test").unwrap();
        assert!(recipe.check_terms(100, "test").is_ok());
        let error = recipe.check_terms(60, "test").unwrap_err().to_string();
        assert!(error.contains("at step 30"), "{error}");
    }

    #[test]
    fn errors_name_the_invalid_setting() {
        for (losses, part) in [
            ("fd = { weight = 1.0, end = 2.0 }", "schedule"),
            ("fd = { weight = 1.0, masked = 0.5 }", "`masked` belongs to `mfd`"),
            ("mfd = { weight = 1.0, masked = 1.5 }", "masked"),
            ("fd = { weight = 1.0, layers = 2 }", "`layers` belongs to `hidden`"),
            ("hidden = { weight = 1.0, layers = 0 }", "layers = 0"),
            ("fd = { weight = 1.0, until = 1.5 }", "between 0.0 and 1.0"),
            ("fd = { weight = 1.0, temperature = 1.0 }", "`temperature` belongs to `hinton`"),
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
            ("fd = { wieght = 1.0 }", "unknown setting `wieght`; did you mean `weight`?"),
            ("hinton = { weight = 1.0, classes = ['a', 'b'], temperatures = [1.0, 2.0] }", "not several"),
            ("fd = 'much'", "fd"),
        ] {
            let error = recipe(losses).unwrap_err().to_string();
            assert!(error.contains(part), "{losses}: {error}");
        }
    }
}
