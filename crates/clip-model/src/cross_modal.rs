//! A cross-modal head on a frozen CLIP: patch tokens and text tokens attend to each other, and what they
//! find enriches the pair's embeddings (DCLIP's teacher).
//!
//! Since an enriched embedding depends on both halves of its pair, there is none of an image or a text alone.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::activation::Activation;
use crate::clip::MAX_LOGIT_SCALE;
use crate::layers::{CLIP_MLP, LayerNorm, Linear, Mlp};
use crate::params::{Builder, Init, Params, Store};
use crate::states::{ImageStates, TextStates};
use crate::weights::{self, read_safetensors, write_atomic, write_safetensors};
use crate::{Clip, Error, Result};

/// Name of the head's configuration in a model folder.
pub const CONFIG_FILE: &str = "cross_modal_config.json";
/// Name of the head's weights in a model folder.
pub const WEIGHTS_FILE: &str = "cross_modal.safetensors";

const EPS: f64 = 1e-5;
/// Far more than any sensible head has.
const MAX_LAYERS: i64 = 64;

/// Dimensions of the head; its width is the CLIP's embed dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossModalConfig {
    /// Layers of attention in both directions.
    pub layers: i64,
    /// Attention heads; they divide the CLIP's embed dim.
    pub heads: i64,
    /// MLP inner width as a multiple of the width.
    pub mlp_ratio: f64,
}

impl Default for CrossModalConfig {
    fn default() -> Self {
        CrossModalConfig { layers: 1, heads: 4, mlp_ratio: 4.0 }
    }
}

impl CrossModalConfig {
    /// What cannot be built for a CLIP of this embed dim, if anything.
    pub fn problem(&self, width: i64) -> Option<String> {
        let CrossModalConfig { layers, heads, mlp_ratio } = *self;
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Some(format!("layers = {layers} is outside 1..={MAX_LAYERS}"));
        }
        if heads < 1 || width % heads != 0 {
            return Some(format!("heads = {heads} do not divide the embed dim {width}"));
        }
        if !(mlp_ratio > 0.0 && mlp_ratio <= 64.0) {
            return Some(format!("mlp_ratio = {mlp_ratio} is not above 0 and at most 64"));
        }
        None
    }
}

/// The head with its parameters.
#[derive(Debug)]
pub struct CrossModal {
    image: Side,
    text: Side,
    layers: Vec<Layer>,
    /// Natural logarithm of the factor on the cosines of enriched embeddings; no dimension.
    pub logit_scale: Tensor,
    config: CrossModalConfig,
    params: Params,
}

/// Into the head's width, and out of it.
#[derive(Debug)]
struct Side {
    input: Linear,
    norm: LayerNorm,
    output: Linear,
}

/// One modality's half of a layer.
#[derive(Debug)]
struct Half {
    query_norm: LayerNorm,
    key_norm: LayerNorm,
    query: Linear,
    key_value: Linear,
    output: Linear,
    mlp_norm: LayerNorm,
    mlp: Mlp,
    heads: i64,
}

#[derive(Debug)]
struct Layer {
    image: Half,
    text: Half,
}

impl CrossModal {
    /// A new head for a CLIP; it starts as one that changes nothing, with the CLIP's logit scale.
    ///
    /// # Errors
    /// [`Error::Config`] where the configuration cannot be built, or the image tower has no patch tokens.
    pub fn new(config: &CrossModalConfig, clip: &Clip, seed: u64) -> Result<Self> {
        let (own, width) = (clip.config(), clip.config().embed_dim);
        if let Some(problem) = config.problem(width) {
            return Err(Error::config("cross_modal", problem));
        }
        if clip.visual.depth().is_none() {
            let reason = "it needs patch tokens, which only CLIP's ViT gives: take a CLIP with a ViT";
            return Err(Error::config("cross_modal", reason));
        }
        let store = Store::new(clip.device(), seed);
        let root = store.root();
        let scale = clip.logit_scale.detach().to_kind(Kind::Double).double_value(&[]);
        let layers = root.child("layers");
        let layers = (0..config.layers).map(|layer| {
            let path = layers.child(layer);
            Ok(Layer {
                image: Half::new(&path.child("image"), config, width)?,
                text: Half::new(&path.child("text"), config, width)?,
            })
        });
        Ok(CrossModal {
            image: Side::new(&root.child("image"), own.vision_cfg.width, width)?,
            text: Side::new(&root.child("text"), own.text_cfg.width, width)?,
            layers: layers.collect::<Result<_>>()?,
            logit_scale: root.parameter("logit_scale", &[], Init::Constant(scale))?,
            config: config.clone(),
            params: store.into_params(),
        })
    }

