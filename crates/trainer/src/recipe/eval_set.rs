//! Evaluation sets: their settings, prompts and table in a recipe or suite.

use std::collections::BTreeMap;

use data_pipeline::names::Prompts;
use data_pipeline::sources::SourceConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroshot_eval::MetricName;
use zeroshot_eval::metric::{CLASSIFICATION_METRICS, RETRIEVAL_METRICS};
use zeroshot_eval::prompts::fill;

use super::{Classes, schema, source_table, take};
use crate::Result;

/// A data set for zero-shot evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "toml::Table", into = "toml::Table")]
#[schemars(!try_from, !into, transform = schema::merge_source)]
pub struct EvalSet {
    /// Unique name of the set in reports.
    pub name: String,
    /// Task of the evaluation.
    #[schemars(default = "schema::classification")]
    pub task: EvalTask,
    /// Prompt templates of a classification: `"plain"` (1), `"cifar"` (18), `"simple-7"`, `"openai-80"`, `"dataset"`
    /// (the data set's own templates, the default for `clip-benchmark`, which uses `"plain"` if it has none), a list of
    /// texts with `{}` for the class name, or a table with the prompts of each class.
    #[schemars(rename = "prompts", default = "schema::plain")]
    pub templates: Templates,
    /// Class names of a classification: a list, or a file (one name per line, JSON, or a list in Python); one for each
    /// class of the source. Duplicates are allowed. Default: the source's.
    pub class_names: Option<Classes>,
    /// Main metric in comparisons, means and the choice of the best model: `"top-1"`, `"top-5"` or `"mean per-class
    /// recall"` for classification; `"mean recall"`, `"text recall@1"`, `"image recall@5"` and so on for retrieval.
    /// Default: `"top-1"`, or `"mean recall"`.
    #[schemars(with = "Option<String>")]
    pub metric: Option<MetricName>,
    /// Maximum number of images to evaluate during training, spread evenly over the set; the final evaluation uses the
    /// whole set. Default: all. Retrieval among fewer images is easier.
    pub limit: Option<usize>,
    /// Rotate images upright by their EXIF orientation, which open_clip ignores.
    #[schemars(default)]
    pub exif_orientation: bool,
    /// Source (a table) of training images of the same classes, for k-NN and a linear probe.
    pub train: Option<SourceConfig>,
    /// The data.
    #[schemars(flatten)]
    pub source: SourceConfig,
}

/// The task of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EvalTask {
    /// Zero-shot classification.
    Classification,
    /// Retrieval of captions by image and of images by caption, with all captions of an image.
    Retrieval,
}

/// Prompt templates: a name, a list, or the prompts of each class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "`prompts` is neither a name, a list of templates, nor a table with the prompts of each class"
)]
pub enum Templates {
    /// A built-in list (`plain`, `cifar`, `simple-7`, `openai-80`), or `dataset` for the templates of the data set.
    Named(String),
    /// Templates with `{}` for the class name.
    Listed(Vec<String>),
    /// The prompts of each class; `{}` stands for the class name, if present.
    PerClass(BTreeMap<String, Vec<String>>),
}

/// Name of the data set's own templates.
pub const DATASET_TEMPLATES: &str = "dataset";

impl Templates {
    /// Returns the templates.
    ///
    /// # Errors
    /// [`crate::Error::Eval`] if a name is not built in, if a template has no `{}`, or for prompts per class.
    pub fn texts(&self) -> Result<Vec<String>> {
        let texts = match self {
            Templates::Named(name) => zeroshot_eval::prompts::templates(name)?,
            Templates::Listed(texts) => texts.clone(),
            Templates::PerClass(_) => {
                let reason =
                    "`prompts` has to be templates here: prompts per class apply to evaluation sets only";
                return Err(zeroshot_eval::Error::Input(reason.into()).into());
            }
        };
        zeroshot_eval::prompts::check(&texts)?;
        Ok(texts)
    }

    /// Checks the templates as far as they do not depend on the data set.
    ///
    /// # Errors
    /// [`crate::Error::Eval`] if a name is not built in, or if a template has no `{}`.
    pub fn check(&self) -> Result<()> {
        match self {
            Templates::Named(name) if name == DATASET_TEMPLATES => Ok(()),
            Templates::PerClass(_) => Ok(()),
            other => other.texts().map(drop),
        }
    }

