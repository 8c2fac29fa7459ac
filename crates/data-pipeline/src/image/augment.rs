//! The training transform: random resized crop, flip, colour jitter and erasing. Its parameters are drawn once per
//! sample, as plain data.

use file_ext::SplitMix64;
use serde::{Deserialize, Serialize};

use crate::image::decode::Decoded;
use crate::image::frame::ViewFrame;
use crate::image::resize::Rect;
use crate::image::transform::{normalize_into, resized};
use crate::image::{Preprocess, color};
use crate::{Error, Result};

/// Settings of the training transform; the default is open_clip's.
///
/// ```
/// use data_pipeline::AugmentConfig;
/// let config = AugmentConfig::default().with_scale([0.4, 1.0]).with_flip(0.5);
/// config.validate()?;
/// assert!(config.with_flip(2.0).validate().is_err());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct AugmentConfig {
    /// Range of the crop area, as a fraction of the image area.
    pub scale: [f64; 2],
    /// Range of the crop's aspect ratio (width / height).
    pub ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Colour jitter. Default: none.
    pub color_jitter: Option<ColorJitter>,
    /// Probability of erasing a rectangle (2 % to 33 % of the area) to the mean colour.
    pub erase: f64,
}

/// Strength of colour jitter, with the meaning of torchvision's `ColorJitter`.
///
/// ```
/// use data_pipeline::AugmentConfig;
/// use data_pipeline::image::ColorJitter;
/// let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, probability: 0.8 };
/// AugmentConfig::default().with_color_jitter(Some(jitter)).validate()?;
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// Range of the brightness factor: 1 ± this, up to 10.
    pub brightness: f64,
    /// Range of the contrast factor: 1 ± this, up to 10.
    pub contrast: f64,
    /// Range of the saturation factor: 1 ± this, up to 10.
    pub saturation: f64,
    /// Range of the hue shift: ± this, up to 0.5 (half the colour circle).
    pub hue: f64,
    /// Probability of applying the jitter.
    pub probability: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        AugmentConfig {
            scale: [0.9, 1.0],
            ratio: [0.75, 4.0 / 3.0],
            flip: 0.0,
            color_jitter: None,
            erase: 0.0,
        }
    }
}

impl AugmentConfig {
    /// Sets the range of the fraction of the area that a crop keeps.
    #[must_use]
    pub fn with_scale(mut self, scale: [f64; 2]) -> Self {
        self.scale = scale;
        self
    }

    /// Sets the range of a crop's aspect ratio.
    #[must_use]
    pub fn with_ratio(mut self, ratio: [f64; 2]) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets the probability of a horizontal flip.
    #[must_use]
    pub fn with_flip(mut self, flip: f64) -> Self {
        self.flip = flip;
        self
    }

    /// Sets the colour jitter.
    #[must_use]
    pub fn with_color_jitter(mut self, color_jitter: Option<ColorJitter>) -> Self {
        self.color_jitter = color_jitter;
        self
    }

    /// Sets the probability of erasing a rectangle.
    #[must_use]
    pub fn with_erase(mut self, erase: f64) -> Self {
        self.erase = erase;
        self
    }

    /// Checks the ranges of all settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &'static str, is_valid: bool, reason: String| {
            if is_valid { Ok(()) } else { Err(Error::setting(name, reason)) }
        };
        let probability = |name: &'static str, value: f64| {
            check(name, (0.0..=1.0).contains(&value), format!("{name} = {value} is not a probability"))
        };
        let [low, high] = self.scale;
        let [narrow, wide] = self.ratio;
        check(
            "scale",
            low > 0.0 && low <= high && high <= 1.0,
            format!("scale = [{low}, {high}] is not a range above 0 and up to 1"),
        )?;
        check(
            "ratio",
            narrow > 0.0 && narrow <= wide && wide.is_finite(),
            format!("ratio = [{narrow}, {wide}] is not a range of positive numbers"),
        )?;
        probability("flip", self.flip)?;
        probability("erase", self.erase)?;
        let Some(jitter) = &self.color_jitter else { return Ok(()) };
        for (name, value) in [
            ("color_jitter.brightness", jitter.brightness),
            ("color_jitter.contrast", jitter.contrast),
            ("color_jitter.saturation", jitter.saturation),
        ] {
            let is_valid = (0.0..=10.0).contains(&value);
            check(name, is_valid, format!("{name} = {value} is negative or too large"))?;
        }
        check(
            "color_jitter.hue",
            (0.0..=0.5).contains(&jitter.hue),
            format!("color_jitter.hue = {} is outside 0..=0.5", jitter.hue),
        )?;
        probability("color_jitter.probability", jitter.probability)
    }
}

