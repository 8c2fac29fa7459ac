//! The shipped sweeps have a plan without their data, and the shipped suites parse.

use std::path::{Path, PathBuf};

use data_pipeline::SourceConfig;
use data_pipeline::hub::DatasetName;
use experiments::Sweep;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/sweeps");
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    files.sort();
    files
}

#[test]
fn every_shipped_sweep_has_a_plan() {
    let out = tempfile::tempdir().unwrap();
    let nowhere = ["data.root=nowhere".to_string()];
    let mut names = Vec::new();
    for path in files() {
        let sweep = Sweep::load(&path, &nowhere, out.path()).unwrap();
        assert_eq!(sweep.name, path.file_stem().unwrap().to_string_lossy());
        let mut students = std::collections::BTreeSet::new();
        for cell in sweep.runs() {
            let plan = sweep.plan(cell).unwrap_or_else(|e| panic!("{}: {e}", cell.label()));
            assert!(plan.steps > 0 && plan.flops > 0.0);
            if !sweep.shared.iter().any(|shared| shared.folder == cell.folder) {
                students.insert((plan.steps, plan.samples, plan.student.model));
            }
        }
        // A fair comparison: equal data, equal steps, equal student.
        assert_eq!(students.len(), 1, "{}: {students:?}", sweep.name);
        names.push(sweep.name);
    }
    for needed in ["clip-kd-cifar", "clip-rd", "structure-transfer", "tinyclip-vs-clip-kd"] {
        assert!(names.iter().any(|name| name == needed), "{needed}");
    }
}

#[test]
fn every_shipped_suite_parses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/suites");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let suite = trainer::eval::suite::Suite::read(&path).unwrap();
        assert_eq!(suite.name, path.file_stem().unwrap().to_string_lossy());
        suite.sets.iter().for_each(|set| set.templates.check().unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_suite_of_clip_benchmark_has_the_published_sets_and_metrics() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/suites/clip-benchmark.toml");
    let mut suite = trainer::eval::suite::Suite::read(&path).unwrap();
    // VTAB+ without VOC 2007 with several classes, and three sets of captions.
    assert_eq!(suite.sets.len(), 35 + 3);
    let mut repositories = std::collections::BTreeSet::new();
    let mut by_metric = std::collections::BTreeMap::<_, Vec<_>>::new();
    for set in &suite.sets {
        let SourceConfig::ClipBenchmark(config) = &set.source else { panic!("{}", set.name) };
        let name = config.path.parse::<DatasetName>().unwrap();
        assert!(name.repo().starts_with("clip-benchmark/wds_") && config.split == "test", "{}", set.name);
        assert!(repositories.insert(name.repo().to_string()), "{}", set.name);
        let metric = set.metric.map(|metric| metric.to_string()).unwrap_or_default();
        by_metric.entry(metric).or_default().push(set.name.as_str());
    }
    assert_eq!(by_metric["mean per-class recall"], ["Caltech101", "Flowers", "Pets", "FGVC Aircraft"]);
    assert_eq!(by_metric["image recall@5"], ["Flickr8k", "Flickr30k", "MSCOCO"]);
    assert_eq!(by_metric.len(), 3);
    suite.select(&["vtab/cifar100".into(), "eurosat".into(), "imagenet_v2".into()]).unwrap();
    let names = suite.sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["ImageNet-V2", "CIFAR100", "EuroSAT"]);
}

#[test]
fn sweeps_share_equal_cells() {
    let out = tempfile::tempdir().unwrap();
    let folders = |name: &str| {
        let path = files().into_iter().find(|path| path.file_stem().unwrap() == name).unwrap();
        let sweep = Sweep::load(&path, &[], out.path()).unwrap();
        let folders = sweep.runs().into_iter().map(|cell| cell.folder.clone());
        folders.collect::<std::collections::BTreeSet<_>>()
    };
    let (one, two) = (folders("clip-kd-cifar"), folders("structure-transfer"));
    // The teacher, and three seeds each of the undistilled student and of CLIP-KD.
    assert_eq!(one.intersection(&two).count(), 7);
    // The teacher, and three seeds of structure transfer, or of the task with FD.
    let parts = folders("structure-transfer-parts");
    assert_eq!((two.intersection(&parts).count(), one.intersection(&parts).count()), (4, 4));
}
