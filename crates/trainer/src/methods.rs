//! The methods that this project implements, each with an example recipe.

/// A training or distillation method: a published one, or the project's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Short name, which is also the name of its recipe.
    pub name: &'static str,
    /// Summary of the method: what the student learns from the teacher.
    pub what: &'static str,
    /// The paper.
    pub source: &'static str,
    /// Its recipe, from the project's root.
    pub recipe: &'static str,
}

/// All methods; `docs/methods.md` describes each one with its formulas.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    Method { name: "clip-rd", what: "relations within and between teacher and student", source: "CLIP-RD (2026)", recipe: "configs/recipes/methods/clip-rd.toml" },
    Method { name: "clip", what: "contrastive pre-training, no teacher", source: "CLIP (Radford et al. 2021)", recipe: "configs/recipes/methods/clip.toml" },
    Method { name: "siglip", what: "pairwise sigmoid pre-training, no teacher", source: "SigLIP (Zhai et al. 2023)", recipe: "configs/recipes/methods/siglip.toml" },
    Method { name: "hinton", what: "soft targets of a zero-shot classifier", source: "Hinton et al. 2015", recipe: "configs/recipes/methods/hinton.toml" },
    Method { name: "clip-kd", what: "the published combination: relations, features, interactive contrastive learning", source: "CLIP-KD (Yang et al. 2024)", recipe: "configs/recipes/methods/clip-kd.toml" },
    Method { name: "clip-kd-all", what: "all six losses of CLIP-KD", source: "CLIP-KD (Yang et al. 2024)", recipe: "configs/recipes/methods/clip-kd-all.toml" },
    Method { name: "tinyclip", what: "affinity mimicking", source: "TinyCLIP (Wu et al. 2023)", recipe: "configs/recipes/methods/tinyclip.toml" },
    Method { name: "tinyclip-manual", what: "affinity mimicking, from the leading part of the teacher's weights", source: "TinyCLIP (Wu et al. 2023)", recipe: "configs/recipes/methods/tinyclip-manual.toml" },
    Method { name: "tinyclip-stages", what: "affinity mimicking in stages, each inheriting from the previous one", source: "TinyCLIP (Wu et al. 2023)", recipe: "configs/recipes/methods/tinyclip-stages.toml" },
    Method { name: "tinyclip-auto", what: "affinity mimicking while learned masks prune the teacher to the student", source: "TinyCLIP (Wu et al. 2023)", recipe: "configs/recipes/methods/tinyclip-auto.toml" },
    Method { name: "dclip", what: "cosine to a teacher whose images and captions attend to each other", source: "DCLIP", recipe: "configs/recipes/methods/dclip.toml" },
    Method { name: "rkd", what: "relative distances and angles within each modality", source: "RKD (Park et al. 2019)", recipe: "configs/recipes/methods/rkd.toml" },
    Method { name: "reinforced", what: "stored embeddings of a teacher in place of the teacher", source: "MobileCLIP (Vasu et al. 2024)", recipe: "configs/recipes/methods/reinforced.toml" },
    Method { name: "vocabulary", what: "relations between images and a word list; the captions need not contain the words", source: "this project", recipe: "configs/recipes/methods/vocabulary.toml" },
    Method { name: "structure", what: "relations within and across the modalities, in the batch and to anchors beyond it", source: "this project", recipe: "configs/recipes/methods/structure.toml" },
];
