//! Checks of output paths before a command starts work, so that no work is lost and no unrelated file is replaced.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use file_ext::write_target;

use crate::args::Format;

/// Checks an output file: its folder exists and is writable, and an existing file is replaced only with `force`.
pub(crate) fn file(path: &Path, force: bool) -> anyhow::Result<()> {
    let shown = path.display();
    if path.file_name().is_none() || path.to_string_lossy().ends_with(std::path::is_separator) {
        bail!("`{shown}` names a folder: name a file");
    }
    let target = write_target(path)?;
    let folder = parent(&target);
    if !folder.is_dir() {
        bail!(
            "cannot write `{shown}`: the folder `{}` does not exist; create it first, or name another file",
            folder.display()
        );
    }
    if target.exists() && !force {
        bail!("`{shown}` exists already: name another file, or replace it with --force");
    }
    writable(&folder)
}

/// Checks that an output file is not one of the inputs, and does not lie in the folder of one.
pub(crate) fn not_an_input<'a>(
    path: &Path,
    mut inputs: impl Iterator<Item = &'a Path>,
) -> anyhow::Result<()> {
    // A file that does not exist yet replaces nothing.
    let Ok(target) = fs::canonicalize(path) else { return Ok(()) };
    match inputs.find(|input| fs::canonicalize(input).is_ok_and(|input| target.starts_with(input))) {
        Some(input) => bail!(
            "`{}` is part of the input `{}` and would be replaced: name another file",
            path.display(),
            input.display()
        ),
        None => Ok(()),
    }
}

/// Checks an output folder: it is writable, or can be created.
pub(crate) fn folder(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let mut place = path.to_path_buf();
    loop {
        match fs::metadata(&place) {
            Ok(found) if found.is_dir() => return writable(&place),
            Ok(_) => bail!("`{}` is not a folder: name a place other than `{shown}`", place.display()),
            Err(_) if fs::read_link(&place).is_ok() => {
                bail!("`{}` is a link to nothing: name a place other than `{shown}`", place.display())
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                place = parent(&place);
            }
            Err(e) => return Err(e).with_context(|| format!("cannot access `{}`", place.display())),
        }
    }
}

/// Checks the output folder of a store like [`folder`]. Existing shards must belong to a store.
pub(crate) fn store(path: &Path) -> anyhow::Result<()> {
    let is_shard = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("shard-");
    let begun = path.join(data_pipeline::store::MANIFEST_FILE).exists();
    if !begun && fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_shard)) {
        bail!("`{}` contains shards that are not of a store: name another folder", path.display());
    }
    folder(path)
}

/// Checks the output folder of a model like [`folder`]. It must be new or empty; with `force` it may also hold a model
/// of the same format.
pub(crate) fn model_folder(path: &Path, format: Format, force: bool) -> anyhow::Result<()> {
    let shown = path.display();
    let full = path.is_dir() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if full && !force {
        bail!("`{shown}` exists already: name another folder, or replace the model in it with --force");
    }
    if full {
        let open_clip = path.join(clip_model::folder::CONFIG_FILE).is_file();
        // Many programs use this file name. The file of a model states the model's type.
        let text = fs::read_to_string(path.join("config.json")).unwrap_or_default();
        let face = text.contains("\"model_type\"");
        let (same, other) = if format == Format::OpenClip { (open_clip, face) } else { (face, open_clip) };
        if other {
            bail!(
                "`{shown}` contains a model in another format, which --force does not replace: name another folder"
            );
        }
        if !same {
            bail!(
                "`{shown}` contains other files than a model's, which --force does not replace: name another folder"
            );
        }
    }
    folder(path)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// Permission bits are not enough: they do not apply to every user, and a file system may be read-only.
fn writable(folder: &Path) -> anyhow::Result<()> {
    let probe = folder.join(format!(".clip-distill-{}", std::process::id()));
    File::create_new(&probe)
        .and_then(|_| fs::remove_file(&probe))
        .with_context(|| format!("the folder `{}` is not writable: name another place", folder.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn refused(result: anyhow::Result<()>, reason: &str) {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn a_file_is_new_or_forced_and_its_folder_exists() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        file(&at("new"), false).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "a check leaves nothing");
        fs::write(at("old"), "old").unwrap();
        symlink("old", at("link")).unwrap();
        symlink("new", at("dangling")).unwrap();
        symlink("nowhere/new", at("lost")).unwrap();
        for name in ["old", "link"] {
            refused(file(&at(name), false), "--force");
            file(&at(name), true).unwrap();
        }
        file(&at("dangling"), false).unwrap();
        for name in ["lost", "missing/new"] {
            refused(file(&at(name), true), "does not exist");
        }
        refused(file(&at("old/new"), true), "old/new");
        refused(file(Path::new("/dev/full"), true), "regular file");
        for name in ["", ".", "..", "folder/"] {
            assert!(file(&at(name), true).is_err(), "{name}");
        }
    }

    #[test]
    fn a_folder_can_be_created_or_is_writable() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        folder(&at("a/b")).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "a check leaves nothing");
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("a/b", at("good")).unwrap();
        folder(&at("a/b")).unwrap();
        folder(&at("good")).unwrap();
        folder(Path::new("a-folder-below-the-current-one")).unwrap();
        fs::write(at("file"), "").unwrap();
        refused(folder(&at("file")), "is not a folder");
        refused(folder(&at("file/below/more")), "is not a folder");
        symlink("nowhere", at("link")).unwrap();
        refused(folder(&at("link/below")), "link to nothing");
        // The superuser can write into the second folder, but nobody can create a file in the first.
        if Path::new("/proc/self").is_dir() {
            refused(folder(Path::new("/proc/self")), "not writable");
            refused(folder(Path::new("/proc/self/below")), "not writable");
            refused(file(Path::new("/proc/self/file"), true), "not writable");
        }
        fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o555)).unwrap();
        if File::create(at("a/b/try")).is_err() {
            refused(folder(&at("a/b")), "not writable");
        }
    }

    #[test]
    fn a_store_is_new_or_goes_on() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("notes.txt"), "").unwrap();
        store(place.path()).unwrap();
        fs::write(place.path().join("shard-00000.safetensors"), "").unwrap();
        refused(store(place.path()), "not of a store");
        fs::write(place.path().join("store.json"), "").unwrap();
        store(place.path()).unwrap();
    }

    #[test]
    fn force_replaces_models_alone() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for (name, config, text) in
            [("clip", "open_clip_config.json", "{}"), ("face", "config.json", r#"{"model_type": "clip"}"#)]
        {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join(config), text).unwrap();
        }
        fs::create_dir(at("own")).unwrap();
        fs::write(at("own/config.json"), r#"{"theme": "dark"}"#).unwrap();
        fs::create_dir(at("empty")).unwrap();
        for (format, same, other) in
            [(Format::OpenClip, "clip", "face"), (Format::HuggingFace, "face", "clip")]
        {
            model_folder(&at("empty"), format, false).unwrap();
            refused(model_folder(&at(same), format, false), "--force");
            model_folder(&at(same), format, true).unwrap();
            refused(model_folder(&at(other), format, true), "another format");
            refused(model_folder(&at("own"), format, true), "other files");
        }
    }
}