/// Parameters of the training transform for one sample, enough to repeat it on another machine.
///
/// ```
/// use data_pipeline::AugmentConfig;
/// use data_pipeline::image::AugmentParams;
/// let params = AugmentParams::draw(&AugmentConfig::default(), 7, 640, 480);
/// let [x, y, width, height] = params.crop;
/// assert!(x + width <= 640 && y + height <= 480);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AugmentParams {
    /// Crop in pixels of the image: x, y, width, height.
    pub crop: [usize; 4],
    /// Whether the crop is mirrored.
    pub flip: bool,
    /// Colour changes, in the order of application.
    pub jitter: Vec<ColorChange>,
    /// Erased rectangle as fractions of the side: x, y, width, height.
    pub erase: Option<[f64; 4]>,
}

/// A colour change with its factor (for hue: the shift).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorChange {
    /// Brightness: blends with black.
    Brightness(f64),
    /// Contrast: blends with the mean grey.
    Contrast(f64),
    /// Saturation: blends with the grey image.
    Saturation(f64),
    /// Hue: a shift along the colour circle.
    Hue(f64),
}

impl AugmentParams {
    /// Draws parameters for an image of `width` x `height` pixels. Equal arguments give equal parameters.
    pub fn draw(config: &AugmentConfig, seed: u64, width: usize, height: usize) -> Self {
        let mut random = SplitMix64::new(seed);
        let crop = draw_crop(config, &mut random, width, height);
        let flip = random.chance(config.flip);
        let jitter =
            config.color_jitter.as_ref().map_or_else(Vec::new, |jitter| draw_jitter(jitter, &mut random));
        let erase = if random.chance(config.erase) { draw_erase(&mut random) } else { None };
        AugmentParams { crop, flip, jitter, erase }
    }
}

/// Draws a crop like torchvision's `RandomResizedCrop.get_params`: ten attempts, then the largest centred crop with an
/// allowed aspect ratio.
fn draw_crop(config: &AugmentConfig, random: &mut SplitMix64, width: usize, height: usize) -> [usize; 4] {
    let area = (width * height) as f64;
    let [narrow, wide] = config.ratio;
    for _ in 0..10 {
        let target = area * random.between(config.scale[0], config.scale[1]);
        let ratio = random.between(narrow.ln(), wide.ln()).exp();
        let w = (target * ratio).sqrt().round_ties_even() as usize;
        let h = (target / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let y = random.below(height - h + 1);
            let x = random.below(width - w + 1);
            return [x, y, w, h];
        }
    }
    let actual = width as f64 / height as f64;
    let (w, h) = if actual < narrow {
        (width, ((width as f64 / narrow).round_ties_even() as usize).clamp(1, height))
    } else if actual > wide {
        (((height as f64 * wide).round_ties_even() as usize).clamp(1, width), height)
    } else {
        (width, height)
    };
    [(width - w) / 2, (height - h) / 2, w, h]
}

fn draw_jitter(jitter: &ColorJitter, random: &mut SplitMix64) -> Vec<ColorChange> {
    if !random.chance(jitter.probability) {
        return Vec::new();
    }
    let mut factor = |range: f64| random.between((1.0 - range).max(0.0), 1.0 + range);
    let mut changes = vec![
        ColorChange::Brightness(factor(jitter.brightness)),
        ColorChange::Contrast(factor(jitter.contrast)),
        ColorChange::Saturation(factor(jitter.saturation)),
    ];
    changes.push(ColorChange::Hue(random.between(-jitter.hue, jitter.hue)));
    for last in (1..changes.len()).rev() {
        changes.swap(last, random.below(last + 1));
    }
    changes
}

/// Draws a rectangle like torchvision's `RandomErasing`: 2 % to 33 % of the area, ratio 0.3 to 3.3, ten attempts.
fn draw_erase(random: &mut SplitMix64) -> Option<[f64; 4]> {
    for _ in 0..10 {
        let area = random.between(0.02, 0.33);
        let ratio = random.between(0.3f64.ln(), 3.3f64.ln()).exp();
        let (w, h) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        if w < 1.0 && h < 1.0 {
            return Some([random.between(0.0, 1.0 - w), random.between(0.0, 1.0 - h), w, h]);
        }
    }
    None
}

