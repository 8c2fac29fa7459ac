//! Contrastive losses without a teacher: CLIP's and SigLIP's.

use tch::{Kind, Tensor};

use crate::embeddings::{Logits, Targets, cross_entropy};
use crate::{Error, Result};

/// CLIP's contrastive loss: [CE(L, targets) + CE(Lᵀ, targets)] / 2, a scalar, averaged over rows.
///
/// Source: Radford et al. 2021, section 2.3.
///
/// ```no_run
/// # use kd_losses::{Embeddings, Logits, Targets, contrastive};
/// # fn example(images_and_texts: &Embeddings, scale: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// let pairs = images_and_texts.normalized();
/// let logits = Logits::new(&pairs, &pairs, scale)?;
/// contrastive::task(&logits, &Targets::Diagonal { offset: 0 })
/// # }
/// ```
///
/// # Errors
/// [`Error`] if targets and logits do not match.
pub fn task(logits: &Logits, targets: &Targets) -> Result<Tensor> {
    let (diagonal, soft_image, soft_text) = match targets {
        Targets::Diagonal { offset } => (Some(*offset), None, None),
        Targets::Soft { image_to_text, text_to_image } => (None, Some(image_to_text), Some(text_to_image)),
    };
    let image_to_text = cross_entropy(&logits.image_to_text, diagonal, soft_image)?;
    let text_to_image = cross_entropy(&logits.text_to_image, diagonal, soft_text)?;
    Ok((image_to_text + text_to_image) / 2.0)
}

/// SigLIP's pairwise sigmoid loss: −(1/rows) Σ log σ(z (logit + bias)), z = +1 for matching pairs, −1 for all others.
///
/// `logits` `[rows, columns]` are scaled similarities of local images against all texts, `bias`
/// a scalar; row i matches column `offset + i`. Source: Zhai et al. 2023, algorithm 1.
///
/// ```no_run
/// # use kd_losses::{Logits, contrastive};
/// # fn example(logits: &Logits, bias: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// contrastive::siglip(&logits.image_to_text, bias, 0)
/// # }
/// ```
///
/// # Errors
/// [`Error::Argument`] if the diagonal does not lie inside the columns.
pub fn siglip(logits: &Tensor, bias: &Tensor, offset: i64) -> Result<Tensor> {
    let (rows, columns) = (logits.size()[0], logits.size()[1]);
    if offset < 0 || offset + rows > columns {
        return Err(Error::Argument(format!(
            "rows {offset}..{} have no matching column among {columns}: check the offset of the diagonal",
            offset + rows
        )));
    }
    let labels = Tensor::f_full([rows, columns], -1.0, (Kind::Float, logits.device()))?;
    let _ = labels.diagonal(offset, 0, 1).fill_(1.0);
    Ok(-((logits + bias) * labels).log_sigmoid().sum(Kind::Float) / rows as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Embeddings;

    #[test]
    fn by_hand() {
        // Orthogonal pairs at scale s: the loss of each row is log(1 + e^-s).
        let eye = || Tensor::eye(2, (Kind::Float, tch::Device::Cpu));
        let pairs = Embeddings::new(eye(), eye()).unwrap();
        let logits = Logits::new(&pairs, &pairs, &Tensor::from(3.0f32)).unwrap();
        let loss = task(&logits, &Targets::Diagonal { offset: 0 }).unwrap().double_value(&[]);
        assert!((loss - (1.0 + (-3.0f64).exp()).ln()).abs() < 1e-6, "{loss}");
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let loss = siglip(&logits.image_to_text, &Tensor::from(-1.0f32), 0).unwrap().double_value(&[]);
        assert!((loss + sigmoid(2.0).ln() + sigmoid(1.0).ln()).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn losses_of_row_blocks_add_up() {
        let rows = |seed: i64| {
            tch::manual_seed(seed);
            Tensor::randn([6, 5], (Kind::Float, tch::Device::Cpu))
        };
        let all = Embeddings::new(rows(1), rows(2)).unwrap().normalized();
        let scale = Tensor::from(10.0f32);
        let full = task(&Logits::new(&all, &all, &scale).unwrap(), &Targets::Diagonal { offset: 0 }).unwrap();
        let part = |start: i64, length: i64| {
            let local =
                Embeddings::new(all.image.narrow(0, start, length), all.text.narrow(0, start, length))
                    .unwrap();
            let logits = Logits::new(&local, &all, &scale).unwrap();
            task(&logits, &Targets::Diagonal { offset: start }).unwrap().double_value(&[]) * length as f64
        };
        let sum = (part(0, 2) + part(2, 4)) / 6.0;
        assert!((sum - full.double_value(&[])).abs() < 1e-6);
        let logits = Logits::new(&all, &all, &scale).unwrap();
        assert!(task(&logits, &Targets::Diagonal { offset: 1 }).is_err());
    }

    #[test]
    fn equal_captions_are_not_negatives() {
        let tokens = Tensor::from_slice(&[1i64, 2, 1, 2, 3, 4]).view([3, 2]);
        let Targets::Soft { image_to_text, .. } = Targets::equal_captions(&tokens, &tokens).unwrap() else {
            unreachable!("equal captions give soft targets")
        };
        let expected = Tensor::from_slice(&[0.5f32, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0]).view([3, 3]);
        assert!(image_to_text.equal(&expected));
    }
}
