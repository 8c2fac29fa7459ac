//! Built-in class names and prompt templates.
//!
//! ImageNet's curated names, the 80 templates and those for CIFAR come from OpenAI (CLIP, MIT licence). The CIFAR names are
//! those of the data sets (A. Krizhevsky).

use crate::{Error, Result};

const CLASSES: [(&str, &str); 3] = [
    ("imagenet-1k", include_str!("../data/imagenet-1k.classes.txt")),
    ("cifar10", include_str!("../data/cifar10.classes.txt")),
    ("cifar100", include_str!("../data/cifar100.classes.txt")),
];

const TEMPLATES: [(&str, &str); 4] = [
    ("plain", "a photo of a {}.\n"),
    ("openai-80", include_str!("../data/openai-80.templates.txt")),
    ("simple-7", include_str!("../data/simple-7.templates.txt")),
    ("cifar", include_str!("../data/cifar.templates.txt")),
];

/// Returns the class names of a data set.
///
/// # Errors
/// [`Error::Unknown`] for a name that is not built in.
pub fn classes(name: &str) -> Result<Vec<String>> {
    lines("class list", &CLASSES, name)
}

/// Returns templates by name; `{}` stands for the class name.
///
/// ```
/// use zeroshot_eval::prompts::{fill, templates};
///
/// let prompts = templates("simple-7")?.iter().map(|template| fill(template, "cat")).collect::<Vec<_>>();
/// assert_eq!(prompts[0], "itap of a cat.");
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unknown`] for a name that is not built in.
pub fn templates(name: &str) -> Result<Vec<String>> {
    lines("set of templates", &TEMPLATES, name)
}

/// Checks that a list of templates is not empty and that each template has a `{}` for the class name.
///
/// # Errors
/// [`Error::Input`] for an empty list, or naming the template without `{}`.
pub fn check(templates: &[String]) -> Result<()> {
    if templates.is_empty() {
        return Err(Error::Input(
            "the list of prompt templates is empty: give at least one, such as `a photo of a {}`".into(),
        ));
    }
    match templates.iter().find(|template| !template.contains("{}")) {
        Some(template) => {
            Err(Error::Input(format!("the template `{template}` has no {{}} for the class name")))
        }
        None => Ok(()),
    }
}

/// Fills a template with a class name.
pub fn fill(template: &str, class: &str) -> String {
    template.replace("{}", class)
}

fn lines(kind: &'static str, table: &[(&str, &str)], name: &str) -> Result<Vec<String>> {
    match table.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Ok(text.lines().map(str::to_string).collect()),
        None => {
            let known = table.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            Err(Error::Unknown { kind, name: name.into(), known })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_their_published_lengths() {
        for (name, count) in [("imagenet-1k", 1000), ("cifar10", 10), ("cifar100", 100)] {
            let names = classes(name).unwrap();
            assert_eq!(names.len(), count);
            assert!(names.iter().all(|name| !name.trim().is_empty()));
        }
        // The published list contains these duplicates.
        assert_eq!(crate::names::repeated(&classes("imagenet-1k").unwrap()), ["missile", "sunglasses"]);
        for (name, count) in [("plain", 1), ("openai-80", 80), ("simple-7", 7), ("cifar", 18)] {
            let templates = templates(name).unwrap();
            assert_eq!(templates.len(), count);
            assert!(templates.iter().all(|template| template.matches("{}").count() == 1));
        }
        assert!(templates("none").unwrap_err().to_string().contains("openai-80"));
    }
}