    /// Enriched unit embeddings `[batch, embed_dim]` of images and texts; row i of both is pair i.
    ///
    /// Each layer lets the patches attend to the tokens of their own caption and the tokens to the patches of their
    /// own image, at the same time; then the means of both are mapped and added to the CLIP's unit embeddings.
    ///
    /// # Errors
    /// [`Error::Shape`] where the states are of different batches.
    pub fn enrich(&self, image: &ImageStates, text: &TextStates) -> Result<(Tensor, Tensor)> {
        let (images, texts) = (image.patches.size(), text.tokens.size());
        if images[0] != texts[0] {
            return Err(Error::Shape {
                what: "the batch of text tokens",
                found: texts,
                expected: format!("[{}, length, width], a text for each image", images[0]),
            });
        }
        let counts = text.counts.to_kind(Kind::Float); // [batch, length]
        // A summand on the products of queries with keys: what does not count is no key.
        let hidden = (1.0 - counts.view([texts[0], 1, 1, texts[1]])) * -1e9; // [batch, 1, 1, length]
        let mut patches = self.image.input.forward(&image.patches); // [batch, patches, embed]
        let mut tokens = self.text.input.forward(&text.tokens); // [batch, length, embed]
        for layer in &self.layers {
            let enriched = layer.image.forward(&patches, &tokens, Some(&hidden));
            tokens = layer.text.forward(&tokens, &patches, None);
            patches = enriched;
        }
        let counts = counts.unsqueeze(2);
        let dims = [1i64].as_slice();
        let token_mean = (tokens * &counts).sum_dim_intlist(dims, false, Kind::Float)
            / counts.sum_dim_intlist(dims, false, Kind::Float);
        let patch_mean = patches.mean_dim(1, false, None::<Kind>);
        Ok((self.image.add(&image.embedding, &patch_mean), self.text.add(&text.embedding, &token_mean)))
    }

    /// Makes the logit scale at least 0 and at most ln(100), as CLIP does after every step.
    pub fn clamp_logit_scale(&self) {
        tch::no_grad(|| {
            let _ = self.logit_scale.shallow_clone().clamp_(0.0, MAX_LOGIT_SCALE);
        });
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &CrossModalConfig {
        &self.config
    }

    /// All parameters under their names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Writes the head's two files into the model folder of its CLIP.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(CONFIG_FILE);
        let json = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
        write_safetensors(
            &folder.join(WEIGHTS_FILE),
            self.params.iter().map(|p| (p.name.as_str(), &p.tensor)),
        )?;
        write_atomic(&path, json.as_bytes())
    }

    /// Reads the head of a model folder whose CLIP is `clip`; `None` where the folder has none.
    ///
    /// # Errors
    /// [`Error::Io`] where only one of its files is there or one cannot be read, [`Error::Config`] and
    /// [`Error::Mismatch`] where they do not fit the CLIP.
    pub fn open(folder: &Path, clip: &Clip) -> Result<Option<Self>> {
        let (path, file) = (folder.join(CONFIG_FILE), folder.join(WEIGHTS_FILE));
        if !path.exists() && !file.exists() {
            return Ok(None);
        }
        let json = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let config: CrossModalConfig = serde_json::from_str(&json)
            .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
        let head = CrossModal::new(&config, clip, 0)?;
        weights::load(&head.params, &read_safetensors(&file)?, &file.display().to_string())?;
        Ok(Some(head))
    }
}

impl Side {
    fn new(path: &Builder<'_>, tokens: i64, width: i64) -> Result<Self> {
        let zero = Init::Constant(0.0);
        Ok(Side {
            input: Linear::new(&path.child("input"), tokens, width, Init::fan_in(tokens), zero)?,
            norm: LayerNorm::new(&path.child("ln_post"), width, EPS)?,
            // All zeros, so that the head begins where the CLIP is.
            output: Linear::new(&path.child("output"), width, width, zero, zero)?,
        })
    }

    /// The raw embedding's unit vector with what was found, as a unit vector; all `[batch, embed]`.
    fn add(&self, embedding: &Tensor, found: &Tensor) -> Tensor {
        unit(&(unit(embedding) + self.output.forward(&self.norm.forward(found))))
    }
}

impl Half {
    fn new(path: &Builder<'_>, config: &CrossModalConfig, width: i64) -> Result<Self> {
        let (zero, start) = (Init::Constant(0.0), Init::xavier(width, width));
        let inner = ((width as f64 * config.mlp_ratio) as i64).max(1);
        let inits = [Init::fan_in(width), Init::fan_in(inner)];
        let norm = |name: &str| LayerNorm::new(&path.child(name), width, EPS);
        Ok(Half {
            query_norm: norm("ln_query")?,
            key_norm: norm("ln_key")?,
            query: Linear::new(&path.child("query"), width, width, start, zero)?,
            key_value: Linear::new(&path.child("key_value"), width, 2 * width, start, zero)?,
            output: Linear::new(&path.child("output"), width, width, start, zero)?,
            mlp_norm: norm("ln_mlp")?,
            mlp: Mlp::new(&path.child("mlp"), CLIP_MLP, width, inner, Activation::Gelu, inits)?,
            heads: config.heads,
        })
    }

