//! Annotations: data of a sample besides its image, captions and class, for the methods that read it.
//!
//! Object boxes are the only kind: DCLIP's teacher reads them as image regions (`clip_model::cross_modal`). Sources,
//! loader and batches carry annotations without looking into them.

mod boxes;

use serde_json::Value;

use crate::image::ViewFrame;

/// Annotations of a sample, in pixels of its image.
///
/// ```
/// use data_pipeline::{Annotations, RawImage, RawSample};
/// let annotations = Annotations::default().with_boxes(vec![[8.0, 8.0, 20.0, 12.0]]);
/// let sample = RawSample::new("a", RawImage::Encoded(Vec::new())).with_annotations(annotations);
/// # assert_ne!(sample.annotations, Annotations::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    boxes: Vec<[f32; 4]>,
}

/// Annotations of a sample in one view of its image.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ViewAnnotations {
    /// Visible object boxes: left, top, right and bottom as fractions of the view's side.
    pub boxes: Vec<[f32; 4]>,
}

/// Keys of a `.json` file with annotations.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnnotationKeys {
    /// Key of the object boxes.
    pub boxes: Option<String>,
}

impl AnnotationKeys {
    /// Whether no annotation is read.
    pub(crate) fn is_empty(&self) -> bool {
        self.boxes.is_none()
    }

    /// Reads the annotations of a sample from its `.json` file. Missing keys are no error.
    pub(crate) fn read(&self, value: &Value) -> Result<Annotations, String> {
        let boxes = self.boxes.as_ref().and_then(|key| value.get(key)).map(boxes::from_json);
        Ok(Annotations { boxes: boxes.transpose()?.unwrap_or_default() })
    }
}

impl Annotations {
    /// Sets the object boxes: `[x, y, width, height]` in pixels of the image.
    #[must_use]
    pub fn with_boxes(mut self, boxes: Vec<[f32; 4]>) -> Self {
        self.boxes = boxes;
        self
    }

    /// Applies an EXIF orientation of an image of `width` by `height` pixels.
    pub(crate) fn rotate(&mut self, width: usize, height: usize, orientation: u8) {
        for own in &mut self.boxes {
            *own = boxes::upright(*own, width as f32, height as f32, orientation);
        }
    }

    /// Returns the annotations in a view. `frame` is called only if the sample has annotations.
    pub(crate) fn in_view(&self, frame: impl FnOnce() -> ViewFrame) -> ViewAnnotations {
        let boxes = if self.boxes.is_empty() { Vec::new() } else { boxes::in_view(&self.boxes, &frame()) };
        ViewAnnotations { boxes }
    }
}
