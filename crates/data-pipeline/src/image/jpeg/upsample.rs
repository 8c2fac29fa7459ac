//! Upsampling of components like libjpeg's "fancy upsampling": weights of 3/4 and 1/4, with the same rounding.

/// Interpolates horizontally: writes two samples to `line` for each sample of `row`.
#[inline(always)]
pub(super) fn horizontal(row: &[u8], sums: &mut [i16], line: &mut [u8]) {
    let padded = &mut sums[..row.len() + 2];
    for (sum, &sample) in padded[1..].iter_mut().zip(row) {
        *sum = i16::from(sample);
    }
    widen::<2, 1, 2>(padded, line);
}

/// Interpolates vertically. `bias` alternates between 1 and 2, so that rounding errors cancel out on average.
#[inline(always)]
pub(super) fn vertical(near: &[u8], far: &[u8], bias: u16, line: &mut [u8]) {
    for ((sample, &near), &far) in line.iter_mut().zip(near).zip(far) {
        *sample = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
    }
}

/// Interpolates in both directions and rounds once.
#[inline(always)]
pub(super) fn both(near: &[u8], far: &[u8], sums: &mut [i16], line: &mut [u8]) {
    let padded = &mut sums[..near.len() + 2];
    for ((sum, &near), &far) in padded[1..].iter_mut().zip(near).zip(far) {
        *sum = 3 * i16::from(near) + i16::from(far);
    }
    widen::<4, 8, 7>(padded, line);
}

/// Interpolates a row that has one padding element at each end, and divides by 2^SHIFT.
#[inline(always)]
fn widen<const SHIFT: i32, const LEFT: i16, const RIGHT: i16>(padded: &mut [i16], line: &mut [u8]) {
    let n = padded.len() - 2;
    // The outermost samples are replicated into the padding.
    (padded[0], padded[n + 1]) = (padded[1], padded[n]);
    let (left, middle, right) = (&padded[..n], &padded[1..=n], &padded[2..]);
    for (((pair, &middle), &left), &right) in line.chunks_exact_mut(2).zip(middle).zip(left).zip(right) {
        pair[0] = ((3 * middle + left + LEFT) >> SHIFT) as u8;
        pair[1] = ((3 * middle + right + RIGHT) >> SHIFT) as u8;
    }
}

/// Repeats each sample `times` times.
#[inline(always)]
pub(super) fn repeat(row: &[u8], times: usize, line: &mut [u8]) {
    for (samples, &sample) in line.chunks_exact_mut(times).zip(row) {
        samples.fill(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_equal_values_computed_by_hand() {
        let mut line = [0; 6];
        let mut sums = [0; 16];
        horizontal(&[0, 10, 255], &mut sums, &mut line);
        // (3 * 0 + 10 + 2) / 4, (3 * 10 + 0 + 1) / 4, (3 * 10 + 255 + 2) / 4, (3 * 255 + 10 + 1) / 4.
        assert_eq!(line, [0, 3, 7, 71, 194, 255]);
        vertical(&[0, 10, 255], &[4, 11, 0], 1, &mut line);
        assert_eq!(line[..3], [1, 10, 191]);
        vertical(&[0, 10, 255], &[6, 12, 0], 2, &mut line);
        assert_eq!(line[..3], [2, 11, 191]);
        both(&[0, 10, 255], &[4, 10, 255], &mut sums, &mut line);
        // Sums 4, 40, 1020: (4 * 4 + 8) / 16, (3 * 4 + 40 + 7) / 16, (3 * 40 + 4 + 8) / 16 and so on.
        assert_eq!(line, [1, 3, 8, 71, 194, 255]);
        repeat(&[7, 9], 3, &mut line);
        assert_eq!(line, [7, 7, 7, 9, 9, 9]);
    }
}
