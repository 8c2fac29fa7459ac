//! Nearest neighbours by cosine, block by block.

use ndarray::{ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Number of queries in a block; the whole similarity matrix need not fit into memory.
const BLOCK: usize = 128;

/// Returns the indices and cosines of the `k` nearest unit keys of each unit query, best first. The first of equally near
/// keys comes first.
///
/// If `are_keys`, query i is key i and is excluded from its own neighbours.
pub(crate) fn nearest(
    queries: ArrayView2<'_, f32>,
    keys: ArrayView2<'_, f32>,
    k: usize,
    are_keys: bool,
) -> Vec<Vec<(usize, f32)>> {
    (0..queries.nrows().div_ceil(BLOCK))
        .into_par_iter()
        .flat_map_iter(|block| {
            let start = block * BLOCK;
            let end = (start + BLOCK).min(queries.nrows());
            let cosines = queries.slice(s![start..end, ..]).dot(&keys.t());
            let rows = cosines.axis_iter(Axis(0)).enumerate();
            rows.map(|(row, cosines)| best(cosines, k, are_keys.then_some(start + row))).collect::<Vec<_>>()
        })
        .collect()
}

fn best(cosines: ArrayView1<'_, f32>, k: usize, excluded: Option<usize>) -> Vec<(usize, f32)> {
    let all = cosines.iter().copied().enumerate();
    let mut found = all.filter(|(index, _)| Some(*index) != excluded).collect::<Vec<_>>();
    let better = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < found.len() {
        found.select_nth_unstable_by(k, better);
        found.truncate(k);
    }
    found.sort_unstable_by(better);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn by_hand() {
        let keys = array![[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.8, 0.6]];
        let found = nearest(keys.view(), keys.view(), 2, true);
        assert_eq!(found[0].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(found[2].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(found[1][0].0, 3);
        let found = nearest(array![[0.0, 1.0]].view(), keys.view(), 9, false);
        assert_eq!(found[0].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2, 1, 3, 0]);
    }

    #[test]
    fn equals_sorting_everything_over_several_blocks() {
        let keys = ndarray::Array2::from_shape_fn((300, 3), |(i, j)| ((i * 7 + j * 13) % 11) as f32 - 5.0);
        let found = nearest(keys.view(), keys.view(), 4, true);
        assert_eq!(found.len(), 300);
        for (query, found) in found.iter().enumerate() {
            let mut all = (0..300).filter(|key| *key != query).collect::<Vec<_>>();
            let cosine = |key: usize| keys.row(query).dot(&keys.row(key));
            all.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)));
            assert_eq!(found.iter().map(|(key, _)| *key).collect::<Vec<_>>(), all[..4]);
        }
    }
}
