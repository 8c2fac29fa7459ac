//! The program on this machine: the waiting mode of its threads, CUDA's libraries, and the report of `doctor`.

use std::process::Command;

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
