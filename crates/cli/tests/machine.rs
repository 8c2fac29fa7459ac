//! How the program uses the machine: waiting threads, CUDA's libraries, and the report of `doctor` on both.

use std::process::Command;

/// Runs `doctor` in its own environment, without the caller's OpenMP settings.
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
