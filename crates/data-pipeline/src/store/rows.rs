//! Rows of embeddings as bytes and back.

use file_ext::{f32_from_le_bytes, f32_to_le_bytes};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};
use safetensors::Dtype;

use super::StoreKind;

impl StoreKind {
    /// Bytes per number.
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

/// The bytes of rows, with the factors of each row where the kind has some.
pub(super) fn encode(rows: ArrayView2<'_, f32>, kind: StoreKind) -> (Vec<u8>, Option<Vec<f32>>) {
    let values = rows.iter();
    let bytes = match kind {
        StoreKind::F32 => f32_to_le_bytes(values),
        StoreKind::F16 => values.flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        StoreKind::Bf16 => values.flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        StoreKind::Int8 => {
            let largest =
                |row: ndarray::ArrayView1<'_, f32>| row.iter().fold(0f32, |max, x| max.max(x.abs()));
            let factors = rows.rows().into_iter().map(|row| largest(row) / 127.0).collect::<Vec<_>>();
            let byte = |x: &f32, factor: f32| if factor > 0.0 { (x / factor).round() as i8 as u8 } else { 0 };
            let bytes = rows.rows().into_iter().zip(&factors);
            let bytes =
                bytes.flat_map(|(row, factor)| row.iter().map(|x| byte(x, *factor)).collect::<Vec<_>>());
            return (bytes.collect(), Some(factors));
        }
    };
    (bytes, None)
}

/// Writes one row's numbers into `out`.
pub(super) fn decode(bytes: &[u8], factor: f32, kind: StoreKind, out: &mut [f32]) {
    match kind {
        StoreKind::F32 => out.iter_mut().zip(f32_from_le_bytes(bytes)).for_each(|(out, x)| *out = x),
        StoreKind::F16 => out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(out, b)| {
            *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
        }),
        StoreKind::Bf16 => out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(out, b)| {
            *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
        }),
        StoreKind::Int8 => out.iter_mut().zip(bytes).for_each(|(out, b)| *out = f32::from(*b as i8) * factor),
    }
}

/// Rows of an array scaled to length 1; what storing rounds away is taken out of the direction alone.
pub(super) fn normalize(rows: &mut Array2<f32>) {
    for mut row in rows.rows_mut() {
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
    fn what_comes_back_is_close() {
        let mut random = SplitMix64::new(3);
        let mut rows = Array2::from_shape_fn((7, 33), |_| random.between(-1.0, 1.0) as f32);
        normalize(&mut rows);
        rows.row_mut(6).fill(0.0);
        for (kind, tolerance) in
            [(StoreKind::F32, 0.0), (StoreKind::F16, 3e-4), (StoreKind::Bf16, 2e-3), (StoreKind::Int8, 4e-3)]
        {
            let (bytes, factors) = encode(rows.view(), kind);
            assert_eq!(bytes.len(), 7 * 33 * kind.bytes());
            for (number, row) in rows.rows().into_iter().enumerate() {
                let mut out = vec![1f32; 33];
                let factor = factors.as_ref().map_or(1.0, |factors| factors[number]);
                decode(&bytes[number * 33 * kind.bytes()..], factor, kind, &mut out);
                let worst = row.iter().zip(&out).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(worst <= tolerance, "{kind:?}: {worst}");
            }
        }
    }
}
