//! Checks output paths before a command starts work, so that no work is lost and no unrelated file is replaced.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use file_ext::write_target;

use crate::args::Format;

/// Checks an output file: its folder exists and is writable, and an existing file is replaced only with `force`.
pub(crate) fn file(path: &Path, force: bool) -> anyhow::Result<()> {
    let shown = path.display();
    if path.is_dir()
        || path.file_name().is_none()
        || path.to_string_lossy().ends_with(std::path::is_separator)
    {
        bail!("the output `{shown}` is a folder: pass the path of a file");
    }
    let target = write_target(path)?;
    let folder = parent(&target);
    if !folder.is_dir() {
        bail!(
            "cannot write `{shown}`: the folder `{}` does not exist; create it, or choose another path",
            folder.display()
        );
    }
    if target.exists() && !force {
        bail!("`{shown}` already exists: choose another file, or replace it with --force");
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
            "the output `{}` is part of the input `{}` and would replace it: choose another file",
            path.display(),
            input.display()
        ),
        None => Ok(()),
    }
}

/// Checks an output folder: it is writable, or can be created.
pub(crate) fn folder(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let mut ancestor = path.to_path_buf();
    loop {
        match fs::metadata(&ancestor) {
            Ok(found) if found.is_dir() => return writable(&ancestor),
            Ok(_) => bail!(
                "cannot write to `{shown}`: `{}` is not a folder; choose another output folder",
                ancestor.display()
            ),
            Err(_) if fs::read_link(&ancestor).is_ok() => bail!(
                "cannot write to `{shown}`: `{}` is a broken link; choose another output folder",
                ancestor.display()
            ),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                ancestor = parent(&ancestor);
            }
            Err(e) => return Err(e).with_context(|| format!("cannot access `{}`", ancestor.display())),
        }
    }
}

/// Checks the output folder of a store, like [`folder`]. Existing shards must belong to a store.
pub(crate) fn store(path: &Path) -> anyhow::Result<()> {
    let is_shard = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("shard-");
    let has_manifest = path.join(data_pipeline::store::MANIFEST_FILE).exists();
    if !has_manifest && fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_shard)) {
        bail!(
            "`{}` contains files named shard-* but no {}, so it is not a store: choose another folder",
            path.display(),
            data_pipeline::store::MANIFEST_FILE
        );
    }
    folder(path)
}

/// Checks the output folder of a model, like [`folder`]. It must be new or empty; with `force` it may also hold a model
/// of the same format.
pub(crate) fn model_folder(path: &Path, format: Format, force: bool) -> anyhow::Result<()> {
    let shown = path.display();
    let full = path.is_dir() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if full && !force {
        bail!("`{shown}` is not empty: choose another folder, or replace the model in it with --force");
    }
    if full {
        let open_clip = path.join(clip_model::folder::CONFIG_FILE).is_file();
        // Many programs use this file name. The file of a model states the model's type.
        let text = fs::read_to_string(path.join("config.json")).unwrap_or_default();
        let face = text.contains("\"model_type\"");
        let (same_format, other_format) =
            if format == Format::OpenClip { (open_clip, face) } else { (face, open_clip) };
        if other_format {
            bail!(
                "`{shown}` contains a model in another format, which --force does not replace: choose another folder"
            );
        }
        if !same_format {
            bail!(
                "`{shown}` contains files but no model, and --force replaces only models: choose another folder"
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

/// Checks that a folder is writable by creating a file. Permission bits do not suffice: they do not apply to every
/// user, and a file system may be read-only.
fn writable(folder: &Path) -> anyhow::Result<()> {
    let probe = folder.join(format!(".clip-distill-{}", std::process::id()));
    File::create_new(&probe).and_then(|_| fs::remove_file(&probe)).with_context(|| {
        format!("the folder `{}` is not writable: choose another output path", folder.display())
    })
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
    fn an_existing_file_needs_force_and_a_missing_folder_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        file(&at("new"), false).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "a check must leave no file");
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
    fn a_folder_must_be_writable_or_creatable() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        folder(&at("a/b")).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "a check must leave no file");
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("a/b", at("good")).unwrap();
        folder(&at("a/b")).unwrap();
        folder(&at("good")).unwrap();
        folder(Path::new("a-folder-below-the-current-one")).unwrap();
        fs::write(at("file"), "").unwrap();
        refused(folder(&at("file")), "is not a folder");
        refused(folder(&at("file/below/more")), "is not a folder");
        symlink("nowhere", at("link")).unwrap();
        refused(folder(&at("link/below")), "broken link");
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
    fn a_store_is_new_or_resumes() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("notes.txt"), "").unwrap();
        store(temp.path()).unwrap();
        fs::write(temp.path().join("shard-00000.safetensors"), "").unwrap();
        refused(store(temp.path()), "not a store");
        fs::write(temp.path().join("store.json"), "").unwrap();
        store(temp.path()).unwrap();
    }

    #[test]
    fn force_replaces_only_models_of_the_same_format() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for (name, config, text) in
            [("clip", "open_clip_config.json", "{}"), ("face", "config.json", r#"{"model_type": "clip"}"#)]
        {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join(config), text).unwrap();
        }
        fs::create_dir(at("theme")).unwrap();
        fs::write(at("theme/config.json"), r#"{"theme": "dark"}"#).unwrap();
        fs::create_dir(at("empty")).unwrap();
        for (format, same, other) in
            [(Format::OpenClip, "clip", "face"), (Format::HuggingFace, "face", "clip")]
        {
            model_folder(&at("empty"), format, false).unwrap();
            refused(model_folder(&at(same), format, false), "--force");
            model_folder(&at(same), format, true).unwrap();
            refused(model_folder(&at(other), format, true), "another format");
            refused(model_folder(&at("theme"), format, true), "no model");
        }
    }
}
