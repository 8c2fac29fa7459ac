//! Settings that belong to a single loss, or to a family of losses.
//!
//! A new kind of settings is a struct that implements [`KindSettings`], and a line in the list of `kinds!`.

#[cfg(feature = "schema")]
use schemars::JsonSchema as _;
use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result, structure};

/// Settings of one kind of loss. `Default` holds the published values.
trait KindSettings: Default + Serialize + DeserializeOwned {
    /// The keys in a file, with aliases.
    const KEYS: &'static [&'static str];
    /// Default temperatures; empty for losses without a temperature.
    const TEMPERATURES: &'static [f64] = &[];

    fn temperatures(&self) -> &[f64] {
        Self::TEMPERATURES
    }

    fn validate(&self) -> Result<()>;
}

/// Settings of [`Loss::Hinton`](crate::Loss::Hinton).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HintonSettings {
    /// Temperature of the class distributions: a number, or a list of one.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "OneOrMany", extend("default" = HintonSettings::TEMPERATURE))
    )]
    #[serde(
        rename = "temperatures",
        alias = "temperature",
        with = "single",
        skip_serializing_if = "Option::is_none"
    )]
    pub temperature: Option<f64>,
    /// Number of classes drawn per step, at least 2. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes_per_step: Option<usize>,
}

/// Settings of [`Loss::Vocabulary`](crate::Loss::Vocabulary).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct VocabularySettings {
    /// Temperatures of the similarity distributions, whose losses are averaged: a list, or one number.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "OneOrMany", extend("default" = structure::TEMPERATURES))
    )]
    #[serde(alias = "temperature", deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<f64>,
    /// Number of classes drawn per step, at least 2. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes_per_step: Option<usize>,
}

/// Settings of [`Loss::Gram`](crate::Loss::Gram) and its blocks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct GramSettings {
    /// Temperatures of the similarity distributions, whose losses are averaged: a list, or one number.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "OneOrMany", extend("default" = structure::TEMPERATURES))
    )]
    #[serde(alias = "temperature", deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<f64>,
}

/// Settings of [`Loss::Anchors`](crate::Loss::Anchors) and its parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct AnchorSettings {
    /// Temperatures of the similarity distributions, whose losses are averaged: a list, or one number.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "OneOrMany", extend("default" = structure::TEMPERATURES))
    )]
    #[serde(alias = "temperature", deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<f64>,
    /// Number of pairs in the common bank of `anchors` and its parts; the largest value applies.
    #[cfg_attr(feature = "schema", schemars(extend("default" = AnchorSettings::COUNT)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
}

/// Settings of [`Loss::Mfd`](crate::Loss::Mfd).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MfdSettings {
    /// Fraction of the patches that are hidden from the student, between 0 and 1.
    #[cfg_attr(feature = "schema", schemars(extend("default" = MfdSettings::MASKED)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked: Option<f64>,
}

/// Settings of [`Loss::Hidden`](crate::Loss::Hidden).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HiddenSettings {
    /// Number of blocks of each tower to compare, at least 1; all of them in a tower with fewer.
    #[cfg_attr(feature = "schema", schemars(extend("default" = HiddenSettings::LAYERS)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
}

impl HintonSettings {
    /// Default temperature.
    pub const TEMPERATURE: f64 = 4.0;

    /// Sets the temperature.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Sets the number of classes that a step draws.
    pub fn with_classes_per_step(mut self, classes: usize) -> Self {
        self.classes_per_step = Some(classes);
        self
    }
}

impl VocabularySettings {
    /// Sets the temperatures.
    pub fn with_temperatures(mut self, temperatures: impl Into<Vec<f64>>) -> Self {
        self.temperatures = temperatures.into();
        self
    }

    /// Sets the number of classes that a step draws.
    pub fn with_classes_per_step(mut self, classes: usize) -> Self {
        self.classes_per_step = Some(classes);
        self
    }
}

impl GramSettings {
    /// Sets the temperatures.
    pub fn with_temperatures(mut self, temperatures: impl Into<Vec<f64>>) -> Self {
        self.temperatures = temperatures.into();
        self
    }
}

impl AnchorSettings {
    /// Default number of pairs in the bank.
    pub const COUNT: usize = 1024;

    /// Sets the temperatures.
    pub fn with_temperatures(mut self, temperatures: impl Into<Vec<f64>>) -> Self {
        self.temperatures = temperatures.into();
        self
    }

    /// Sets the number of pairs in the bank.
    pub fn with_count(mut self, count: usize) -> Self {
        self.count = Some(count);
        self
    }
}

impl MfdSettings {
    /// CLIP-KD's fraction of masked patches.
    pub const MASKED: f64 = 0.75;

    /// Sets the fraction of masked patches.
    pub fn with_masked(mut self, masked: f64) -> Self {
        self.masked = Some(masked);
        self
    }

    /// Returns the fraction of masked patches.
    pub fn masked(&self) -> f64 {
        self.masked.unwrap_or(Self::MASKED)
    }
}

impl HiddenSettings {
    /// Default number of blocks.
    pub const LAYERS: usize = 3;

