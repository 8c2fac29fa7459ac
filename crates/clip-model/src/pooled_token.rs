//! The token of each sample whose state becomes the embedding.
//!
//! A tower that pools one token needs the last block's output for that token only. Its query attends to the keys and
//! values of all tokens, and the products of the other queries, of the attention's output and of the MLP are left out.

use tch::{Device, Kind, Tensor};

/// Position of the pooled token.
#[derive(Debug)]
pub(crate) enum PooledToken {
    /// The first token of each sample.
    First,
    /// The last token of each sample.
    Last,
    /// One position per sample, i64 `[batch]`.
    At(Tensor),
}

impl PooledToken {
    /// Selects the token's state: `[batch, seq, width]` to `[batch, 1, width]`.
    pub(crate) fn select(&self, xs: &Tensor) -> Tensor {
        match self {
            PooledToken::First => xs.narrow(1, 0, 1),
            PooledToken::Last => xs.narrow(1, xs.size()[1] - 1, 1),
            PooledToken::At(positions) => {
                xs.gather(1, &positions.view([-1, 1, 1]).expand([-1, 1, xs.size()[2]], false), false)
            }
        }
    }

    /// Returns the tokens to which causal attention lets the pooled token attend, itself and the earlier ones: bool,
    /// `[batch or 1, 1, 1, seq]`. `None` for all tokens.
    pub(crate) fn causal_mask(&self, seq: i64, device: Device) -> Option<Tensor> {
        let positions = Tensor::arange(seq, (Kind::Int64, device)).view([1, 1, 1, seq]);
        match self {
            PooledToken::First => Some(positions.le(0)),
            PooledToken::Last => None,
            PooledToken::At(ends) => Some(positions.le_tensor(&ends.view([-1, 1, 1, 1]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::gates::{Gates, TowerShape, ones};
    use crate::{Clip, ClipConfig, Tape, seeded};
    use tch::{Device, Kind, Tensor};

    const POOLS: [&str; 6] = [
        r#""pool_type": "argmax""#,
        r#""pool_type": "argmax", "no_causal_mask": true"#,
        r#""pool_type": "eos", "eos_id": 31"#,
        r#""pool_type": "first""#,
        r#""pool_type": "last""#,
        r#""pool_type": "last", "no_causal_mask": true"#,
    ];

    fn model(text_pool: &str) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 16,
                "vision_cfg": {{"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}},
                "text_cfg": {{"layers": 2, "width": 16, "heads": 2, "vocab_size": 32, "context_length": 8, {text_pool}}}}}"#
        );
        Clip::new(&ClipConfig::from_json("test", &json).unwrap(), Device::Cpu, 4).unwrap()
    }

    /// Images, and texts that end at different positions.
    fn inputs() -> (Tensor, Tensor) {
        let (images, tokens) = seeded(6, || {
            let images = Tensor::randn([5, 3, 32, 32], (Kind::Float, Device::Cpu));
            (images, Tensor::randint(30, [5, 8], (Kind::Int64, Device::Cpu)))
        });
        for (row, end) in [3, 7, 0, 5, 6].into_iter().enumerate() {
            let _ = tokens.get(row as i64).get(end).fill_(31);
        }
        (images, tokens)
    }

    /// Returns an embedding and the gradients of all parameters that have one.
    fn pass(model: &Clip, embed: impl Fn(&Clip) -> Tensor) -> Vec<(String, Tensor)> {
        model.params().iter().for_each(|parameter| parameter.tensor.shallow_clone().zero_grad());
        let embedding = embed(model);
        let weights = Tensor::arange(embedding.numel() as i64, (Kind::Float, Device::Cpu)).sin();
        (embedding.view([-1]) * weights).sum(Kind::Float).backward();
        let gradients = model.params().iter().filter(|parameter| parameter.tensor.grad().defined());
        let gradients = gradients.map(|parameter| (parameter.name.clone(), parameter.tensor.grad().copy()));
        [("embedding".to_string(), embedding.detach())].into_iter().chain(gradients).collect()
    }

    #[track_caller]
    fn assert_close(whole: &[(String, Tensor)], token: &[(String, Tensor)], what: &str) {
        let used = |list: &[(String, Tensor)]| {
            list.iter().filter(|(_, values)| values.any().int64_value(&[]) == 1).count()
        };
        assert!(used(whole) > 12 && used(whole) == used(token), "{what}: {} of {}", used(token), used(whole));
        for (name, whole) in whole {
            let token =
                &token.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("{what}: {name}")).1;
            let error = (whole - token).abs().max().double_value(&[]);
            assert!(error <= 1e-5 * whole.abs().max().double_value(&[]), "{what}: {name} differs by {error}");
        }
    }

    fn compare(model: &Clip, what: &str) {
        let (images, tokens) = inputs();
        let whole =
            pass(model, |model| model.image_states(&images, &[], &mut Tape::off()).unwrap().embedding);
        let token = pass(model, |model| model.encode_image(&images).unwrap());
        assert_close(&whole, &token, &format!("{what}, images"));
        let whole = pass(model, |model| model.text_states(&tokens, &[], &mut Tape::off()).unwrap().embedding);
        let token = pass(model, |model| model.text.forward_ungrouped(&tokens, &mut Tape::off()).unwrap());
        assert_close(&whole, &token, &format!("{what}, texts"));
    }

    #[test]
    fn one_token_of_the_last_block_gives_embeddings_and_gradients_of_the_whole_block() {
        for pool in POOLS {
            compare(&model(pool), pool);
        }
    }

    #[test]
    fn gates_apply_to_the_pooled_token() {
        let mut model = model(POOLS[0]);
        let values = |shape: TowerShape| {
            let values = ones(&shape, Device::Cpu).unwrap();
            for (part, values) in values.iter().enumerate() {
                // The second gate of each part is closed and the first one half open.
                let _ = values.get(0).fill_(0.5);
                if part < 3 {
                    let _ = values.get(1).fill_(0.0);
                }
            }
            values
        };
        let config = model.config().clone();
        let (image, text) = (TowerShape::image(&config).unwrap(), TowerShape::text(&config).unwrap());
        model.set_gates(Some(Gates::new(&config, values(image), values(text)).unwrap())).unwrap();
        compare(&model, "gates");
    }
}
