//! Classes with the same name, which a model cannot tell apart: ImageNet's list contains `missile` and `sunglasses` twice.

use std::cmp::Ordering;
use std::collections::HashMap;

use ndarray::ArrayView1;

/// Returns the duplicate class names, each in its first spelling.
///
/// ```
/// let classes = ["Crane", "owl", "crane "].map(String::from);
/// assert_eq!(zeroshot_eval::names::repeated(&classes), ["Crane"]);
/// ```
///
/// Names that differ only in case or spaces count as equal, because CLIP's tokenizer ignores both.
pub fn repeated(classes: &[String]) -> Vec<&str> {
    let firsts = Firsts::of(classes);
    let mut found = Vec::new();
    for (class, &first) in firsts.0.iter().enumerate() {
        if class != first && !found.contains(&first) {
            found.push(first);
        }
    }
    found.into_iter().map(|first| classes[first].as_str()).collect()
}

/// For each class, the first class with the same name.
#[derive(Clone, Debug)]
pub(crate) struct Firsts(Vec<usize>);

impl Firsts {
    pub(crate) fn of(classes: &[String]) -> Self {
        let mut firsts = HashMap::new();
        let key = |name: &String| name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        Firsts(
            classes
                .iter()
                .enumerate()
                .map(|(class, name)| *firsts.entry(key(name)).or_insert(class))
                .collect(),
        )
    }

    /// Creates classes with distinct names.
    pub(crate) fn distinct(classes: usize) -> Self {
        Firsts((0..classes).collect())
    }

    /// Number of classes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `class` ranks before `label` by its score.
    ///
    /// Among different classes with equal scores, the right one ranks last, so a collapsed model scores nothing.
    /// Classes with the same name always tie, and the first of them ranks first, as with argmax. A NaN score makes the
    /// row wrong.
    pub(crate) fn is_ahead(&self, scores: ArrayView1<'_, f32>, class: usize, label: usize) -> bool {
        class != label
            && match scores[class].partial_cmp(&scores[label]) {
                Some(Ordering::Less) => false,
                Some(Ordering::Equal) => self.0[class] != self.0[label] || class < label,
                _ => true,
            }
    }

    /// Returns the class with the highest score, or the first one with its name; `None` if several different classes
    /// tie.
    pub(crate) fn single_best(&self, scores: ArrayView1<'_, f32>) -> Option<usize> {
        let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut at_best = scores.iter().zip(&self.0).filter(|(score, _)| **score == best);
        let first = at_best.next().map(|(_, first)| *first)?;
        at_best.all(|(_, other)| *other == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn duplicate_names_are_found_regardless_of_case_and_spaces() {
        let classes = names(&["missile", "cat", "Crane", "missile", " crane", "missile"]);
        assert_eq!(repeated(&classes), ["missile", "Crane"]);
        assert!(repeated(&names(&["cat", "cats"])).is_empty());
    }

    #[test]
    fn the_first_of_equal_names_wins_and_other_ties_count_against_the_label() {
        let firsts = Firsts::of(&names(&["missile", "cat", "missile"]));
        let equal = array![0.5, 0.1, 0.5];
        assert!(!firsts.is_ahead(equal.view(), 2, 0) && firsts.is_ahead(equal.view(), 0, 2));
        // A different class that ties ranks ahead, at any place in the list.
        let collapsed = array![0.5, 0.5, 0.5];
        assert!(firsts.is_ahead(collapsed.view(), 1, 0) && firsts.is_ahead(collapsed.view(), 0, 1));
        // Embeddings from another program may differ despite equal names. The score then decides.
        assert!(firsts.is_ahead(array![0.5, 0.1, 0.6].view(), 2, 0));
        assert!(firsts.is_ahead(array![0.5, 0.1, f32::NAN].view(), 2, 0));
        assert!(!firsts.is_ahead(equal.view(), 0, 0));
    }

    #[test]
    fn the_best_class_is_the_first_of_its_name() {
        let firsts = Firsts::of(&names(&["missile", "cat", "missile"]));
        assert_eq!(firsts.single_best(array![0.5, 0.1, 0.5].view()), Some(0));
        assert_eq!(firsts.single_best(array![0.1, 0.1, 0.5].view()), Some(0));
        assert_eq!(firsts.single_best(array![0.5, 0.5, 0.5].view()), None);
        assert_eq!(firsts.single_best(array![].view()), None);
        let distinct = Firsts::distinct(3);
        assert_eq!(distinct.single_best(array![0.5, 0.1, 0.5].view()), None);
        assert_eq!(distinct.single_best(array![0.1, 0.3, 0.2].view()), Some(1));
    }
}