    /// Returns the prompts of each class. `own` are the data set's own templates.
    ///
    /// # Errors
    /// The errors of [`Templates::check`]; [`crate::Error::Eval`] if the data set has no templates, or classes no prompts.
    pub fn prompts(&self, classes: &[String], own: Option<&[String]>) -> Result<Vec<Vec<String>>> {
        let fail = |reason: String| Err(zeroshot_eval::Error::Input(reason).into());
        if let Templates::PerClass(table) = self {
            let key = |name: &str| name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
            let by_key = table.iter().map(|(name, prompts)| (key(name), prompts)).collect::<BTreeMap<_, _>>();
            let (mut all, mut missing) = (Vec::new(), Vec::new());
            for class in classes {
                match table.get(class).or_else(|| by_key.get(&key(class)).copied()) {
                    Some(prompts) => all.push(prompts.iter().map(|prompt| fill(prompt, class)).collect()),
                    None => missing.push(class.clone()),
                }
            }
            return match missing.is_empty() {
                true => Ok(all),
                false => Err(zeroshot_eval::Error::MissingPrompts { classes: missing }.into()),
            };
        }
        let texts = match (self, own) {
            (Templates::Named(name), Some(own)) if name == DATASET_TEMPLATES => own.to_vec(),
            (Templates::Named(name), None) if name == DATASET_TEMPLATES => {
                return fail(
                    "the data set comes without prompt templates: set `prompts` to a list or a built-in name"
                        .into(),
                );
            }
            (other, _) => other.texts()?,
        };
        zeroshot_eval::prompts::check(&texts)?;
        Ok(classes.iter().map(|class| texts.iter().map(|text| fill(text, class)).collect()).collect())
    }
}

impl From<Prompts> for Templates {
    fn from(prompts: Prompts) -> Self {
        match prompts {
            Prompts::Templates(texts) => Templates::Listed(texts),
            Prompts::PerClass(table) => Templates::PerClass(table),
        }
    }
}

impl EvalSet {
    /// Creates a set with the default settings of its task.
    pub fn new(name: impl Into<String>, task: EvalTask, source: SourceConfig) -> Self {
        EvalSet {
            name: name.into(),
            task,
            templates: schema::templates_for(&source),
            class_names: None,
            metric: None,
            limit: None,
            exif_orientation: false,
            train: None,
            source,
        }
    }

    /// Checks the constraints that the types do not enforce.
    ///
    /// # Errors
    /// Returns the reason, which names the set.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let name = &self.name;
        if self.limit == Some(0) {
            return Err(format!("the data set `{name}` has limit = 0: set it to at least 1, or remove it"));
        }
        let Some(metric) = self.metric else { return Ok(()) };
        let known = match self.task {
            EvalTask::Classification => CLASSIFICATION_METRICS.to_vec(),
            EvalTask::Retrieval => [&RETRIEVAL_METRICS[..], &[MetricName::MeanRecall]].concat(),
        };
        match known.contains(&metric) {
            true => Ok(()),
            false => {
                let known = known.iter().map(MetricName::to_string).collect::<Vec<_>>().join(", ");
                Err(format!(
                    "the data set `{name}` has metric = \"{metric}\", but the metrics of its task are {known}"
                ))
            }
        }
    }
}

impl TryFrom<toml::Table> for EvalSet {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, Self::Error> {
        let missing =
            |key: &str| <toml::de::Error as serde::de::Error>::custom(format!("an eval set needs `{key}`"));
        let name: String = take(&mut table, "name")?.ok_or_else(|| missing("name"))?;
        let task = take(&mut table, "task")?.unwrap_or_else(schema::classification);
        let templates = take(&mut table, "prompts")?;
        let class_names = take(&mut table, "class_names")?;
        let metric = take(&mut table, "metric")?;
        let limit = take(&mut table, "limit")?;
        let exif_orientation = take(&mut table, "exif_orientation")?.unwrap_or(false);
        let train = take(&mut table, "train")?;
        let set = EvalSet::new(name, task, table.try_into()?);
        Ok(EvalSet {
            templates: templates.unwrap_or(set.templates),
            class_names,
            metric,
            limit,
            exif_orientation,
            train,
            ..set
        })
    }
}

