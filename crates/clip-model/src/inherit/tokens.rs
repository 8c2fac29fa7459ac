//! Inheritance of the token embeddings only, between text towers of any depth, heads and width.

use tch::{Kind, Tensor};

use super::{check_not_larger, refusal};
use crate::weight_files::layout::with_text_prefix;
use crate::{Clip, ClipConfig, Result};

const TABLES: [&str; 2] = ["token_embedding.weight", "positional_embedding"];

/// Initialises the student's token embeddings `[vocab, width]` and positional embeddings `[context, width]` with
/// those of `teacher`. All other weights stay.
///
/// If the widths are equal, the tables are copied. A narrower student takes the projections onto the leading right
/// singular vectors of the teacher's token table, without centring. Of all tables of that width, this one best
/// preserves the inner products of the words (Eckart and Young 1936). A shorter context length takes the leading
/// positions.
///
/// # Errors
/// The errors of [`check`]. The student is then unchanged.
pub fn token_embeddings(student: &Clip, teacher: &Clip) -> Result<()> {
    check(student.config(), teacher.config())?;
    let theirs = teacher.params().iter().map(|p| (p.name.clone(), p.tensor.detach())).collect();
    let custom = student.config().custom_text;
    let theirs = with_text_prefix(theirs, custom);
    let full_name = |name: &str| if custom { format!("text.{name}") } else { name.to_string() };
    let (width, context) = (student.config().text_cfg.width, student.config().text_cfg.context_length);
    let teacher_table = |table: &str| {
        let name = full_name(table);
        let value = theirs.get(&name).ok_or_else(|| refusal(format!("the larger model has no `{name}`")))?;
        Ok::<_, crate::Error>(value.to_kind(Kind::Double))
    };
    let [tokens, positions] = [teacher_table(TABLES[0])?, teacher_table(TABLES[1])?.f_narrow(0, 0, context)?];
    let axes = leading_axes(&tokens, width)?; // [teacher's width, width]
    for (table, value) in TABLES.iter().zip([tokens, positions]) {
        let value = axes.as_ref().map_or(Ok(value.shallow_clone()), |axes| value.f_matmul(axes))?;
        let target = student
            .params()
            .get(&full_name(table))
            .ok_or_else(|| refusal(format!("the student has no `{table}`")))?;
        tch::no_grad(|| target.shallow_clone().f_copy_(&value))?;
    }
    Ok(())
}

/// Checks that a student can inherit the token embeddings of a teacher.
///
/// # Errors
/// [`crate::Error::Incompatible`] if the vocabulary sizes differ, or if the student's text width or context length is
/// larger.
pub fn check(student: &ClipConfig, teacher: &ClipConfig) -> Result<()> {
    let (student, teacher) = (&student.text_cfg, &teacher.text_cfg);
    check_not_larger("text width", student.width, teacher.width)?;
    check_not_larger("text context_length", student.context_length, teacher.context_length)?;
    if student.vocab_size != teacher.vocab_size {
        return Err(refusal(format!(
            "vocab_size has to be equal, but is {} in the student and {} in the larger model",
            student.vocab_size, teacher.vocab_size
        )));
    }
    Ok(())
}

