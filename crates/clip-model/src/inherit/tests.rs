//! Tests of weight inheritance: against slices by hand, and against networks that are truncated at run time.

use tch::{Device, Kind, Tensor};

use super::*;

const VIT: &str = r#"{"layers": 5, "width": 24, "head_width": 8, "patch_size": 8, "image_size": 32}"#;
const SMALL_VIT: &str = r#"{"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}"#;
const RESNET: &str =
    r#"{"layers": [2, 3, 1, 2], "width": 8, "head_width": 64, "patch_size": null, "image_size": 64}"#;
const SMALL_RESNET: &str =
    r#"{"layers": [1, 1, 1, 2], "width": 4, "head_width": 64, "patch_size": null, "image_size": 64}"#;
const TEXT: &str = r#"{"layers": 4, "width": 24, "heads": 3, "vocab_size": 32, "context_length": 8}"#;
const SMALL_TEXT: &str = r#"{"layers": 2, "width": 16, "heads": 2, "vocab_size": 32, "context_length": 8}"#;

fn config(embed_dim: i64, vision: &str, text: &str) -> ClipConfig {
    let json = format!(r#"{{"embed_dim": {embed_dim}, "vision_cfg": {vision}, "text_cfg": {text}}}"#);
    ClipConfig::from_json("test", &json).unwrap()
}

/// Creates a model with random values in all parameters, including those that are 0 or 1 at first.
fn model(config: &ClipConfig, seed: u64) -> Clip {
    let model = Clip::new(config, Device::Cpu, seed).unwrap();
    crate::seeded(seed, || {
        tch::no_grad(|| {
            for entry in model.params().state().filter(|p| p.tensor.kind() == Kind::Float) {
                let noise = entry.tensor.rand_like() * 0.2;
                let _ = entry.tensor.shallow_clone().g_add_(&noise);
            }
        });
    });
    model
}

fn inputs(size: i64) -> (Tensor, Tensor) {
    crate::seeded(9, || {
        let images = Tensor::randn([3, 3, size, size], (Kind::Float, Device::Cpu));
        (images, Tensor::randint(31, [3, 8], (Kind::Int64, Device::Cpu)))
    })
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().to_kind(Kind::Double).double_value(&[])
}

#[test]
fn a_student_of_the_same_shape_equals_the_teacher() {
    for vision in [VIT, RESNET, r#"{"timm_model_name": "resnet18", "image_size": 32}"#] {
        let config = config(16, vision, TEXT);
        let (student, teacher) = (model(&config, 1), model(&config, 2));
        let (images, tokens) = inputs(config.vision_cfg.image_size);
        let both = |clip: &Clip| (clip.encode_image(&images).unwrap(), clip.encode_text(&tokens).unwrap());
        assert!(!both(&student).0.equal(&both(&teacher).0), "{vision}");
        inherit(&student, &teacher).unwrap();
        let (found, expected) = (both(&student), both(&teacher));
        assert!(found.0.equal(&expected.0) && found.1.equal(&expected.1), "{vision}");
        assert!(student.logit_scale.equal(&teacher.logit_scale));
    }
}

#[test]
fn slices_match_those_by_hand() {
    let student = model(&config(8, SMALL_VIT, SMALL_TEXT), 1);
    let teacher = model(&config(16, VIT, TEXT), 2);
    inherit(&student, &teacher).unwrap();
    let inherited = |name: &str| student.params().get(name).unwrap().detach();
    let original = |name: &str| teacher.params().get(name).unwrap().detach();
    // 2 of 5 layers: stride 2. Row 20 of the student's 48 is row 4 of its keys, which start at row 24 in the teacher.
    let block = "transformer.resblocks";
    let (found, expected) = (
        inherited(&format!("visual.{block}.1.attn.in_proj_weight")),
        original(&format!("visual.{block}.2.attn.in_proj_weight")),
    );
    assert_eq!(found.double_value(&[20, 15]), expected.double_value(&[28, 15]));
    assert_eq!(found.double_value(&[47, 0]), expected.double_value(&[48 + 15, 0]));
    let (found, expected) = (
        inherited(&format!("visual.{block}.1.attn.in_proj_bias")),
        original(&format!("visual.{block}.2.attn.in_proj_bias")),
    );
    assert_eq!(found.double_value(&[16]), expected.double_value(&[24]));
    // The text tower takes 2 of 4 layers, and 64 of 96 inner channels.
    let (found, expected) = (
        inherited(&format!("{block}.1.mlp.c_proj.weight")),
        original(&format!("{block}.2.mlp.c_proj.weight")),
    );
    assert!(found.equal(&expected.narrow(0, 0, 16).narrow(1, 0, 64)));
    assert!(
        inherited("text_projection").equal(&original("text_projection").narrow(0, 0, 16).narrow(1, 0, 8))
    );
    assert!(inherited("visual.conv1.weight").equal(&original("visual.conv1.weight").narrow(0, 0, 16)));
    assert!(inherited("logit_scale").equal(&original("logit_scale")));
}

#[test]
fn a_resnet_inherits_running_statistics() {
    let student = model(&config(8, SMALL_RESNET, SMALL_TEXT), 1);
    let teacher = model(&config(16, RESNET, TEXT), 2);
    inherit(&student, &teacher).unwrap();
    let inherited = |name: &str| student.params().get(name).unwrap().detach();
    let original = |name: &str| teacher.params().get(name).unwrap().detach();
    for (found, expected) in [
        // Stage 4 keeps both blocks.
        ("visual.layer4.1.bn3.running_var", "visual.layer4.1.bn3.running_var"),
        ("visual.layer1.0.downsample.1.running_mean", "visual.layer1.0.downsample.1.running_mean"),
        ("visual.bn1.weight", "visual.bn1.weight"),
    ] {
        let width = inherited(found).size()[0];
        assert!(inherited(found).equal(&original(expected).narrow(0, 0, width)), "{found}");
    }
    let name = "visual.layer2.0.conv2.weight";
    assert!(inherited(name).equal(&original(name).narrow(0, 0, 8).narrow(1, 0, 8)));
    let name = "visual.attnpool.q_proj.weight";
    assert!(inherited(name).equal(&original(name).narrow(0, 0, 128).narrow(1, 0, 128)));
}

/// The towers of `teacher`, computed by plain tensor operations on the leading parts only.
mod by_hand {
    use super::*;

    fn linear(xs: &Tensor, clip: &Clip, name: &str, rows: i64, columns: i64) -> Tensor {
        let get = |part: &str| clip.params().get(&format!("{name}.{part}")).unwrap();
        xs.matmul(&get("weight").narrow(0, 0, rows).narrow(1, 0, columns).tr())
            + get("bias").narrow(0, 0, rows)
    }

    fn norm(xs: &Tensor, clip: &Clip, name: &str) -> Tensor {
        let width = xs.size()[xs.dim() - 1];
        let get = |part: &str| clip.params().get(&format!("{name}.{part}")).unwrap().narrow(0, 0, width);
        let mean = xs.mean_dim(-1, true, Kind::Float);
        let centred = xs - mean;
        let variance = (&centred * &centred).mean_dim(-1, true, Kind::Float);
        centred / (variance + 1e-5).sqrt() * get("weight") + get("bias")
    }

    /// Computes one block on `[batch, seq, width]` with `heads` of the teacher's `all` heads of 8 channels.
    fn block(xs: Tensor, clip: &Clip, name: &str, heads: i64, all: i64, causal: bool) -> Tensor {
        let width = xs.size()[2];
        let seq = xs.size()[1];
        let normed = norm(&xs, clip, &format!("{name}.ln_1"));
        let weight = clip.params().get(&format!("{name}.attn.in_proj_weight")).unwrap();
        let bias = clip.params().get(&format!("{name}.attn.in_proj_bias")).unwrap();
        let mut mixed = Vec::new();
        for head in 0..heads {
            let part = |which: i64| {
                let start = (which * all + head) * 8;
                normed.matmul(&weight.narrow(0, start, 8).narrow(1, 0, width).tr()) + bias.narrow(0, start, 8)
            };
            let mut scores = part(0).matmul(&part(1).transpose(1, 2)) / 8f64.sqrt();
            if causal {
                let later = Tensor::ones([seq, seq], (Kind::Float, Device::Cpu)).triu(1) * -1e9;
                scores += later;
            }
            mixed.push(scores.softmax(-1, Kind::Float).matmul(&part(2)));
        }
        let mixed = Tensor::cat(&mixed, 2);
        let xs = xs + linear(&mixed, clip, &format!("{name}.attn.out_proj"), width, heads * 8);
        let normed = norm(&xs, clip, &format!("{name}.ln_2"));
        let inner = linear(&normed, clip, &format!("{name}.mlp.c_fc"), 4 * width, width).gelu("none");
        xs + linear(&inner, clip, &format!("{name}.mlp.c_proj"), width, 4 * width)
    }

    pub(super) fn text(clip: &Clip, tokens: &Tensor) -> Tensor {
        let get = |name: &str| clip.params().get(name).unwrap();
        let table = get("token_embedding.weight").narrow(1, 0, 16);
        let rows = table.index_select(0, &tokens.view([-1])).view([tokens.size()[0], -1, 16]);
        let mut xs = rows + get("positional_embedding").narrow(1, 0, 16);
        for layer in [0, 2] {
            xs = block(xs, clip, &format!("transformer.resblocks.{layer}"), 2, 3, true);
        }
        let index = tokens.argmax(1, false).view([-1, 1, 1]).expand([-1, 1, 16], false);
        let pooled = norm(&xs, clip, "ln_final").gather(1, &index, false).squeeze_dim(1);
        pooled.matmul(&get("text_projection").narrow(0, 0, 16).narrow(1, 0, 8))
    }

    pub(super) fn image(clip: &Clip, images: &Tensor) -> Tensor {
        let get = |name: &str| clip.params().get(&format!("visual.{name}")).unwrap();
        let kernel = get("conv1.weight").narrow(0, 0, 16);
        let patches = images.conv2d(&kernel, None::<&Tensor>, [8, 8], [0, 0], [1, 1], 1).flatten(2, 3);
        let class = get("class_embedding").narrow(0, 0, 16).view([1, 1, 16]).expand([3, 1, 16], false);
        let xs = Tensor::cat(&[class, patches.transpose(1, 2)], 1);
        let mut xs = norm(&(xs + get("positional_embedding").narrow(1, 0, 16)), clip, "visual.ln_pre");
        for layer in [0, 2] {
            xs = block(xs, clip, &format!("visual.transformer.resblocks.{layer}"), 2, 3, false);
        }
        norm(&xs.select(1, 0), clip, "visual.ln_post").matmul(&get("proj").narrow(0, 0, 16).narrow(1, 0, 8))
    }
}

#[test]
fn a_smaller_student_is_the_truncated_network() {
    let student = model(&config(8, SMALL_VIT, SMALL_TEXT), 1);
    let teacher = model(&config(16, VIT, TEXT), 2);
    inherit(&student, &teacher).unwrap();
    let (images, tokens) = inputs(32);
    let text = difference(&student.encode_text(&tokens).unwrap(), &by_hand::text(&teacher, &tokens));
    let image = difference(&student.encode_image(&images).unwrap(), &by_hand::image(&teacher, &images));
    // The order of the sums differs.
    assert!(text < 1e-4 && image < 1e-4, "{text}, {image}");
}

#[test]
fn a_smaller_resnet_is_the_truncated_network() {
    // Set the weights of channels that the student lacks to zero, and silence skipped blocks by their last norm. The
    // teacher then computes the same result as the student.
    let student = model(&config(8, SMALL_RESNET, SMALL_TEXT), 1);
    let teacher = model(&config(16, RESNET, TEXT), 2);
    inherit(&student, &teacher).unwrap();
    tch::no_grad(|| {
        for entry in teacher.params().state().filter(|p| p.name.starts_with("visual.") && p.tensor.dim() > 0)
        {
            let skipped =
                ["layer1.1.", "layer2.1.", "layer2.2."].iter().any(|block| entry.name.contains(block));
            let last = entry.name.contains(".bn3.weight") || entry.name.contains(".bn3.bias");
            if skipped && last {
                let _ = entry.tensor.shallow_clone().zero_();
            }
            let Some(kept) = student.params().get(&entry.name) else { continue };
            // The query's heads are the student's first two of four, by rows of zeros in v and columns in c_proj.
            for (axis, (kept, whole)) in kept.size().iter().zip(entry.tensor.size()).enumerate() {
                if *kept < whole && !entry.name.ends_with("running_var") {
                    let _ = entry.tensor.narrow(axis as i64, *kept, whole - kept).zero_();
                }
            }
        }
    });
    let (images, _) = inputs(64);
    let expected = teacher.encode_image(&images).unwrap().narrow(1, 0, 8);
    let found = student.encode_image(&images).unwrap();
    let (error, scale) = (difference(&found, &expected), found.abs().max().double_value(&[]));
    assert!(error < 1e-4 * scale, "{error} of {scale}");
}

/// Asserts that inheritance at another image size gives the same weights as resizing a checkpoint.
fn assert_interpolated(teacher: &ClipConfig, image_size: i64) {
    let mut resized = teacher.clone();
    resized.vision_cfg.image_size = image_size;
    let (teacher, student) = (model(teacher, 2), model(&resized, 1));
    inherit(&student, &teacher).unwrap();
    let mut expected = teacher
        .params()
        .state()
        .map(|p| (p.name.clone(), p.tensor.shallow_clone()))
        .collect::<HashMap<_, _>>();
    let moved = resize::fit_image_size(student.params(), &mut expected).unwrap();
    assert!(!moved.is_empty());
    for name in moved {
        assert!(student.params().get(&name).unwrap().equal(&expected[&name]), "{name}");
    }
}

#[test]
fn another_grid_is_interpolated() {
    assert_interpolated(&config(16, VIT, TEXT), 48);
    assert_interpolated(&config(16, VIT, TEXT), 16);
    let siglip = crate::presets::get("ViT-B-16-SigLIP").unwrap();
    assert_interpolated(&siglip, 64);
    assert_interpolated(
        &config(16, r#"{"timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224}"#, TEXT),
        64,
    );
    // A narrower student takes the leading channels of the resized table.
    let teacher = model(&config(16, VIT, TEXT), 2);
    let student = model(&config(8, &SMALL_VIT.replace("32}", "48}"), SMALL_TEXT), 1);
    inherit(&student, &teacher).unwrap();
    let name = "visual.positional_embedding";
    let theirs = teacher.params().get(name).unwrap().narrow(1, 0, 16);
    let mut moved = HashMap::from([(name.to_string(), theirs)]);
    resize::fit_image_size(student.params(), &mut moved).unwrap();
    assert!(student.params().get(name).unwrap().equal(&moved[name]));
}

#[test]
fn a_weight_without_a_counterpart_is_refused() {
    let mut with_norm = config(16, VIT, TEXT);
    with_norm.vision_cfg.no_ln_pre = false;
    let mut without = with_norm.clone();
    without.vision_cfg.no_ln_pre = true;
    let error = inherit(&model(&without, 1), &model(&with_norm, 2)).unwrap_err().to_string();
    assert!(error.contains("visual.ln_pre.bias") && error.contains("no place"), "{error}");
}

#[test]
fn differences_are_named() {
    let teacher = config(16, VIT, TEXT);
    let error = |student: ClipConfig| check(&student, &teacher).unwrap_err().to_string();
    assert!(error(config(32, VIT, TEXT)).contains("embed_dim is 32"));
    assert!(error(config(16, &VIT.replace("24", "32"), TEXT)).contains("image width is 32"));
    assert!(error(config(16, &VIT.replace("5", "6"), TEXT)).contains("image layers is 6"));
    assert!(error(config(16, RESNET, TEXT)).contains("a ResNet and a ViT"));
    let other = SMALL_VIT.replace("\"head_width\": 8", "\"head_width\": 16");
    assert!(error(config(8, &other, TEXT)).contains("head width has to be equal, but is 16"));
    assert!(error(config(8, SMALL_VIT, &TEXT.replace("32", "33"))).contains("vocab_size"));
    let mut quick = config(8, SMALL_VIT, SMALL_TEXT);
    quick.quick_gelu = true;
    assert!(error(quick).contains("quick_gelu"));
    // The configurations do not show this difference. The weights do, and the student stays unchanged.
    let student = model(&config(8, &SMALL_VIT.replace("{", r#"{"mlp_ratio": 8.0, "#), SMALL_TEXT), 1);
    let before = student.params().get("logit_scale").unwrap().copy();
    let refused = inherit(&student, &model(&teacher, 2)).unwrap_err().to_string();
    assert!(refused.contains("mlp.c_fc.weight` is [128, 16]"), "{refused}");
    assert!(student.params().get("logit_scale").unwrap().equal(&before));
}

#[test]
fn published_students_fit_their_teachers() {
    for (student, teacher) in [
        ("TinyCLIP-ViT-40M-32-Text-19M", "ViT-B-32"),
        ("TinyCLIP-ViT-39M-16-Text-19M", "ViT-B-16"),
        ("TinyCLIP-ViT-8M-16-Text-3M", "ViT-B-16"),
        ("TinyCLIP-ResNet-30M-Text-29M", "RN50"),
        ("TinyCLIP-ResNet-19M-Text-19M", "RN50"),
    ] {
        let get = |name: &str| crate::presets::get(name).unwrap();
        check(&get(student), &get(teacher)).unwrap_or_else(|e| panic!("{student}: {e}"));
    }
}
