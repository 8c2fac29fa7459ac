//! The program on this machine: the waiting mode of its threads, devices, and the reports of `doctor`, `self-check` and `bench`.

use std::process::Command;

use serde_json::Value;

use crate::common::{Place, clip_distill, done, failed, text};

/// Runs `doctor` with `choices` in its environment, instead of the caller's OpenMP settings.
fn doctor(choices: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clip-distill"));
    for name in ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"] {
        command.env_remove(name);
    }
    let output = command.arg("doctor").envs(choices.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn threads_spin_briefly_unless_the_environment_sets_the_waiting_mode() {
    assert!(doctor(&[]).contains("GOMP_SPINCOUNT=20000"));
    assert!(doctor(&[("GOMP_SPINCOUNT", "7")]).contains("GOMP_SPINCOUNT=7"));
    let passive = doctor(&[("OMP_WAIT_POLICY", "PASSIVE")]);
    assert!(passive.contains("OMP_WAIT_POLICY=PASSIVE") && !passive.contains("GOMP_SPINCOUNT"), "{passive}");
}

#[test]
fn doctor_reports_on_every_part_of_the_machine() {
    let said = doctor(&[]);
    for line in ["program", "cores", "load", "threads", "libtorch", "CUDA", "tokenizer"] {
        assert!(said.lines().any(|found| found.starts_with(line)), "{line}: {said}");
    }
    assert!(
        said.contains("GFLOP/s") && said.lines().any(|line| line == "tokenizer            correct"),
        "{said}"
    );
}

#[test]
fn doctor_does_not_ask_for_cuda_on_a_machine_without_it() {
    let has_driver = std::path::Path::new("/proc/driver/nvidia/version").exists();
    let said = doctor(&[]);
    let cuda = said.lines().find(|line| line.starts_with("CUDA")).unwrap();
    assert!(has_driver || !cuda.contains("needs lib"), "{cuda}");
}

#[test]
fn this_machine_agrees_with_the_reference_values() {
    let arguments = ["self-check", "--device", "cpu", "--precision", "fp32", "--json", "--verbose"];
    let output = clip_distill(&arguments);
    let (said, log) = (text(&output.stdout), text(&output.stderr));
    let found = serde_json::from_str::<Value>(&said).unwrap();
    assert_eq!(found["passed"], true, "{said}");
    // The log says how long the checks take, and has no line of the trainings in the check of resumed runs.
    assert!(log.lines().next().unwrap().contains("minute"), "{log}");
    assert!(!log.contains("step ") && !log.contains("resumed "), "{log}");
    let mut lines = log.lines().collect::<Vec<_>>();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), count, "{log}");
    let checks = found["report"]["checks"].as_array().unwrap();
    let names = checks.iter().map(|check| check["name"].as_str().unwrap()).collect::<Vec<_>>();
    for kind in ["tower ", "loss ", "training ", "resume"] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{kind}: {names:?}");
    }
    assert!(names.contains(&"loss patch-tokens (same width)"), "{names:?}");
    let underscore = names.iter().find(|name| name.starts_with("loss ") && name.contains('_'));
    assert_eq!(underscore, None);
    // A resumed run on a CPU is equal bit for bit.
    let resume = checks.iter().find(|check| check["name"] == "resume").unwrap();
    assert_eq!((resume["deviation"].as_f64(), resume["tolerance"].as_f64()), (Some(0.0), Some(0.0)));
}

#[test]
fn bench_measures_a_step_without_and_with_a_teacher() {
    let arguments = "bench --device cpu --preset ViT-pico-32px --teacher ViT-pico-32px --batch 2 --precision fp32 --steps 1";
    let arguments = arguments.split(' ').collect::<Vec<_>>();
    let said = done(&[&arguments[..], &["--json"]].concat());
    let found = serde_json::from_str::<Value>(&said).unwrap();
    assert_eq!(found["device"], "cpu");
    let cases = found["cases"].as_array().unwrap();
    assert_eq!(
        cases.iter().map(|case| case["teacher"].as_str()).collect::<Vec<_>>(),
        [None, Some("ViT-pico-32px")]
    );
    for case in cases {
        for key in ["step_seconds", "samples_per_second", "flops", "peak_flops"] {
            assert!(case[key].as_f64().unwrap() > 0.0, "{key}: {case}");
        }
        let rate = 2.0 / case["step_seconds"].as_f64().unwrap();
        assert!((case["samples_per_second"].as_f64().unwrap() / rate - 1.0).abs() < 1e-6);
        assert!(cfg!(not(target_os = "linux")) || case["memory"].as_u64().unwrap() > 1 << 20);
        assert!(case["error"].is_null());
    }
    let sizes = "bench --device cpu --preset ViT-pico-32px --batch 4 --micro-batch 2 --image-size 16,32 --no-teacher --steps 1";
    let said = done(&[&sizes.split(' ').collect::<Vec<_>>()[..], &["--json"]].concat());
    let found = serde_json::from_str::<Value>(&said).unwrap();
    let cases = found["cases"].as_array().unwrap();
    assert_eq!(
        cases.iter().map(|case| case["image_size"].as_i64()).collect::<Vec<_>>(),
        [Some(16), Some(32)]
    );
    assert!(cases.iter().all(|case| case["micro_batch"] == 2 && case["error"].is_null()), "{said}");
    assert!(failed(&["bench", "--device", "cpu", "--preset", "ViT-nothing"]).contains("ViT-nothing"));
    assert!(failed(&["bench", "--device", "cpu", "--batch", "0"]).contains("--batch"));
}

#[test]
fn every_command_refuses_a_device_that_is_not_visible_with_the_cause() {
    let place = Place::new();
    let (model, recipe) = (place.model(), place.recipe(""));
    let out = place.name("out");
    std::fs::write(place.path("texts.txt"), "a cat\n").unwrap();
    let texts = place.name("texts.txt");
    for arguments in [
        vec!["train", &recipe, "--out", &out],
        vec!["train", &recipe, "--dry-run"],
        vec!["evaluate", &model, "--data", "emoji"],
        vec!["embed", &model, "--texts", &texts, "--out", &out],
        vec!["classify", &model, "picture.png", "--labels", "a,b"],
        vec!["self-check"],
        vec!["bench"],
    ] {
        let error = failed(&[&arguments[..], &["--device", "cuda:77"]].concat());
        assert!(error.contains("the device `cuda:77` is not available: "), "{arguments:?}: {error}");
        assert!(!place.path("out").exists(), "{arguments:?}");
    }
}

#[test]
fn a_plan_names_the_device_and_its_precision() {
    let place = Place::new();
    let recipe = place.recipe("");
    let plan = done(&["train", &recipe, "--dry-run", "--device", "cpu"]);
    assert!(plan.contains("device      cpu, float32"), "{plan}");
}