/// Returns the leading right singular vectors of a table `[rows, columns]` as `[columns, width]`; `None` if the
/// widths are equal, since the vectors would only rotate the table.
fn leading_axes(table: &Tensor, width: i64) -> Result<Option<Tensor>> {
    let columns = table.size()[1];
    if width == columns {
        return Ok(None);
    }
    // Decomposes the small square matrix of the columns instead of the tall table.
    let (_, vectors) = table.f_tr()?.f_matmul(table)?.f_linalg_eigh("L")?;
    // Eigenvalues are in ascending order.
    Ok(Some(vectors.f_narrow(1, columns - width, width)?.f_flip([1])?))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn model(width: i64, context: i64, custom: bool, seed: u64) -> Clip {
        let vision = r#"{"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 16}"#;
        let json = format!(
            r#"{{"embed_dim": 4, "custom_text": {custom}, "vision_cfg": {vision},
                "text_cfg": {{"layers": 1, "width": {width}, "heads": 1, "vocab_size": 40, "context_length": {context}}}}}"#
        );
        Clip::new(&ClipConfig::from_json("test", &json).unwrap(), Device::Cpu, seed).unwrap()
    }

    fn table(clip: &Clip, name: &str) -> Tensor {
        let find = |name: &str| clip.params().get(name);
        find(name).or_else(|| find(&format!("text.{name}"))).unwrap().detach().to_kind(Kind::Double)
    }

    fn gram(table: &Tensor) -> Tensor {
        table.matmul(&table.tr())
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).square().sum(Kind::Double).sqrt().double_value(&[])
    }

    #[test]
    fn tables_of_equal_width_are_copied() {
        for custom in [false, true] {
            let (student, teacher) = (model(8, 6, custom, 1), model(8, 9, !custom, 2));
            let block = "transformer.resblocks.0.attn.in_proj_weight";
            let before = table(&student, block);
            token_embeddings(&student, &teacher).unwrap();
            assert!(table(&student, TABLES[0]).equal(&table(&teacher, TABLES[0])), "{custom}");
            assert!(
                table(&student, TABLES[1]).equal(&table(&teacher, TABLES[1]).narrow(0, 0, 6)),
                "{custom}"
            );
            assert!(table(&student, block).equal(&before));
        }
    }

    /// The lost inner products are the singular values without a counterpart, and no other choice loses less.
    #[test]
    fn a_narrower_table_best_preserves_inner_products() {
        let (student, teacher) = (model(5, 6, false, 1), model(8, 6, false, 2));
        token_embeddings(&student, &teacher).unwrap();
        let (inherited, original) = (table(&student, TABLES[0]), table(&teacher, TABLES[0]));
        let (_, values, _) = original.svd(true, true);
        let lost = values.narrow(0, 5, 3).pow_tensor_scalar(4).sum(Kind::Double).sqrt().double_value(&[]);
        let found = distance(&gram(&inherited), &gram(&original));
        assert!((found - lost).abs() < 1e-5 * lost, "{found}, {lost}");
        assert!(distance(&gram(&original.narrow(1, 0, 5)), &gram(&original)) > 1.05 * lost);
        // Positions use the same axes as the words, so the inner products of both are preserved too.
        let products = |clip: &Clip| table(clip, TABLES[0]).matmul(&table(clip, TABLES[1]).tr());
        let (_, _, axes) = original.svd(true, true);
        let kept = axes.narrow(1, 0, 5).matmul(&axes.narrow(1, 0, 5).tr());
        let expected = original.matmul(&kept).matmul(&table(&teacher, TABLES[1]).tr());
        assert!(distance(&products(&student), &expected) < 1e-6);
    }

    #[test]
    fn refusals_leave_the_student_unchanged() {
        let refusal = |student: &Clip, teacher: &Clip| {
            let before = table(student, TABLES[0]);
            let error = token_embeddings(student, teacher).unwrap_err().to_string();
            assert!(table(student, TABLES[0]).equal(&before));
            error
        };
        let teacher = model(8, 6, false, 2);
        assert!(refusal(&model(16, 6, false, 1), &teacher).contains("text width is 16"));
        assert!(refusal(&model(8, 7, false, 1), &teacher).contains("context_length is 7"));
        let json = r#"{"embed_dim": 4, "vision_cfg": {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 16},
            "text_cfg": {"layers": 1, "width": 8, "heads": 1, "vocab_size": 41, "context_length": 6}}"#;
        let other = Clip::new(&ClipConfig::from_json("test", json).unwrap(), Device::Cpu, 1).unwrap();
        assert!(refusal(&other, &teacher).contains("vocab_size has to be equal, but is 41"));
    }
}