/// Applies the training transform for one model: crops, resizes, flips, jitters colours, normalizes and erases.
///
/// Writes channel planes `[3, size, size]` into `out`. The parameters are clamped to the image, so parameters that
/// were drawn for another image cannot reach outside of it.
///
/// ```
/// use data_pipeline::image::{AugmentParams, Decoded, RgbImage, augment_into};
/// use data_pipeline::{AugmentConfig, Preprocess};
/// let image = Decoded::from(RgbImage { width: 40, height: 30, pixels: vec![128; 3 * 40 * 30] });
/// let params = AugmentParams::draw(&AugmentConfig::default(), 7, image.width(), image.height());
/// let mut out = vec![0f32; 3 * 16 * 16];
/// augment_into(&image, &params, &Preprocess::new(16), &mut out);
/// ```
pub fn augment_into(image: &Decoded, params: &AugmentParams, preprocess: &Preprocess, out: &mut [f32]) {
    let size = preprocess.size;
    let mut pixels = Vec::with_capacity(size * size * 3);
    let all = Rect { x: 0, y: 0, width: size, height: size };
    let part = crop_of(image, params);
    resized(image, part, (size, size), all, preprocess, |row| {
        let start = pixels.len();
        pixels.extend_from_slice(row);
        if params.flip {
            pixels[start..].as_chunks_mut::<3>().0.reverse();
        }
    });
    for change in &params.jitter {
        color::apply(&mut pixels, *change);
    }
    normalize_into(&pixels, preprocess, 0, out);
    if let Some([x, y, width, height]) = params.erase {
        let side = size as f64;
        let start = |share: f64| ((share * side) as usize).min(size - 1);
        let end = |from: f64, length: f64| (((from + length) * side).ceil() as usize).min(size);
        for plane in out.chunks_exact_mut(size * size) {
            for row in plane.chunks_exact_mut(size).take(end(y, height)).skip(start(y)) {
                row[start(x)..end(x, width)].fill(0.0);
            }
        }
    }
}

/// Returns the position of an augmented view in the image.
pub(crate) fn augment_frame(image: &Decoded, params: &AugmentParams, side: usize) -> ViewFrame {
    let part = crop_of(image, params);
    let scale = [side as f64 / part.width as f64, side as f64 / part.height as f64];
    let corner = [part.x as f64 * scale[0], part.y as f64 * scale[1]];
    ViewFrame { scale, corner, flip: params.flip, side }
}

