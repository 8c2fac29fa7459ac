//! Setups that are interrupted, killed, out of disk space or concurrent, with a script in place of pip.

use std::sync::Barrier;

use super::*;
use crate::setup::libtorch::parts;
use crate::testing::FakePython;

/// Unpacks half of the files; the rest depends on the mode.
const PIP: &str = r#"
[ "$*" = "-m pip --version" ] && exit 0
while [ $# -gt 0 ]; do [ "$1" = --target ] && target=$2; shift; done
echo start >> "$here/log"
echo "$TMPDIR" > "$here/tmpdir"
echo half > "$TMPDIR/wheel"
mkdir -p "$target"
[ "$(cat "$here/mode")" = orphan ] && echo half > "$target/half"
cp -R "$here/wheels/nvidia" "$target/"
mkdir -p "$target/torch/lib"
cp "$here/wheels/torch/version.py" "$target/torch/"
case $(cat "$here/mode") in
cut) exit 1 ;;
killed) kill -9 $$ ;;
orphan) kill -9 $PPID; while [ ! -e "$here/go" ]; do sleep 0.02; done; echo end >> "$here/log"; exit 1 ;;
slow) sleep 0.3 ;;
forgetful) exit 0 ;;
esac
cp -R "$here/wheels/torch" "$target/"
rm "$TMPDIR/wheel"
echo end >> "$here/log"
"#;

struct Place {
    pip: FakePython,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let pip = FakePython::new(PIP);
        let wheels = crate::testing::fake_wheels(VERSION);
        // The script copies this folder on all systems, even if it is empty.
        fs::create_dir_all(wheels.path().join("nvidia")).unwrap();
        fs::rename(wheels.keep(), pip.folder.path().join("wheels")).unwrap();
        Self { pip, folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn ensure(&self) -> Result<PathBuf> {
        self.ensure_with(|_| None)
    }

    fn ensure_with(&self, free: FreeKib) -> Result<PathBuf> {
        ensure(&self.pip.program, self.folder.path(), free)
    }

    /// Returns the names in the cache, without the lock.
    fn cached(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "setup.lock").collect()
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert_eq!(self.cached(), [format!("libtorch-{VERSION}-cpu")]);
        let folder = self.cache().join(&self.cached()[0]);
        check_wheels(&folder, Wheels::Cpu).unwrap();
        assert!(!folder.join("half").exists(), "files of an earlier attempt are among the wheels");
        check_version(&self.folder.path().join(".libtorch")).unwrap();
    }
}

fn ensure(python: &Path, folder: &Path, free: FreeKib) -> Result<PathBuf> {
    let (cache, link) = (folder.join("cache"), folder.join(".libtorch"));
    Installer { pythons: &["no-such-python".into(), python.into()], cache: &cache, link: &link, free }
        .ensure(false)
}

#[test]
fn a_second_setup_installs_nothing() {
    let place = Place::new();
    for _ in 0..2 {
        place.ensure().unwrap();
        place.assert_whole();
    }
    assert_eq!(place.pip.log(), ["start", "end"]);
}

#[test]
fn concurrent_setups_download_once() {
    let place = Place::new();
    place.pip.set_mode("slow");
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                barrier.wait();
                place.ensure().unwrap();
            });
        }
    });
    place.assert_whole();
    assert_eq!(place.pip.log(), ["start", "end"]);
}

#[test]
fn a_failed_pip_leaves_nothing_and_the_next_setup_succeeds() {
    // `forgetful` exits with success, but half of the files are missing.
    for mode in ["cut", "killed", "forgetful"] {
        let place = Place::new();
        place.pip.set_mode(mode);
        let error = format!("{:#}", place.ensure().unwrap_err());
        assert!(error.contains("could not be installed") && error.contains("cargo xtask setup"), "{error}");
        assert!(place.cached().is_empty(), "{mode} left {:?}", place.cached());
        assert!(!place.folder.path().join(".libtorch").exists());
        place.pip.set_mode("whole");
        place.ensure().unwrap();
        place.assert_whole();
    }
}

/// Does nothing, except in the process that the next test starts and kills.
#[test]
fn a_setup_in_another_process() {
    if let (Some(python), Some(folder)) = (std::env::var_os("FAKE_PYTHON"), std::env::var_os("FAKE_FOLDER")) {
        let _ = ensure(Path::new(&python), Path::new(&folder), |_| None);
    }
}

#[test]
fn files_of_a_killed_setup_are_removed_after_its_pip_has_ended() {
    let place = Place::new();
    place.pip.set_mode("orphan");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "setup::installer::tests::a_setup_in_another_process"])
        .env("FAKE_PYTHON", &place.pip.program)
        .env("FAKE_FOLDER", place.folder.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success(), "the script did not kill the setup");
    assert_eq!(place.cached(), [format!("libtorch-{VERSION}-cpu.partial")]);
    place.pip.set_mode("whole");
    std::thread::scope(|scope| {
        scope.spawn(|| place.ensure().unwrap());
        // Within this time, a setup that does not wait would fail; one that waits passes for any duration.
        std::thread::sleep(std::time::Duration::from_millis(300));
        fs::write(place.pip.folder.path().join("go"), "").unwrap();
    });
    assert_eq!(place.pip.log(), ["start", "end", "start", "end"]);
    place.assert_whole();
}

#[test]
fn too_little_disk_space_fails_before_the_download() {
    let place = Place::new();
    let error = place.ensure_with(|_| Some(1 << 20)).unwrap_err().to_string();
    assert!(error.contains("2048 MB") && error.contains("1024 MB free"), "{error}");
    assert!(error.contains("CLIP_DISTILL_CACHE"), "{error}");
    assert!(place.pip.log().is_empty() && place.cached().is_empty());
}

#[test]
fn pip_keeps_its_temporary_files_on_the_checked_disk() {
    let place = Place::new();
    // All other disks are full, as a small /tmp may be.
    place.ensure_with(|path| Some(if path.ends_with("cache") { 3 << 20 } else { 0 })).unwrap();
    let temporary = fs::read_to_string(place.pip.folder.path().join("tmpdir")).unwrap();
    assert!(Path::new(temporary.trim()).starts_with(place.cache()), "{temporary}");
    place.assert_whole();
}

#[test]
fn an_incomplete_installation_is_replaced() {
    let place = Place::new();
    place.ensure().unwrap();
    for part in parts(Wheels::Cpu) {
        fs::remove_file(place.cache().join(&place.cached()[0]).join(&part)).unwrap();
        place.ensure().unwrap();
        place.assert_whole();
    }
    assert_eq!(place.pip.log().len(), 2 * (1 + parts(Wheels::Cpu).len()));
}

#[test]
fn without_pip_the_error_names_the_remedy() {
    let place = Place::new();
    let error = ensure(Path::new("no-python-either"), place.folder.path(), |_| None).unwrap_err().to_string();
    assert!(error.contains("python3-pip") && error.contains("LIBTORCH"), "{error}");
}