impl From<EvalSet> for toml::Table {
    fn from(set: EvalSet) -> Self {
        let mut table = toml::Table::new();
        table.insert("name".into(), set.name.into());
        for (key, value) in
            [("task", toml::Value::try_from(set.task)), ("prompts", toml::Value::try_from(&set.templates))]
        {
            if let Ok(value) = value {
                table.insert(key.into(), value);
            }
        }
        if let Some(Ok(names)) = set.class_names.as_ref().map(toml::Value::try_from) {
            table.insert("class_names".into(), names);
        }
        if let Some(metric) = set.metric {
            table.insert("metric".into(), metric.to_string().into());
        }
        if let Some(limit) = set.limit.and_then(|limit| i64::try_from(limit).ok()) {
            table.insert("limit".into(), limit.into());
        }
        if set.exif_orientation {
            table.insert("exif_orientation".into(), true.into());
        }
        if let Some(train) = &set.train {
            table.insert("train".into(), source_table(train).into());
        }
        table.extend(source_table(&set.source));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EvalSet, String> {
        let set: EvalSet = toml::from_str(text).map_err(|e| e.to_string())?;
        set.validate().map(|()| set)
    }

    #[test]
    fn settings_survive_a_round_trip_and_default_to_those_of_the_task() {
        let text = "name = 'pets'\nsource = 'clip-benchmark'\npath = 'pets'\nmetric = 'mean per-class recall'\nlimit = 5000";
        let set = parse(text).unwrap();
        assert_eq!((set.metric, set.limit), (Some(MetricName::MeanPerClassRecall), Some(5000)));
        assert_eq!(set.templates, Templates::Named(DATASET_TEMPLATES.into()));
        assert_eq!(parse(&toml::to_string(&set).unwrap()).unwrap(), set);
        let plain = parse("name = 'a'\nsource = 'folder'\nroot = 'a'").unwrap();
        assert_eq!((plain.metric, plain.limit, &plain.templates), (None, None, &schema::plain()));
        let written = toml::to_string(&plain).unwrap();
        assert!(!written.contains("metric") && !written.contains("limit"), "{written}");
    }

    #[test]
    fn metrics_of_another_task_and_a_limit_of_0_are_refused() {
        let set = |more: &str| parse(&format!("name = 'photos'\nsource = 'emoji'\n{more}"));
        assert!(set("task = 'retrieval'\nmetric = 'image recall@5'").is_ok());
        for (more, part) in [
            ("metric = 'text recall@1'", "top-1, top-5, mean per-class recall"),
            ("task = 'retrieval'\nmetric = 'top-1'", "mean recall"),
            ("metric = 'acc1'", "unknown metric `acc1`"),
            ("limit = 0", "limit = 0"),
        ] {
            let error = set(more).unwrap_err();
            assert!(error.contains(part), "{more}: {error}");
        }
    }

    #[test]
    fn prompts_come_from_templates_the_data_set_or_each_class() {
        let classes = ["cat".to_string(), "Great Dane".into()];
        let own = ["a {} here".to_string()];
        let named = |name: &str| Templates::Named(name.into());
        assert_eq!(named("plain").prompts(&classes, Some(&own)).unwrap()[0], ["a photo of a cat."]);
        assert_eq!(named("dataset").prompts(&classes, Some(&own)).unwrap()[1], ["a Great Dane here"]);
        let error = named("dataset").prompts(&classes, None).unwrap_err().to_string();
        assert!(error.contains("without prompt templates"), "{error}");
        let table = |names: [&str; 2]| {
            let table = names.map(|name| (name.to_string(), vec!["a {}".to_string(), "furry".into()]));
            Templates::PerClass(table.into())
        };
        let found = table(["cat", "great dane"]).prompts(&classes, None).unwrap();
        assert_eq!(found, [["a cat", "furry"], ["a Great Dane", "furry"]]);
        let error = table(["cat", "dog"]).prompts(&classes, None).unwrap_err().to_string();
        assert!(error.contains("`Great Dane`"), "{error}");
        let error = table(["pig", "dog"]).prompts(&classes, None).unwrap_err().to_string();
        assert!(error.contains("2 of the classes") && error.contains("`cat`, `Great Dane`"), "{error}");
        assert!(table(["cat", "dog"]).texts().is_err());
        let parsed: EvalSet = toml::from_str(
            "name = 'a'\nsource = 'emoji'\nprompts = { cat = ['a cat'], dog = ['a dog', 'x'] }",
        )
        .unwrap();
        assert!(matches!(&parsed.templates, Templates::PerClass(table) if table["dog"].len() == 2));
    }
}