    /// Sets the number of blocks of each tower.
    pub fn with_layers(mut self, layers: usize) -> Self {
        self.layers = Some(layers);
        self
    }

    /// Returns the number of blocks of each tower.
    pub fn layers(&self) -> usize {
        self.layers.unwrap_or(Self::LAYERS)
    }
}

impl KindSettings for HintonSettings {
    const KEYS: &'static [&'static str] = &["temperatures", "temperature", "classes_per_step"];
    const TEMPERATURES: &'static [f64] = &[Self::TEMPERATURE];

    fn temperatures(&self) -> &[f64] {
        self.temperature.as_ref().map_or(Self::TEMPERATURES, std::slice::from_ref)
    }

    fn validate(&self) -> Result<()> {
        at_least("classes_per_step", self.classes_per_step, 2)
    }
}

impl KindSettings for VocabularySettings {
    const KEYS: &'static [&'static str] = &["temperatures", "temperature", "classes_per_step"];
    const TEMPERATURES: &'static [f64] = &structure::TEMPERATURES;

    fn temperatures(&self) -> &[f64] {
        given_or(&self.temperatures, Self::TEMPERATURES)
    }

    fn validate(&self) -> Result<()> {
        at_least("classes_per_step", self.classes_per_step, 2)
    }
}

impl KindSettings for GramSettings {
    const KEYS: &'static [&'static str] = &["temperatures", "temperature"];
    const TEMPERATURES: &'static [f64] = &structure::TEMPERATURES;

    fn temperatures(&self) -> &[f64] {
        given_or(&self.temperatures, Self::TEMPERATURES)
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }
}

impl KindSettings for AnchorSettings {
    const KEYS: &'static [&'static str] = &["temperatures", "temperature", "count"];
    const TEMPERATURES: &'static [f64] = &structure::TEMPERATURES;

    fn temperatures(&self) -> &[f64] {
        given_or(&self.temperatures, Self::TEMPERATURES)
    }

    fn validate(&self) -> Result<()> {
        at_least("count", self.count, 1)
    }
}

impl KindSettings for MfdSettings {
    const KEYS: &'static [&'static str] = &["masked"];

    fn validate(&self) -> Result<()> {
        match self.masked() {
            masked if masked > 0.0 && masked < 1.0 => Ok(()),
            masked => Err(Error::Argument(format!("masked = {masked} is not between 0 and 1"))),
        }
    }
}

impl KindSettings for HiddenSettings {
    const KEYS: &'static [&'static str] = &["layers"];

    fn validate(&self) -> Result<()> {
        at_least("layers", self.layers, 1)
    }
}

/// Defines [`LossSettings`] and [`Kind`] from a list of settings structs.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($settings:ident),)*) => {
        /// Settings of a loss besides its weight.
        ///
        /// ```no_run
        /// use kd_losses::{GramSettings, Loss, Term};
        ///
        /// let term = Term::new(Loss::Gram, 3.0).with_settings(GramSettings::default().with_temperatures([0.1, 1.0]));
        /// assert!(term.check().is_ok());
        /// ```
        #[derive(Clone, Debug, Default, PartialEq)]
        #[non_exhaustive]
        pub enum LossSettings {
            /// The loss has a weight only.
            #[default]
            Plain,
            $($(#[$doc])* $kind($settings),)*
        }

        /// Kind of the settings that a loss has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind {
            Plain,
            $($kind,)*
        }

        impl Kind {
            /// Returns the default settings.
            pub(crate) fn defaults(self) -> LossSettings {
                match self {
                    Kind::Plain => LossSettings::Plain,
                    $(Kind::$kind => LossSettings::$kind($settings::default()),)*
                }
            }

            /// Returns the keys in a file.
            pub(crate) fn keys(self) -> &'static [&'static str] {
                match self {
                    Kind::Plain => &[],
                    $(Kind::$kind => <$settings as KindSettings>::KEYS,)*
                }
            }

            pub(crate) fn default_temperatures(self) -> &'static [f64] {
                match self {
                    Kind::Plain => &[],
                    $(Kind::$kind => <$settings as KindSettings>::TEMPERATURES,)*
                }
            }

            /// Returns the JSON schema of the settings. Does not include aliases.
            #[cfg(feature = "schema")]
            pub(crate) fn schema(self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                match self {
                    Kind::Plain => NoSettings::json_schema(generator),
                    $(Kind::$kind => $settings::json_schema(generator),)*
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(self, from: D) -> Result<LossSettings, D::Error> {
                Ok(match self {
                    Kind::Plain => {
                        NoSettings::deserialize(from)?;
                        LossSettings::Plain
                    }
                    $(Kind::$kind => LossSettings::$kind($settings::deserialize(from)?),)*
                })
            }
        }

        impl LossSettings {
            pub(crate) fn kind(&self) -> Kind {
                match self {
                    LossSettings::Plain => Kind::Plain,
                    $(LossSettings::$kind(_) => Kind::$kind,)*
                }
            }

            /// Returns the temperatures in use; empty for losses without a temperature.
            pub fn temperatures(&self) -> &[f64] {
                match self {
                    LossSettings::Plain => &[],
                    $(LossSettings::$kind(settings) => settings.temperatures(),)*
                }
            }

            fn validate_settings(&self) -> Result<()> {
                match self {
                    LossSettings::Plain => Ok(()),
                    $(LossSettings::$kind(settings) => settings.validate(),)*
                }
            }
        }

        impl Serialize for LossSettings {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match self {
                    LossSettings::Plain => to.serialize_map(Some(0))?.end(),
                    $(LossSettings::$kind(settings) => settings.serialize(to),)*
                }
            }
        }

        $(impl From<$settings> for LossSettings {
            fn from(settings: $settings) -> Self {
                LossSettings::$kind(settings)
            }
        })*
    };
}

