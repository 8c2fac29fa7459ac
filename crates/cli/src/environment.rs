//! Environment variables that the program sets for itself: how long OpenMP's threads spin while they wait for work, and
//! how the C library's allocator keeps memory.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Environment variable for the number of iterations that a waiting thread of GNU OpenMP spins before it sleeps.
pub(crate) const SPIN: &str = "GOMP_SPINCOUNT";

/// Variables with a common purpose.
struct Group {
    /// Variables that take precedence: if the user sets one of them, the program does not set the group.
    choices: &'static [&'static str],
    settings: &'static [(&'static str, &'static str)],
}

const GROUPS: [Group; 2] = [
    // By default, GNU OpenMP's threads spin for 300,000 iterations. This takes the cores from other programs and, on a
    // busy machine, from the training itself. On an idle machine, a shorter spin has no measurable cost
    // (docs/performance.md).
    Group { choices: &[SPIN, "OMP_WAIT_POLICY", "KMP_BLOCKTIME"], settings: &[(SPIN, "20000")] },
    // Each training step allocates its activations. By default, the C library returns large blocks to the kernel after
    // their use, and the kernel clears them again for the next step. These settings keep the memory, in huge pages if
    // the kernel grants them on request.
    Group {
        choices: &["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"],
        settings: &[
            ("THP_MEM_ALLOC_ENABLE", "1"),
            ("MALLOC_MMAP_MAX_", "0"),
            ("MALLOC_TRIM_THRESHOLD_", "8589934592"),
            ("MALLOC_TOP_PAD_", "268435456"),
        ],
    },
];

/// Restarts the program with the missing settings, unless all are set or the user chose others.
///
/// OpenMP and the C library read their settings before `main`, so they must be in the environment when the process
/// starts. The process keeps its id, arguments and open files.
pub(crate) fn set_up() {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let settings = missing(is_set);
    if !cfg!(target_os = "linux") || settings.is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    if is_loader(&program) {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new(&program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).envs(settings).exec();
    // Without the restart, the program is slower but works.
    tracing::debug!("cannot restart `{}` with other settings: {error}", program.display());
}

/// Returns the settings of the groups that the user has not configured.
fn missing(is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let open = GROUPS.iter().filter(|group| !group.choices.iter().any(|name| is_set(name)));
    open.flat_map(|group| group.settings).copied().collect()
}

/// Whether the program was started through the dynamic loader (`ld-linux-x86-64.so.2 clip-distill …`). On a restart,
/// the loader would interpret the program's arguments.
fn is_loader(program: &Path) -> bool {
    program.file_name().map(OsStr::as_encoded_bytes).is_some_and(|name| name.starts_with(b"ld-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_not_restarted() {
        assert!(is_loader(Path::new("/lib64/ld-linux-x86-64.so.2")));
        assert!(!is_loader(Path::new("/usr/bin/clip-distill")));
    }

    #[test]
    fn a_user_setting_disables_its_group_and_a_restart_is_not_repeated() {
        let names =
            |is_set: &dyn Fn(&str) -> bool| missing(is_set).iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let all = names(&|_| false);
        assert_eq!(all.len(), 5);
        assert_eq!(names(&|name| name == "OMP_WAIT_POLICY"), all[1..]);
        assert_eq!(names(&|name| name == "MALLOC_TOP_PAD_"), [SPIN]);
        // After the restart, all settings are in the environment.
        assert!(names(&|name| all.contains(&name)).is_empty());
    }
}
