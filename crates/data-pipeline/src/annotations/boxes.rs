//! Object boxes: `[x, y, width, height]` in an image, and fractions of the side in a view.

use serde_json::Value;

use crate::image::ViewFrame;

/// Minimum visible fraction of a box's area. A view leaves out boxes with less.
const MIN_VISIBLE: f64 = 0.25;

/// Parses a list of boxes `[x, y, width, height]` in pixels of the stored image (COCO's form). Boxes without an area are
/// left out.
pub(super) fn from_json(value: &Value) -> Result<Vec<[f32; 4]>, String> {
    let wrong = || "the value is not a list of boxes [x, y, width, height] in pixels".to_string();
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

/// Applies an EXIF orientation to a box in an image of `width` by `height` pixels.
pub(super) fn upright([x, y, w, h]: [f32; 4], width: f32, height: f32, orientation: u8) -> [f32; 4] {
    let (right, bottom) = (width - x - w, height - y - h);
    match orientation {
        2 => [right, y, w, h],
        3 => [right, bottom, w, h],
        4 => [x, bottom, w, h],
        5 => [y, x, h, w],
        6 => [bottom, x, h, w],
        7 => [bottom, right, h, w],
        8 => [y, right, h, w],
        _ => [x, y, w, h],
    }
}

/// Returns the boxes that are visible in a view: left, top, right and bottom as fractions of its side, clipped at its
/// edges.
///
/// Boxes with less than a quarter or less than a pixel visible are left out.
pub(super) fn in_view(boxes: &[[f32; 4]], frame: &ViewFrame) -> Vec<[f32; 4]> {
    let side = frame.side as f64;
    let visible = |[x, y, width, height]: &[f32; 4]| {
        // Start and end along an axis as fractions of the view, before and after clipping.
        let span = |start: f32, length: f32, axis: usize| {
            let [start, end] = [f64::from(start), f64::from(start) + f64::from(length)]
                .map(|p| (p * frame.scale[axis] - frame.corner[axis]) / side);
            (start, end, start.clamp(0.0, 1.0), end.clamp(0.0, 1.0))
        };
        let (x, y) = (span(*x, *width, 0), span(*y, *height, 1));
        let (whole, left) = ((x.1 - x.0) * (y.1 - y.0), (x.3 - x.2) * (y.3 - y.2));
        if left < MIN_VISIBLE * whole || (x.3 - x.2).min(y.3 - y.2) * side < 1.0 {
            return None;
        }
        let (start, end) = if frame.flip { (1.0 - x.3, 1.0 - x.2) } else { (x.2, x.3) };
        Some([start, y.2, end, y.3].map(|fraction| fraction as f32))
    };
    boxes.iter().filter_map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{RgbImage, orientation};
    use serde_json::json;

    #[test]
    fn malformed_boxes_are_refused() {
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
    fn boxes_follow_the_crop_and_the_flip() {
        // The right half of an image of 40 x 20, in a view of 10 x 10 at half scale.
        let frame = ViewFrame { scale: [0.5, 0.5], corner: [10.0, 0.0], flip: false, side: 10 };
        let boxes =
            [[20.0, 0.0, 10.0, 20.0], [0.0, 0.0, 19.0, 20.0], [10.0, 4.0, 20.0, 8.0], [30.0, 0.0, 1.0, 20.0]];
        assert_eq!(in_view(&boxes, &frame), [[0.0, 0.0, 0.5, 1.0], [0.0, 0.2, 0.5, 0.6]]);
        let mirrored = in_view(&boxes, &ViewFrame { flip: true, ..frame });
        assert_eq!(mirrored, [[0.5, 0.0, 1.0, 1.0], [0.5, 0.2, 1.0, 0.6]]);
        // A fifth of the box is visible.
        assert_eq!(in_view(&[[12.0, 0.0, 10.0, 20.0]], &frame), [[0.0f32; 4]; 0]);
    }

    #[test]
    fn boxes_are_rotated_with_their_images() {
        // Two rows of three pixels: 1 2 3 / 4 5 6.
        let image = RgbImage { width: 3, height: 2, pixels: (1..=6).flat_map(|v| [v; 3]).collect() };
        for orientation in 1..=8 {
            let rotated = orientation::upright(image.clone(), orientation);
            // The box of the pixel 3, at (2, 0), contains the pixel 3 afterwards.
            let [x, y, w, h] = upright([2.0, 0.0, 1.0, 1.0], 3.0, 2.0, orientation);
            assert_eq!((w, h), (1.0, 1.0));
            let at = y as usize * rotated.width + x as usize;
            assert_eq!(rotated.pixels[3 * at], 3, "{orientation}");
        }
    }
}