kinds! {
    /// Soft targets over a class list.
    Hinton(HintonSettings),
    /// Relations with a class list.
    Vocabulary(VocabularySettings),
    /// Relations within the batch.
    Gram(GramSettings),
    /// Relations with a bank beyond the batch.
    Anchors(AnchorSettings),
    /// A masked pass of the student.
    Mfd(MfdSettings),
    /// Block outputs of both towers.
    Hidden(HiddenSettings),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct NoSettings {}

impl LossSettings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the value that is out of range.
    pub fn validate(&self) -> Result<()> {
        if let Some(bad) = self.temperatures().iter().find(|t| !(t.is_finite() && **t > 0.0)) {
            return Err(Error::Argument(format!("temperature {bad} is not a positive number")));
        }
        self.validate_settings()
    }
}

fn given_or<'a>(given: &'a [f64], default: &'a [f64]) -> &'a [f64] {
    if given.is_empty() { default } else { given }
}

fn at_least(key: &str, number: Option<usize>, least: usize) -> Result<()> {
    match number.filter(|number| *number < least) {
        None => Ok(()),
        Some(number) => Err(Error::Argument(format!(
            "{key} = {number} is too small to compare anything: set at least {least}"
        ))),
    }
}

/// Reads a list of temperatures; a single one needs no brackets.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(inline))]
#[serde(untagged, expecting = "a temperature is a number, or a list of numbers")]
enum OneOrMany {
    One(f64),
    Many(Vec<f64>),
}

/// A single temperature, which files may write as a list of one.
mod single {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
        match one_or_many(from)?.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(serde::de::Error::custom("the loss has one temperature, not several")),
        }
    }

    pub(super) fn serialize<S: Serializer>(temperature: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        temperature.as_slice().serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Loss;
    use serde_json::json;

    #[test]
    fn settings_survive_a_file() {
        for (loss, file) in [
            (Loss::Task, json!({})),
            (Loss::Hinton, json!({ "temperatures": [3.0], "classes_per_step": 5 })),
            (Loss::Vocabulary, json!({ "temperatures": [0.1, 1.0], "classes_per_step": 5 })),
            (Loss::GramTextText, json!({ "temperatures": [0.1, 1.0] })),
            (Loss::AnchorsWithin, json!({ "count": 7 })),
            (Loss::Mfd, json!({ "masked": 0.5 })),
            (Loss::Hidden, json!({ "layers": 2 })),
        ] {
            let settings = loss.read_settings(file.clone()).unwrap();
            settings.validate().unwrap();
            assert_eq!(serde_json::to_value(&settings).unwrap(), file, "{loss}");
            assert_eq!(loss.read_settings(json!({})).unwrap(), loss.default_settings());
        }
    }

    #[test]
    fn one_temperature_needs_no_brackets() {
        let hinton = |file| Loss::Hinton.read_settings(file);
        assert_eq!(hinton(json!({ "temperature": 3 })).unwrap().temperatures(), [3.0]);
        assert_eq!(hinton(json!({ "temperatures": [] })).unwrap().temperatures(), [4.0]);
        let gram = Loss::Gram.read_settings(json!({ "temperature": 0.5 })).unwrap();
        assert_eq!(gram.temperatures(), [0.5]);
        let error = hinton(json!({ "temperatures": [1.0, 2.0] })).unwrap_err().to_string();
        assert!(error.contains("not several"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for settings in [
            LossSettings::from(HintonSettings::default().with_classes_per_step(1)),
            HintonSettings::default().with_temperature(f64::NAN).into(),
            VocabularySettings::default().with_classes_per_step(0).into(),
            GramSettings::default().with_temperatures([0.1, 0.0]).into(),
            AnchorSettings::default().with_count(0).into(),
            MfdSettings::default().with_masked(1.0).into(),
            HiddenSettings::default().with_layers(0).into(),
        ] {
            assert!(matches!(settings.validate(), Err(Error::Argument(_))), "{settings:?}");
        }
    }

    #[test]
    fn each_key_is_in_the_list_of_its_settings() {
        for loss in Loss::all() {
            for key in loss.setting_keys() {
                let error = loss.read_settings(json!({ *key: "text" })).unwrap_err().to_string();
                assert!(!error.contains("unknown field"), "{loss}: {error}");
            }
            assert!(loss.read_settings(json!({ "wieght": 1.0 })).is_err());
        }
    }
}