/// Returns the crop, clamped to the image.
fn crop_of(image: &Decoded, params: &AugmentParams) -> Rect {
    let [x, y, width, height] = params.crop;
    let (x, y) = (x.min(image.width - 1), y.min(image.height - 1));
    Rect { x, y, width: width.clamp(1, image.width - x), height: height.clamp(1, image.height - y) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Interpolation, ResizeMode, RgbImage};
    use proptest::prelude::*;

    fn busy() -> AugmentConfig {
        AugmentConfig {
            scale: [0.2, 1.0],
            flip: 0.5,
            erase: 0.5,
            color_jitter: Some(ColorJitter {
                brightness: 0.4,
                contrast: 0.4,
                saturation: 0.4,
                hue: 0.1,
                probability: 0.8,
            }),
            ..AugmentConfig::default()
        }
    }

    proptest! {
        #[test]
        fn crops_lie_inside_and_draws_repeat(seed: u64, width in 1usize..300, height in 1usize..300) {
            let params = AugmentParams::draw(&busy(), seed, width, height);
            let [x, y, w, h] = params.crop;
            prop_assert!(w >= 1 && h >= 1 && x + w <= width && y + h <= height);
            prop_assert_eq!(&params, &AugmentParams::draw(&busy(), seed, width, height));
            let image = Decoded::from(RgbImage { width, height, pixels: vec![77; width * height * 3] });
            let preprocess = Preprocess {
                size: 8, mean: [0.5; 3], std: [0.5; 3], interpolation: Interpolation::Bicubic, resize_mode: ResizeMode::Shortest, convert_rgb: false,
            };
            let mut out = vec![f32::NAN; 3 * 64];
            augment_into(&image, &params, &preprocess, &mut out);
            prop_assert!(out.iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn full_crop_without_changes_equals_the_squashed_image() {
        let pixels = (0..6 * 6 * 3).map(|i| (i * 37) as u8).collect::<Vec<_>>();
        let image = Decoded::from(RgbImage { width: 6, height: 6, pixels });
        let preprocess = Preprocess {
            size: 4,
            mean: [0.5; 3],
            std: [0.5; 3],
            interpolation: Interpolation::Bicubic,
            resize_mode: ResizeMode::Squash,
            convert_rgb: false,
        };
        let mut params = AugmentParams { crop: [0, 0, 6, 6], flip: false, jitter: vec![], erase: None };
        let (mut plain, mut other) = (vec![0f32; 48], vec![0f32; 48]);
        crate::image::eval_into(&image, &preprocess, &mut plain);
        augment_into(&image, &params, &preprocess, &mut other);
        assert_eq!(plain, other);
        params.flip = true;
        augment_into(&image, &params, &preprocess, &mut other);
        assert_eq!(plain[0..4].iter().rev().collect::<Vec<_>>(), other[0..4].iter().collect::<Vec<_>>());
    }

    #[test]
    fn invalid_settings_are_named() {
        busy().validate().unwrap();
        for (config, wanted) in [
            (busy().with_scale([0.9, 0.1]), "scale"),
            (busy().with_flip(2.0), "flip"),
            (busy().with_ratio([0.0, 1.0]), "ratio"),
        ] {
            let error = config.validate().unwrap_err();
            assert!(matches!(error, Error::Setting { name, .. } if name == wanted), "{error:?}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    fn preprocess(size: usize) -> Preprocess {
        Preprocess {
            size,
            mean: [0.5; 3],
            std: [0.25; 3],
            interpolation: Interpolation::Bicubic,
            resize_mode: ResizeMode::Squash,
            convert_rgb: false,
        }
    }

    fn augmented(
        config: &AugmentConfig,
        seed: u64,
        color: [u8; 3],
        size: usize,
    ) -> (AugmentParams, Vec<f32>) {
        let image = Decoded::from(RgbImage { width: size, height: size, pixels: color.repeat(size * size) });
        let params = AugmentParams::draw(config, seed, size, size);
        let mut out = vec![f32::NAN; 3 * size * size];
        augment_into(&image, &params, &preprocess(size), &mut out);
        (params, out)
    }

    #[test]
    fn colour_jitter_applies_the_drawn_factor() {
        let only = |brightness| ColorJitter {
            brightness,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
            probability: 1.0,
        };
        let config = AugmentConfig { color_jitter: Some(only(0.5)), ..AugmentConfig::default() };
        let mut factors = Vec::new();
        for seed in 0..50 {
            let (params, out) = augmented(&config, seed, [200, 100, 40], 4);
            assert_eq!((&params, &out), (&augmented(&config, seed, [200, 100, 40], 4).0, &out));
            assert_eq!(params.jitter.len(), 4);
            let factor = params.jitter.iter().find_map(|change| match change {
                ColorChange::Brightness(factor) => Some(*factor),
                _ => None,
            });
            let factor = factor.unwrap();
            assert!((0.5..=1.5).contains(&factor));
            for (plane, value) in out.chunks_exact(16).zip([200.0, 100.0, 40.0]) {
                // PIL truncates to an integer.
                let pixel = (value * factor).min(255.0).floor() as f32;
                let wanted = (pixel / 255.0 - 0.5) / 0.25;
                // An identity change of hue or saturation may add a rounding.
                let step = 1.0 / 255.0 / 0.25;
                assert!(
                    plane.iter().all(|found| (found - wanted).abs() <= step * 1.01),
                    "{factor}: {plane:?}"
                );
            }
            factors.push(factor);
        }
        let mean = factors.iter().sum::<f64>() / 50.0;
        assert!(factors.iter().any(|f| *f < 0.7) && factors.iter().any(|f| *f > 1.3), "{factors:?}");
        assert!((0.85..1.15).contains(&mean), "{mean}");
        let never = ColorJitter { probability: 0.0, ..only(0.5) };
        let never = AugmentConfig { color_jitter: Some(never), ..AugmentConfig::default() };
        assert!((0..50).all(|seed| AugmentParams::draw(&never, seed, 4, 4).jitter.is_empty()));
    }

    #[test]
    fn erasing_fills_one_rectangle_with_the_mean() {
        let config = AugmentConfig { erase: 1.0, ..AugmentConfig::default() };
        let size = 100;
        for seed in 0..50 {
            let (params, out) = augmented(&config, seed, [255; 3], size);
            let [x, y, width, height] = params.erase.unwrap();
            assert!((0.02..=0.33).contains(&(width * height)), "{width} x {height}");
            assert!((0.3..=3.3).contains(&(width / height)), "{width} x {height}");
            assert!(x >= 0.0 && y >= 0.0 && x + width <= 1.0 && y + height <= 1.0);
            let places = (0..size * size).filter(|i| out[*i] == 0.0).collect::<Vec<_>>();
            let (left, right) = bounds(places.iter().map(|i| i % size));
            let (top, bottom) = bounds(places.iter().map(|i| i / size));
            // One full rectangle equals the mean (0 after normalization), and nothing else changed.
            assert_eq!(places.len(), (right - left) * (bottom - top));
            assert_eq!(out.iter().filter(|v| **v == 0.0).count(), 3 * places.len());
            assert!(out.iter().all(|v| *v == 0.0 || *v == 2.0));
            // Rounding to pixels widens each side by two at most.
            let side = |share: f64| share * size as f64;
            assert!(((right - left) as f64 - side(width)).abs() <= 2.0);
            assert!(((bottom - top) as f64 - side(height)).abs() <= 2.0);
            assert_eq!(out, augmented(&config, seed, [255; 3], size).1);
        }
    }

    fn bounds(values: impl Iterator<Item = usize> + Clone) -> (usize, usize) {
        (values.clone().min().unwrap(), values.max().unwrap() + 1)
    }
}
