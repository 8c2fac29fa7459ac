//! Embeddings as bytes of a number format, and back.

use file_ext::{f32_from_le_bytes, f32_to_le_bytes};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};
use safetensors::Dtype;

use super::StoreKind;

impl StoreKind {
    /// Returns the number of bytes per value.
    pub(super) fn bytes(self) -> usize {
        match self {
            StoreKind::F32 => 4,
            StoreKind::F16 | StoreKind::Bf16 => 2,
            StoreKind::Int8 => 1,
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            StoreKind::F32 => Dtype::F32,
            StoreKind::F16 => Dtype::F16,
            StoreKind::Bf16 => Dtype::BF16,
            StoreKind::Int8 => Dtype::I8,
        }
    }
}

/// Encoded embeddings.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// Scale of each embedding, if the number format has one.
    pub(super) scales: Option<Vec<f32>>,
}

/// Encodes embeddings `[rows, width]`.
pub(super) fn encode(embeddings: ArrayView2<'_, f32>, kind: StoreKind) -> Encoded {
    let values = embeddings.iter();
    let bytes = match kind {
        StoreKind::F32 => f32_to_le_bytes(values),
        StoreKind::F16 => values.flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        StoreKind::Bf16 => values.flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        StoreKind::Int8 => {
            let largest =
                |row: ndarray::ArrayView1<'_, f32>| row.iter().fold(0f32, |max, x| max.max(x.abs()));
            let scales = embeddings.rows().into_iter().map(|row| largest(row) / 127.0).collect::<Vec<_>>();
            let byte = |x: &f32, scale: f32| if scale > 0.0 { (x / scale).round() as i8 as u8 } else { 0 };
            let bytes = embeddings.rows().into_iter().zip(&scales);
            let bytes =
                bytes.flat_map(|(row, scale)| row.iter().map(|x| byte(x, *scale)).collect::<Vec<_>>());
            return Encoded { bytes: bytes.collect(), scales: Some(scales) };
        }
    };
    Encoded { bytes, scales: None }
}

/// Decodes one embedding into `out`.
pub(super) fn decode(bytes: &[u8], scale: f32, kind: StoreKind, out: &mut [f32]) {
    match kind {
        StoreKind::F32 => out.iter_mut().zip(f32_from_le_bytes(bytes)).for_each(|(out, x)| *out = x),
        StoreKind::F16 => out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(out, b)| {
            *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
        }),
        StoreKind::Bf16 => out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(out, b)| {
            *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
        }),
        StoreKind::Int8 => out.iter_mut().zip(bytes).for_each(|(out, b)| *out = f32::from(*b as i8) * scale),
    }
}

/// Scales embeddings to length 1, because the number format rounds their length. Embeddings of length 0 stay.
pub(super) fn normalize(embeddings: &mut Array2<f32>) {
    for mut row in embeddings.rows_mut() {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|x| x / norm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use file_ext::SplitMix64;

    #[test]
    fn decoded_embeddings_are_close() {
        let mut random = SplitMix64::new(3);
        let mut rows = Array2::from_shape_fn((7, 33), |_| random.between(-1.0, 1.0) as f32);
        normalize(&mut rows);
        rows.row_mut(6).fill(0.0);
        for (kind, tolerance) in
            [(StoreKind::F32, 0.0), (StoreKind::F16, 3e-4), (StoreKind::Bf16, 2e-3), (StoreKind::Int8, 4e-3)]
        {
            let Encoded { bytes, scales } = encode(rows.view(), kind);
            assert_eq!(bytes.len(), 7 * 33 * kind.bytes());
            for (number, row) in rows.rows().into_iter().enumerate() {
                let mut out = vec![1f32; 33];
                let scale = scales.as_ref().map_or(1.0, |scales| scales[number]);
                decode(&bytes[number * 33 * kind.bytes()..], scale, kind, &mut out);
                let worst = row.iter().zip(&out).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(worst <= tolerance, "{kind:?}: {worst}");
            }
        }
    }
}
