//! `f32` values as little-endian bytes, the order of safetensors files.

/// Converts values to little-endian bytes.
///
/// ```
/// assert_eq!(file_ext::f32_to_le_bytes(&[1.0]), [0, 0, 0x80, 0x3F]);
/// ```
pub fn f32_to_le_bytes<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    values.into_iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Converts little-endian bytes to values. Up to three bytes after the last whole value are ignored.
///
/// ```
/// let values = file_ext::f32_from_le_bytes(&[0, 0, 0x80, 0x3F]).collect::<Vec<_>>();
/// assert_eq!(values, [1.0]);
/// ```
pub fn f32_from_le_bytes(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip_bit_for_bit() {
        let values = [0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN];
        let mut bytes = f32_to_le_bytes(&values);
        bytes.push(9);
        let found = f32_from_le_bytes(&bytes).map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(found, values.map(f32::to_bits));
    }
}
