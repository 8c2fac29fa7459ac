//! COCO's captions: one JSON object that lists images and, separately, their annotations.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Samples with the keys `image` and `caption`, and a warning about images without captions.
type Captions = (Vec<Value>, Option<String>);

/// Converts COCO's captions to samples, one per annotation. Returns `None` for an object without images and annotations.
///
/// # Errors
/// The problem, if the annotations are not captions.
pub(super) fn captions(object: &Value, image: &str, caption: &str) -> Option<Result<Captions, String>> {
    let list = |key: &str| object.get(key).and_then(Value::as_array);
    let (images, annotations) = (list("images")?, list("annotations")?);
    if !images.iter().any(|image| image.get("id").is_some() && image.get("file_name").is_some()) {
        return None;
    }
    let text = |annotation: &Value| annotation.get(caption).or_else(|| annotation.get("caption")).cloned();
    if !annotations.iter().any(|annotation| text(annotation).is_some()) {
        return Some(Err(
            "its `annotations` have no `caption`: it is another file of COCO; name the one with captions, such as \
             `captions_val2017.json`"
                .into(),
        ));
    }
    let mut paths = HashMap::new();
    for image in images {
        if let (Some(id), Some(Value::String(path))) = (image.get("id"), image.get("file_name")) {
            paths.insert(id.to_string(), (path, false));
        }
    }
    let mut records = Vec::with_capacity(annotations.len());
    for annotation in annotations {
        let mut record = Map::new();
        let found = annotation.get("image_id").and_then(|id| paths.get_mut(&id.to_string()));
        if let Some((path, has_caption)) = found {
            *has_caption = true;
            record.insert(image.into(), Value::String(path.clone()));
        }
        if let Some(text) = text(annotation) {
            record.insert(caption.into(), text);
        }
        records.push(Value::Object(record));
    }
    let mut lonely =
        paths.values().filter(|(_, has_caption)| !has_caption).map(|(path, _)| *path).collect::<Vec<_>>();
    lonely.sort();
    let note = lonely.first().map(|first| {
        format!("left out images without a caption: {} (first `{}`)", lonely.len(), first.escape_debug())
    });
    Some(Ok((records, note)))
}
