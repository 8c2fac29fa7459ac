//! Published models by open_clip's names, `ARCHITECTURE:TAG`, and their repositories on the Hugging Face hub.
//!
//! Source: all entries of the registry of pretrained weights in open_clip 3.3 (`open_clip/pretrained.py`) that are on
//! the hub and whose architecture this project builds. The model card of a repository states its licence. Some licences
//! restrict use to research (Apple's DFN, MobileCLIP) or to non-commercial purposes (MetaCLIP); the weights of LAION,
//! OpenAI and Google have permissive licences.

/// Architecture, tag and repository. Names with `-quickgelu` have the same repositories as those without.
const MODELS: &[[&str; 3]] = &[
    ["RN50", "openai", "timm/resnet50_clip.openai"],
    ["RN50", "yfcc15m", "timm/resnet50_clip.yfcc15m"],
    ["RN50", "cc12m", "timm/resnet50_clip.cc12m"],
    ["RN101", "openai", "timm/resnet101_clip.openai"],
    ["RN101", "yfcc15m", "timm/resnet101_clip.yfcc15m"],
    ["RN50x4", "openai", "timm/resnet50x4_clip.openai"],
    ["RN50x16", "openai", "timm/resnet50x16_clip.openai"],
    ["RN50x64", "openai", "timm/resnet50x64_clip.openai"],
    ["ViT-B-32", "openai", "timm/vit_base_patch32_clip_224.openai"],
    ["ViT-B-32", "laion400m_e31", "timm/vit_base_patch32_clip_224.laion400m_e31"],
    ["ViT-B-32", "laion400m_e32", "timm/vit_base_patch32_clip_224.laion400m_e32"],
    ["ViT-B-32", "laion2b_e16", "timm/vit_base_patch32_clip_224.laion2b_e16"],
    ["ViT-B-32", "laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"],
    ["ViT-B-32", "datacomp_xl_s13b_b90k", "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"],
    ["ViT-B-32", "datacomp_m_s128m_b4k", "laion/CLIP-ViT-B-32-DataComp.M-s128M-b4K"],
    ["ViT-B-32", "commonpool_m_clip_s128m_b4k", "laion/CLIP-ViT-B-32-CommonPool.M.clip-s128M-b4K"],
    ["ViT-B-32", "commonpool_m_laion_s128m_b4k", "laion/CLIP-ViT-B-32-CommonPool.M.laion-s128M-b4K"],
    ["ViT-B-32", "commonpool_m_image_s128m_b4k", "laion/CLIP-ViT-B-32-CommonPool.M.image-s128M-b4K"],
    ["ViT-B-32", "commonpool_m_text_s128m_b4k", "laion/CLIP-ViT-B-32-CommonPool.M.text-s128M-b4K"],
    ["ViT-B-32", "commonpool_m_basic_s128m_b4k", "laion/CLIP-ViT-B-32-CommonPool.M.basic-s128M-b4K"],
    ["ViT-B-32", "commonpool_m_s128m_b4k", "laion/CLIP-ViT-B-32-CommonPool.M-s128M-b4K"],
    ["ViT-B-32", "datacomp_s_s13m_b4k", "laion/CLIP-ViT-B-32-DataComp.S-s13M-b4K"],
    ["ViT-B-32", "commonpool_s_clip_s13m_b4k", "laion/CLIP-ViT-B-32-CommonPool.S.clip-s13M-b4K"],
    ["ViT-B-32", "commonpool_s_laion_s13m_b4k", "laion/CLIP-ViT-B-32-CommonPool.S.laion-s13M-b4K"],
    ["ViT-B-32", "commonpool_s_image_s13m_b4k", "laion/CLIP-ViT-B-32-CommonPool.S.image-s13M-b4K"],
    ["ViT-B-32", "commonpool_s_text_s13m_b4k", "laion/CLIP-ViT-B-32-CommonPool.S.text-s13M-b4K"],
    ["ViT-B-32", "commonpool_s_basic_s13m_b4k", "laion/CLIP-ViT-B-32-CommonPool.S.basic-s13M-b4K"],
    ["ViT-B-32", "commonpool_s_s13m_b4k", "laion/CLIP-ViT-B-32-CommonPool.S-s13M-b4K"],
    ["ViT-B-32", "metaclip_400m", "timm/vit_base_patch32_clip_224.metaclip_400m"],
    ["ViT-B-32", "metaclip_fullcc", "timm/vit_base_patch32_clip_224.metaclip_2pt5b"],
    ["ViT-B-32-256", "datacomp_s34b_b86k", "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"],
    ["ViT-B-16", "openai", "timm/vit_base_patch16_clip_224.openai"],
    ["ViT-B-16", "laion400m_e31", "timm/vit_base_patch16_clip_224.laion400m_e31"],
    ["ViT-B-16", "laion400m_e32", "timm/vit_base_patch16_clip_224.laion400m_e32"],
    ["ViT-B-16", "laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"],
    ["ViT-B-16", "datacomp_xl_s13b_b90k", "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K"],
    ["ViT-B-16", "datacomp_l_s1b_b8k", "laion/CLIP-ViT-B-16-DataComp.L-s1B-b8K"],
    ["ViT-B-16", "commonpool_l_clip_s1b_b8k", "laion/CLIP-ViT-B-16-CommonPool.L.clip-s1B-b8K"],
    ["ViT-B-16", "commonpool_l_laion_s1b_b8k", "laion/CLIP-ViT-B-16-CommonPool.L.laion-s1B-b8K"],
    ["ViT-B-16", "commonpool_l_image_s1b_b8k", "laion/CLIP-ViT-B-16-CommonPool.L.image-s1B-b8K"],
    ["ViT-B-16", "commonpool_l_text_s1b_b8k", "laion/CLIP-ViT-B-16-CommonPool.L.text-s1B-b8K"],
    ["ViT-B-16", "commonpool_l_basic_s1b_b8k", "laion/CLIP-ViT-B-16-CommonPool.L.basic-s1B-b8K"],
    ["ViT-B-16", "commonpool_l_s1b_b8k", "laion/CLIP-ViT-B-16-CommonPool.L-s1B-b8K"],
    ["ViT-B-16", "dfn2b", "apple/DFN2B-CLIP-ViT-B-16"],
    ["ViT-B-16", "metaclip_400m", "timm/vit_base_patch16_clip_224.metaclip_400m"],
    ["ViT-B-16", "metaclip_fullcc", "timm/vit_base_patch16_clip_224.metaclip_2pt5b"],
    ["ViT-B-16-plus-240", "laion400m_e31", "timm/vit_base_patch16_plus_clip_240.laion400m_e31"],
    ["ViT-L-14", "openai", "timm/vit_large_patch14_clip_224.openai"],
    ["ViT-L-14", "laion400m_e31", "timm/vit_large_patch14_clip_224.laion400m_e31"],
    ["ViT-L-14", "laion400m_e32", "timm/vit_large_patch14_clip_224.laion400m_e32"],
    ["ViT-L-14", "laion2b_s32b_b82k", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"],
    ["ViT-L-14", "datacomp_xl_s13b_b90k", "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"],
    ["ViT-L-14", "commonpool_xl_clip_s13b_b90k", "laion/CLIP-ViT-L-14-CommonPool.XL.clip-s13B-b90K"],
    ["ViT-L-14", "commonpool_xl_laion_s13b_b90k", "laion/CLIP-ViT-L-14-CommonPool.XL.laion-s13B-b90K"],
    ["ViT-L-14", "commonpool_xl_s13b_b90k", "laion/CLIP-ViT-L-14-CommonPool.XL-s13B-b90K"],
    ["ViT-L-14", "metaclip_400m", "timm/vit_large_patch14_clip_224.metaclip_400m"],
    ["ViT-L-14", "metaclip_fullcc", "timm/vit_large_patch14_clip_224.metaclip_2pt5b"],
    ["ViT-L-14", "dfn2b", "apple/DFN2B-CLIP-ViT-L-14"],
    ["ViT-L-14", "dfn2b_s39b", "apple/DFN2B-CLIP-ViT-L-14-39B"],
    ["ViT-L-14-336", "openai", "timm/vit_large_patch14_clip_336.openai"],
    ["ViT-H-14", "laion2b_s32b_b79k", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"],
    ["ViT-H-14", "metaclip_fullcc", "timm/vit_huge_patch14_clip_224.metaclip_2pt5b"],
    ["ViT-H-14", "metaclip_altogether", "timm/vit_huge_patch14_clip_224.metaclip_altogether"],
    ["ViT-H-14", "dfn5b", "apple/DFN5B-CLIP-ViT-H-14"],
    ["ViT-H-14-378", "dfn5b", "apple/DFN5B-CLIP-ViT-H-14-378"],
    ["ViT-g-14", "laion2b_s12b_b42k", "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"],
    ["ViT-g-14", "laion2b_s34b_b88k", "laion/CLIP-ViT-g-14-laion2B-s34B-b88K"],
    ["ViT-bigG-14", "laion2b_s39b_b160k", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"],
    ["ViT-bigG-14", "metaclip_fullcc", "timm/vit_gigantic_patch14_clip_224.metaclip_2pt5b"],
    ["convnext_base", "laion400m_s13b_b51k", "laion/CLIP-convnext_base-laion400M-s13B-b51K"],
    ["convnext_base_w", "laion2b_s13b_b82k", "laion/CLIP-convnext_base_w-laion2B-s13B-b82K"],
    ["convnext_base_w", "laion2b_s13b_b82k_augreg", "laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg"],
    ["convnext_base_w", "laion_aesthetic_s13b_b82k", "laion/CLIP-convnext_base_w-laion_aesthetic-s13B-b82K"],
    [
        "convnext_base_w_320",
        "laion_aesthetic_s13b_b82k",
        "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K",
    ],
    [
        "convnext_base_w_320",
        "laion_aesthetic_s13b_b82k_augreg",
        "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg",
    ],
    ["ViT-B-16-SigLIP", "webli", "timm/ViT-B-16-SigLIP"],
    ["ViT-B-16-SigLIP-256", "webli", "timm/ViT-B-16-SigLIP-256"],
    ["ViT-B-16-SigLIP-i18n-256", "webli", "timm/ViT-B-16-SigLIP-i18n-256"],
    ["ViT-B-16-SigLIP-384", "webli", "timm/ViT-B-16-SigLIP-384"],
    ["ViT-B-16-SigLIP-512", "webli", "timm/ViT-B-16-SigLIP-512"],
    ["ViT-L-16-SigLIP-256", "webli", "timm/ViT-L-16-SigLIP-256"],
    ["ViT-L-16-SigLIP-384", "webli", "timm/ViT-L-16-SigLIP-384"],
    ["ViT-SO400M-14-SigLIP", "webli", "timm/ViT-SO400M-14-SigLIP"],
    ["ViT-SO400M-16-SigLIP-i18n-256", "webli", "timm/ViT-SO400M-16-SigLIP-i18n-256"],
    ["ViT-SO400M-14-SigLIP-378", "webli", "timm/ViT-SO400M-14-SigLIP-384"],
    ["ViT-SO400M-14-SigLIP-384", "webli", "timm/ViT-SO400M-14-SigLIP-384"],
    ["ViT-B-32-SigLIP2-256", "webli", "timm/ViT-B-32-SigLIP2-256"],
    ["ViT-B-16-SigLIP2", "webli", "timm/ViT-B-16-SigLIP2"],
    ["ViT-B-16-SigLIP2-256", "webli", "timm/ViT-B-16-SigLIP2-256"],
    ["ViT-B-16-SigLIP2-384", "webli", "timm/ViT-B-16-SigLIP2-384"],
    ["ViT-B-16-SigLIP2-512", "webli", "timm/ViT-B-16-SigLIP2-512"],
    ["ViT-L-16-SigLIP2-256", "webli", "timm/ViT-L-16-SigLIP2-256"],
    ["ViT-L-16-SigLIP2-384", "webli", "timm/ViT-L-16-SigLIP2-384"],
    ["ViT-L-16-SigLIP2-512", "webli", "timm/ViT-L-16-SigLIP2-512"],
    ["ViT-SO400M-14-SigLIP2", "webli", "timm/ViT-SO400M-14-SigLIP2"],
    ["ViT-SO400M-14-SigLIP2-378", "webli", "timm/ViT-SO400M-14-SigLIP2-378"],
    ["ViT-SO400M-16-SigLIP2-256", "webli", "timm/ViT-SO400M-16-SigLIP2-256"],
    ["ViT-SO400M-16-SigLIP2-384", "webli", "timm/ViT-SO400M-16-SigLIP2-384"],
    ["ViT-SO400M-16-SigLIP2-512", "webli", "timm/ViT-SO400M-16-SigLIP2-512"],
    ["ViT-gopt-16-SigLIP2-256", "webli", "timm/ViT-gopt-16-SigLIP2-256"],
    ["ViT-gopt-16-SigLIP2-384", "webli", "timm/ViT-gopt-16-SigLIP2-384"],
    ["ViT-L-14-CLIPA", "datacomp1b", "UCSC-VLAA/ViT-L-14-CLIPA-datacomp1B"],
    ["ViT-L-14-CLIPA-336", "datacomp1b", "UCSC-VLAA/ViT-L-14-CLIPA-336-datacomp1B"],
    ["ViT-H-14-CLIPA", "datacomp1b", "UCSC-VLAA/ViT-H-14-CLIPA-datacomp1B"],
    ["ViT-H-14-CLIPA-336", "laion2b", "UCSC-VLAA/ViT-H-14-CLIPA-336-laion2B"],
    ["ViT-H-14-CLIPA-336", "datacomp1b", "UCSC-VLAA/ViT-H-14-CLIPA-336-datacomp1B"],
    ["ViT-bigG-14-CLIPA", "datacomp1b", "UCSC-VLAA/ViT-bigG-14-CLIPA-datacomp1B"],
    ["ViT-bigG-14-CLIPA-336", "datacomp1b", "UCSC-VLAA/ViT-bigG-14-CLIPA-336-datacomp1B"],
    ["MobileCLIP-S1", "datacompdr", "apple/MobileCLIP-S1-OpenCLIP"],
    ["MobileCLIP-S2", "datacompdr", "apple/MobileCLIP-S2-OpenCLIP"],
    ["MobileCLIP2-S0", "dfndr2b", "timm/MobileCLIP2-S0-OpenCLIP"],
    ["MobileCLIP2-S2", "dfndr2b", "timm/MobileCLIP2-S2-OpenCLIP"],
    ["ViT-H-14-worldwide", "metaclip2_worldwide", "timm/vit_huge_patch14_clip_224.metaclip2_worldwide"],
    ["ViT-H-14-worldwide-378", "metaclip2_worldwide", "timm/vit_huge_patch14_clip_378.metaclip2_worldwide"],
    [
        "ViT-bigG-14-worldwide",
        "metaclip2_worldwide",
        "timm/vit_gigantic_patch14_clip_224.metaclip2_worldwide",
    ],
    [
        "ViT-bigG-14-worldwide-378",
        "metaclip2_worldwide",
        "timm/vit_gigantic_patch14_clip_378.metaclip2_worldwide",
    ],
];

/// Result of [`find`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The repository, as `owner/name`.
    Repository(&'static str),
    /// An architecture without this tag, and its tags.
    UnknownTag(Vec<&'static str>),
    /// Not a name of this kind.
    Nothing,
}

/// Looks up a name such as `ViT-B-32:laion2b_s34b_b79k`. As in open_clip, tags ignore case, and `-` equals `_`.
pub(super) fn find(name: &str) -> Found {
    let Some((architecture, tag)) = name.split_once(':') else { return Found::Nothing };
    let tag = tag.to_ascii_lowercase().replace('-', "_");
    let entries = entries(architecture).collect::<Vec<_>>();
    match entries.iter().find(|[_, known, _]| *known == tag) {
        Some([_, _, repository]) => Found::Repository(repository),
        None if entries.is_empty() => Found::Nothing,
        None => Found::UnknownTag(entries.iter().map(|[_, tag, _]| *tag).collect()),
    }
}

/// Returns the tags of an architecture; empty for an unknown one.
pub(crate) fn tags(architecture: &str) -> Vec<&'static str> {
    entries(architecture).map(|[_, tag, _]| *tag).collect()
}

fn entries(architecture: &str) -> impl Iterator<Item = &'static [&'static str; 3]> {
    // OpenAI's names have a slash: ViT-B/32.
    let name = architecture.replace('/', "-");
    let name = name.strip_suffix("-quickgelu").unwrap_or(&name).to_string();
    MODELS.iter().filter(move |[known, ..]| known.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_open_clip_have_repositories() {
        let laion = Found::Repository("laion/CLIP-ViT-B-32-laion2B-s34B-b79K");
        for name in [
            "ViT-B-32:laion2b_s34b_b79k",
            "ViT-B-32:laion2b-s34b-b79k",
            "ViT-B/32:LAION2B_s34B_b79K",
            "ViT-B-32-quickgelu:laion2b_s34b_b79k",
        ] {
            assert_eq!(find(name), laion, "{name}");
        }
        assert_eq!(find("RN50:openai"), Found::Repository("timm/resnet50_clip.openai"));
        let Found::UnknownTag(tags) = find("RN50:laion") else { panic!("a tag") };
        assert_eq!(tags, ["openai", "yfcc15m", "cc12m"]);
        for other in ["ViT-B-32", "C:models", "hf-hub:a/b", "EVA02-B-16:merged2b_s8b_b131k", ""] {
            assert_eq!(find(other), Found::Nothing, "{other}");
        }
    }

    #[test]
    fn entries_are_unique_and_are_names_of_the_hub() {
        for (index, [architecture, tag, repository]) in MODELS.iter().enumerate() {
            let equal = |other: &&[&str; 3]| other[0] == *architecture && other[1] == *tag;
            assert!(!MODELS[..index].iter().any(|other| equal(&other)), "{architecture}:{tag}");
            let name = format!("hf-hub:{repository}").parse::<data_pipeline::hub::ModelName>().unwrap();
            assert_eq!(name.repo(), *repository);
            assert_eq!(*tag, tag.to_ascii_lowercase().replace('-', "_"));
        }
    }
}
