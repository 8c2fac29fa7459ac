//! Training: steps of the reference implementation, repeated on named weights and inputs.

use clip_model::{Clip, ClipConfig, Precision, weights};
use data_pipeline::tokenizer::{ClipTokenizer, Tokenizer};
use kd_losses::{Loss, Objective, Term};
use serde_json::Value;
use tch::{Device, Tensor};
use trainer::optim::adamw::OptimizerConfig;
use trainer::optim::schedule::LrSchedule;
use trainer::recipe::TargetRule;
use trainer::step::{MicroBatch, StepReport, StepSettings, TeacherInput, TrainState, ViewTensors};
use trainer::teacher::frozen::Teacher;
use trainer::teacher::signal::TeacherSignal;

use crate::{Error, Result, fill};

/// The embedded references: CLIP's loss, and distillation with several terms.
pub(crate) const REFERENCES: [(&str, &str); 2] = [
    ("clip", include_str!("../../../tests/golden/training/clip.json")),
    ("distill", include_str!("../../../tests/golden/training/distill.json")),
];

/// A training of the reference implementation: models, optimiser, inputs, and the values of every step.
#[derive(Clone, Debug)]
pub struct Reference {
    name: String,
    golden: Value,
}

impl Reference {
    /// Parses the JSON description.
    ///
    /// # Errors
    /// [`Error::Reference`] for text that is not JSON.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let golden = serde_json::from_str(text).map_err(|e| Error::reference(name, e.to_string()))?;
        Ok(Reference { name: name.into(), golden })
    }

    /// Repeats the training. `each` receives the report of every step and the reference's values of the same step, an
    /// object with the keys `step`, `lr`, `loss`, `grad_norm`, `logit_scale` and the terms. Returns the final state.
    ///
    /// # Errors
    /// [`Error::Reference`] for a missing or invalid value, and the errors of [`TrainState::step`].
    pub fn run(
        &self,
        device: Device,
        precision: Precision,
        mut each: impl FnMut(&StepReport, &Value),
    ) -> Result<TrainState> {
        let student = self.model("student", device)?;
        let mut teachers = Vec::new();
        if !self.golden["teacher"].is_null() {
            teachers.push(TeacherSignal::live(Teacher::new(self.model("teacher", device)?)));
        }
        let size = student.config().vision_cfg.image_size;
        let context = student.config().text_cfg.context_length as usize;
        let batch = self.number("batch_size")? as i64;
        let config = self.optimizer()?;
        let schedule = LrSchedule {
            base_lr: config.lr,
            warmup_steps: self.number("optimizer/warmup")? as u64,
            total_steps: self.number("steps")? as u64,
        };
        let widths = teachers.iter().map(TeacherSignal::width).collect::<Vec<_>>();
        let objective = Objective::new(&self.terms()?, student.config().embed_dim, &widths, device)?;
        let settings = StepSettings { precision, ..StepSettings::default() };
        let mut state = TrainState::new(student, objective, &config, None)?.with_settings(settings);
        // "unit('<tag>.image.<step>', …) * 2"
        let input = self.text("image_input")?.split('\'').nth(1).map(|tag| tag.replace("<step>", ""));
        let tag = input.ok_or_else(|| self.wrong("image_input", "text"))?;
        for step in 0..schedule.total_steps {
            let images =
                (fill::unit(&format!("{tag}{step}"), &[batch, 3, size, size]) * 2.0).f_to_device(device)?;
            let tokens = self.tokens(step, context)?.f_to_device(device)?;
            let student = ViewTensors::new(images, tokens);
            let inputs = teachers.iter().map(|_| TeacherInput::AsStudent).collect();
            let micro = MicroBatch { student, teachers: inputs };
            let report = state.step(&[micro], &teachers, TargetRule::Diagonal, schedule.lr_at(step))?;
            each(&report, &self.golden["trajectory"][step as usize]);
        }
        Ok(state)
    }

    /// Returns the largest relative deviation of the loss over all steps.
    ///
    /// # Errors
    /// The errors of [`Reference::run`].
    pub(crate) fn deviation(&self, device: Device, precision: Precision) -> Result<f64> {
        let mut largest = 0.0_f64;
        self.run(device, precision, |report, row| {
            let expected = row["loss"].as_f64().unwrap_or(f64::NAN);
            let deviation = (report.loss - expected).abs() / expected.abs();
            largest = largest.max(if deviation.is_nan() { f64::INFINITY } else { deviation });
        })?;
        Ok(largest)
    }

    fn wrong(&self, key: &str, kind: &str) -> Error {
        Error::reference(&self.name, format!("`{key}` is not {kind}"))
    }

    /// Returns a number by its path, such as `optimizer/eps`.
    fn number(&self, key: &str) -> Result<f64> {
        let value = self.golden.pointer(&format!("/{key}")).and_then(Value::as_f64);
        value.ok_or_else(|| self.wrong(key, "a number"))
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.golden[key].as_str().ok_or_else(|| self.wrong(key, "text"))
    }

    /// Builds the student or the teacher with its named weights.
    fn model(&self, role: &str, device: Device) -> Result<Clip> {
        let config = ClipConfig::from_json(&self.name, &self.golden[role].to_string())?;
        let model = Clip::new(&config, device, 0)?;
        let prefix = self.golden["weights_prefix"][role].as_str();
        let prefix = prefix.ok_or_else(|| self.wrong("weights_prefix", "text"))?;
        let named = model
            .params()
            .iter()
            .map(|p| (p.name.clone(), fill::parameter(&format!("{prefix}{}", p.name), &p.tensor.size())));
        weights::load(model.params(), &named.collect(), &self.name)?;
        Ok(model)
    }

    fn optimizer(&self) -> Result<OptimizerConfig> {
        Ok(OptimizerConfig {
            lr: self.number("optimizer/base_lr")?,
            weight_decay: self.number("optimizer/weight_decay")?,
            beta1: self.number("optimizer/betas/0")?,
            beta2: self.number("optimizer/betas/1")?,
            eps: self.number("optimizer/eps")?,
            clip_norm: self.golden["optimizer"]["clip_norm"].as_f64().unwrap_or(0.0),
        })
    }

    /// Parses the objective: `<term> + <weight>*<term> + …`.
    fn terms(&self) -> Result<Vec<Term>> {
        let term = |text: &str| {
            let (weight, name) = text.trim().split_once('*').unwrap_or(("1", text.trim()));
            let loss = Loss::all().find(|loss| loss.name() == name.replace('_', "-"))?;
            Some(Term::new(loss, weight.parse().ok()?))
        };
        let terms = self.text("loss")?.split('+').map(term).collect::<Option<_>>();
        terms.ok_or_else(|| self.wrong("loss", "a sum of known losses"))
    }

    fn tokens(&self, step: u64, context: usize) -> Result<Tensor> {
        let tokenizer = ClipTokenizer::new();
        let texts = self.golden["texts"][step as usize].as_array();
        let texts = texts.ok_or_else(|| self.wrong("texts", "a list for every step"))?;
        let mut ids = vec![0i64; texts.len() * context];
        for (row, text) in ids.chunks_mut(context).zip(texts) {
            tokenizer.encode_into(text.as_str().ok_or_else(|| self.wrong("texts", "text"))?, row);
        }
        Ok(Tensor::f_from_slice(&ids)?.f_view([texts.len() as i64, context as i64])?)
    }
}
