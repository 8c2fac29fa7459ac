//! Object boxes: as a sample has them, and where they are in a view of it.

use serde_json::Value;

/// A box that a view shows less of than this share of its area is not in it.
const LEAST_SHARE: f64 = 0.25;

/// How a view lies over a picture: a point p of the picture is at p · scale − corner, in pixels of the view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Along x and y.
    pub scale: [f64; 2],
    /// The view's corner in the scaled picture; negative where the view is padded.
    pub corner: [f64; 2],
    /// Whether the view is mirrored.
    pub flip: bool,
    /// Side of the view.
    pub side: usize,
}

/// Reads a list of boxes `[x, y, width, height]` in pixels of the stored picture, as COCO has them. Boxes without an
/// area are left out.
pub(crate) fn from_json(value: &Value) -> Result<Vec<[f32; 4]>, String> {
    let wrong = || "boxes are a list of [x, y, width, height], in pixels".to_string();
    let mut boxes = Vec::new();
    for own in value.as_array().ok_or_else(wrong)? {
        let numbers = own.as_array().ok_or_else(wrong)?;
        let numbers = numbers.iter().map(|n| n.as_f64().map(|n| n as f32).filter(|n| n.is_finite()));
        let numbers = numbers.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let own = <[f32; 4]>::try_from(numbers).map_err(|_| wrong())?;
        if own[2] > 0.0 && own[3] > 0.0 {
            boxes.push(own);
        }
    }
    Ok(boxes)
}

/// The boxes that a view shows: left, top, right and bottom as shares of its side, cut at its edges.
///
/// A box of which less than a quarter is left, or not even a pixel, is left out.
pub(crate) fn in_view(boxes: &[[f32; 4]], frame: &Frame) -> Vec<[f32; 4]> {
    let side = frame.side as f64;
    let seen = |[x, y, width, height]: &[f32; 4]| {
        // Start and end along x and y, in shares of the view.
        let span = |start: f32, length: f32, axis: usize| {
            let [start, end] = [f64::from(start), f64::from(start) + f64::from(length)]
                .map(|p| (p * frame.scale[axis] - frame.corner[axis]) / side);
            (start, end, start.clamp(0.0, 1.0), end.clamp(0.0, 1.0))
        };
        let (x, y) = (span(*x, *width, 0), span(*y, *height, 1));
        let (whole, left) = ((x.1 - x.0) * (y.1 - y.0), (x.3 - x.2) * (y.3 - y.2));
        if left < LEAST_SHARE * whole || (x.3 - x.2).min(y.3 - y.2) * side < 1.0 {
            return None;
        }
        let (start, end) = if frame.flip { (1.0 - x.3, 1.0 - x.2) } else { (x.2, x.3) };
        Some([start, y.2, end, y.3].map(|share| share as f32))
    };
    boxes.iter().filter_map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn boxes_are_read_and_what_is_none_is_named() {
        let found = from_json(&json!([[1, 2.5, 3, 4], [5, 5, 0, 9]])).unwrap();
        assert_eq!(found, [[1.0, 2.5, 3.0, 4.0]]);
        for wrong in [
            json!("x"),
            json!([1, 2, 3, 4]),
            json!([[1, 2, 3]]),
            json!([[1, 2, "3", 4]]),
            json!([[1e300, 0, 1, 1]]),
        ] {
            assert!(from_json(&wrong).unwrap_err().contains("[x, y, width, height]"), "{wrong}");
        }
    }

    #[test]
    fn boxes_follow_the_crop_and_the_mirror() {
        // The right half of a picture of 40 x 20 in a view of 10 x 10: half its size.
        let frame = Frame { scale: [0.5, 0.5], corner: [10.0, 0.0], flip: false, side: 10 };
        let boxes =
            [[20.0, 0.0, 10.0, 20.0], [0.0, 0.0, 19.0, 20.0], [10.0, 4.0, 20.0, 8.0], [30.0, 0.0, 1.0, 20.0]];
        assert_eq!(in_view(&boxes, &frame), [[0.0, 0.0, 0.5, 1.0], [0.0, 0.2, 0.5, 0.6]]);
        let mirrored = in_view(&boxes, &Frame { flip: true, ..frame });
        assert_eq!(mirrored, [[0.5, 0.0, 1.0, 1.0], [0.5, 0.2, 1.0, 0.6]]);
        // A box of which a fifth is left is gone.
        assert_eq!(in_view(&[[12.0, 0.0, 10.0, 20.0]], &frame), [[0.0f32; 4]; 0]);
    }
}
