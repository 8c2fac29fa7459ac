//! Opening comments of recipes, which hold their launch command.

use std::path::Path;

/// The default recipe, whose launch command needs no path.
const QUICKSTART: &str = "configs/recipes/quickstart.toml";

pub(super) fn check(file: &Path, text: &str) -> Option<String> {
    if !file.starts_with("configs") {
        return None;
    }
    let name = file.display().to_string();
    let mut comment = text.lines().take_while(|line| line.starts_with('#')).peekable();
    if comment.peek().is_none() {
        return Some(format!(
            "{name}: has no comment at its start (launch command, hardware, time, expected score)"
        ));
    }
    if !file.starts_with("configs/recipes") {
        return None;
    }
    // Requires the file's own path, which detects copied comments.
    let is_launch = |line: &str| {
        let line = line.trim_start_matches('#').trim();
        let words =
            ["cargo xtask train", "clip-distill train"].iter().find_map(|start| line.strip_prefix(start));
        words.is_some_and(|words| name == QUICKSTART || words.split_whitespace().any(|word| word == name))
    };
    (!comment.any(is_launch)).then(|| {
        format!("{name}: the comment at its start has no launch command `clip-distill train {name}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "configs/recipes/a/b.toml";

    #[track_caller]
    fn check_text(file: &str, text: &str, is_fine: bool) {
        assert_eq!(check(Path::new(file), text).is_none(), is_fine, "{text}");
    }

    #[test]
    fn a_recipe_starts_with_its_launch_command() {
        check_text(FILE, &format!("# A.\n#\n#   clip-distill train {FILE} --set a=b\nname = \"a\""), true);
        check_text(FILE, &format!("# cargo xtask train --set a=b {FILE}\n"), true);
        check_text(QUICKSTART, "# A.\n#   cargo xtask train\n", true);
        check_text(FILE, "name = \"a\"", false);
        check_text(FILE, "# A.\nname = \"a\"", false);
        check_text(FILE, "# cargo xtask train\n", false);
        check_text(FILE, "# clip-distill train configs/recipes/a/other.toml\n", false);
        check_text(FILE, &format!("# A.\nname = \"a\"\n# clip-distill train {FILE}\n"), false);
    }

    #[test]
    fn other_configuration_files_need_only_a_comment() {
        check_text("configs/other.toml", "# A.\n", true);
        check_text("configs/other.toml", "a = 1", false);
        check_text("datasets/a.toml", "a = 1", true);
    }
}
