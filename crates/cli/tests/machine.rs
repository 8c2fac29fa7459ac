//! What the program makes of the machine: threads that wait, CUDA's libraries, and what `doctor` says of both.

mod common;

use std::process::Command;

use common::{Place, failed, text};

/// `doctor` under an environment of its own; what the caller has chosen for OpenMP is taken away first.
fn doctor(choices: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clip-distill"));
    for name in ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"] {
        command.env_remove(name);
    }
    let output = command.arg("doctor").envs(choices.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
#[cfg(target_os = "linux")]
fn threads_spin_shortly_unless_the_user_chooses() {
    assert!(doctor(&[]).contains("GOMP_SPINCOUNT=20000"));
    assert!(doctor(&[("GOMP_SPINCOUNT", "7")]).contains("GOMP_SPINCOUNT=7"));
    let passive = doctor(&[("OMP_WAIT_POLICY", "PASSIVE")]);
    assert!(passive.contains("OMP_WAIT_POLICY=PASSIVE") && !passive.contains("GOMP_SPINCOUNT"), "{passive}");
}

#[test]
fn doctor_says_what_the_machine_can_do() {
    let said = doctor(&[]);
    for line in ["program", "cores", "load", "threads of libtorch", "libtorch", "CUDA", "tokenizer"] {
        assert!(said.lines().any(|own| own.starts_with(line)), "{line}: {said}");
    }
    assert!(said.contains("GFLOP/s") && said.contains("as it should be"), "{said}");
}

#[test]
fn a_device_that_is_not_visible_is_refused_with_the_cause() {
    let place = Place::new();
    let recipe = place.recipe("");
    let out = place.name("out");
    let refused = failed(&["train", &recipe, "--out", &out, "--set", "train.device=cuda:77"]);
    assert!(refused.contains("`cuda:77` is not available"), "{refused}");
    // Without a GPU the cause is a library or the driver, with it the number of devices.
    assert!(
        ["setup --cuda", "driver", "devices are visible"].iter().any(|cause| refused.contains(cause)),
        "{refused}"
    );
    assert!(!place.path("out").exists());
}
