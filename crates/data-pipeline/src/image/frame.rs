//! The position of a view in its image.

/// The position of a view in an image: a point p of the image is at p · scale − corner in pixels of the view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViewFrame {
    /// Scale along x and y.
    pub scale: [f64; 2],
    /// The view's corner in the scaled image; negative if the view is padded.
    pub corner: [f64; 2],
    /// Whether the view is mirrored.
    pub flip: bool,
    /// Side of the view in pixels.
    pub side: usize,
}