    /// `xs` `[batch, seq, width]` attend to `others` `[batch, other seq, width]`; `bias` is a summand on the scaled
    /// products, `[batch, 1, 1, other seq]`.
    fn forward(&self, xs: &Tensor, others: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let [batch, seq, width] = [0, 1, 2].map(|place| xs.size()[place]);
        let (length, head) = (others.size()[1], width / self.heads);
        let query = self.query.forward(&self.query_norm.forward(xs));
        let query = query.view([batch, seq, self.heads, head]).transpose(1, 2); // [batch, heads, seq, head width]
        let pairs = self.key_value.forward(&self.key_norm.forward(others));
        let pairs = pairs.view([batch, length, 2, self.heads, head]).permute([2, 0, 3, 1, 4]);
        let (key, value) = (pairs.select(0, 0), pairs.select(0, 1)); // [batch, heads, other seq, head width]
        let bias = bias.map(|bias| bias.expand([batch, self.heads, seq, length], false));
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, bias, 0.0, false, None, false);
        let xs = xs + self.output.forward(&mixed.transpose(1, 2).reshape([batch, seq, width]));
        &xs + self.mlp.forward(&self.mlp_norm.forward(&xs))
    }
}

/// Rows of length 1, as torch's `normalize` makes them.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipConfig;
    use crate::tape::Tape;
    use tch::Device;

    fn clip(vision: &str) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 24, "vision_cfg": {vision},
                "text_cfg": {{"layers": 1, "width": 16, "heads": 2, "vocab_size": 32, "context_length": 8}}}}"#
        );
        let clip = Clip::new(&ClipConfig::from_json("test", &json).unwrap(), Device::Cpu, 4).unwrap();
        clip.params().set_requires_grad(false);
        clip
    }

    const VIT: &str = r#"{"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}"#;

    fn inputs() -> (Tensor, Tensor) {
        crate::seeded(5, || {
            let images = Tensor::randn([6, 3, 32, 32], (Kind::Float, Device::Cpu));
            (images, Tensor::randint(30, [6, 8], (Kind::Int64, Device::Cpu)))
        })
    }

    fn enrich(head: &CrossModal, clip: &Clip, images: &Tensor, tokens: &Tensor) -> (Tensor, Tensor) {
        let image = clip.image_states(images, &[], &mut Tape::off()).unwrap();
        head.enrich(&image, &clip.text_states(tokens, &[], &mut Tape::off()).unwrap()).unwrap()
    }

    /// The output maps away from zero, so that everything has a say.
    fn stir(head: &CrossModal) {
        crate::seeded(8, || {
            tch::no_grad(|| {
                for parameter in head.params().iter().filter(|p| p.name.contains("output.weight")) {
                    let _ = parameter.tensor.shallow_clone().normal_(0.0, 0.3);
                }
            });
        });
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    fn loss(head: &CrossModal, (image, text): &(Tensor, Tensor)) -> Tensor {
        let logits = image.matmul(&text.tr()) * head.logit_scale.exp();
        let labels = Tensor::arange(image.size()[0], (Kind::Int64, Device::Cpu));
        logits.cross_entropy_for_logits(&labels) + logits.tr().cross_entropy_for_logits(&labels)
    }

    #[test]
    fn it_begins_where_the_clip_is() {
        let (clip, (images, tokens)) = (clip(VIT), inputs());
        let head = CrossModal::new(&CrossModalConfig { layers: 2, ..Default::default() }, &clip, 1).unwrap();
        let (image, text) = enrich(&head, &clip, &images, &tokens);
        assert!(distance(&image, &unit(&clip.encode_image(&images).unwrap())) < 1e-6);
        assert!(distance(&text, &unit(&clip.encode_text(&tokens).unwrap())) < 1e-6);
        assert_eq!(head.logit_scale.double_value(&[]), clip.logit_scale.double_value(&[]));
        stir(&head);
        assert!(distance(&image, &enrich(&head, &clip, &images, &tokens).0) > 1e-2);
    }

    #[test]
    fn each_half_of_a_pair_sees_the_other_and_no_padding() {
        let (clip, (images, tokens)) = (clip(VIT), inputs());
        let head = CrossModal::new(&CrossModalConfig::default(), &clip, 1).unwrap();
        stir(&head);
        // 31 is the largest id, so the end token.
        let ended = tokens.copy();
        let _ = ended.select(1, 4).fill_(31);
        let padded = ended.copy();
        let _ = padded.narrow(1, 5, 3).fill_(0);
        let (plain, other) = (enrich(&head, &clip, &images, &ended), enrich(&head, &clip, &images, &padded));
        assert!(distance(&plain.0, &other.0) < 1e-5 && distance(&plain.1, &other.1) < 1e-5);
        let cut = enrich(&head, &clip, &images, &ended.narrow(1, 0, 5));
        assert!(distance(&plain.0, &cut.0) < 1e-5 && distance(&plain.1, &cut.1) < 1e-5);
        // Another caption moves its own image, another image its own caption, and neither another pair.
        let _ = ended.get(0).narrow(0, 0, 4).fill_(7);
        let told = enrich(&head, &clip, &images, &ended);
        assert!(distance(&plain.0.get(0), &told.0.get(0)) > 1e-4);
        assert!(distance(&plain.0.narrow(0, 1, 5), &told.0.narrow(0, 1, 5)) < 1e-6);
        let shown = images.copy();
        let _ = shown.get(0).fill_(0.5);
        let shown = enrich(&head, &clip, &shown, &ended);
        assert!(distance(&told.1.get(0), &shown.1.get(0)) > 1e-4);
        assert!(distance(&told.1.narrow(0, 1, 5), &shown.1.narrow(0, 1, 5)) < 1e-6);
    }

    #[test]
    fn only_the_head_learns_and_its_loss_falls() {
        let (clip, (images, tokens)) = (clip(VIT), inputs());
        let head = CrossModal::new(&CrossModalConfig::default(), &clip, 1).unwrap();
        let mut values = Vec::new();
        for _ in 0..20 {
            let value = loss(&head, &enrich(&head, &clip, &images, &tokens));
            head.params().iter().for_each(|p| p.tensor.shallow_clone().zero_grad());
            value.backward();
            values.push(value.double_value(&[]));
            tch::no_grad(|| {
                for parameter in head.params() {
                    let step = parameter.tensor.grad() * -0.05;
                    let _ = parameter.tensor.shallow_clone().g_add_(&step);
                }
            });
        }
        assert!(values[19] < values[0] - 0.1, "{values:?}");
        assert!(clip.params().iter().all(|p| !p.tensor.grad().defined()), "the CLIP is frozen");
        // After the first step the outputs are no longer zero, and gradients go through them to every part.
        for parameter in head.params() {
            let gradient = parameter.tensor.grad();
            assert!(gradient.abs().max().double_value(&[]) > 0.0, "{} does not learn", parameter.name);
        }
    }

    #[test]
    fn it_lies_beside_its_clip() {
        let (clip, (images, tokens)) = (clip(VIT), inputs());
        let folder = tempfile::tempdir().unwrap();
        assert!(CrossModal::open(folder.path(), &clip).unwrap().is_none());
        let config = CrossModalConfig { layers: 2, heads: 3, mlp_ratio: 2.0 };
        let head = CrossModal::new(&config, &clip, 1).unwrap();
        stir(&head);
        head.save(folder.path()).unwrap();
        let again = CrossModal::open(folder.path(), &clip).unwrap().unwrap();
        assert_eq!(again.config(), &config);
        let (a, b) = (enrich(&head, &clip, &images, &tokens), enrich(&again, &clip, &images, &tokens));
        assert!(a.0.equal(&b.0) && a.1.equal(&b.1));
        std::fs::remove_file(folder.path().join(WEIGHTS_FILE)).unwrap();
        let error = CrossModal::open(folder.path(), &clip).unwrap_err().to_string();
        assert!(error.contains(WEIGHTS_FILE), "{error}");
    }

    #[test]
    fn what_cannot_be_built_is_said() {
        let other = clip(r#"{"timm_model_name": "resnet18", "image_size": 32}"#);
        let error = CrossModal::new(&CrossModalConfig::default(), &other, 1).unwrap_err().to_string();
        assert!(error.contains("ViT"), "{error}");
        let own = clip(VIT);
        for (config, part) in [
            (CrossModalConfig { heads: 5, ..Default::default() }, "heads"),
            (CrossModalConfig { heads: 0, ..Default::default() }, "heads"),
            (CrossModalConfig { layers: 0, ..Default::default() }, "layers"),
            (CrossModalConfig { mlp_ratio: f64::NAN, ..Default::default() }, "mlp_ratio"),
        ] {
            let error = CrossModal::new(&config, &own, 1).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let image = own.image_states(&inputs().0, &[], &mut Tape::off()).unwrap();
        let text = own.text_states(&inputs().1.narrow(0, 0, 2), &[], &mut Tape::off()).unwrap();
        let head = CrossModal::new(&CrossModalConfig::default(), &own, 1).unwrap();
        assert!(head.enrich(&image, &text).is_err());
    }
}
