//! `clip-distill doctor`: a report on the machine and the build.

use std::time::{Duration, Instant};

use data_pipeline::tokenizer::{ClipTokenizer, Tokenizer};
use tch::{Cuda, Device, Kind, Tensor};

use crate::exit::Code;
use crate::{busy, environment, output};

/// Size of the square matrices whose product is timed.
const SIDE: i64 = 1024;
/// Duration of the measurement of other programs' load.
const WATCH: Duration = Duration::from_millis(300);
/// Number of cores in use by other programs above which the machine counts as busy.
const BUSY: f64 = 0.5;
/// Token ids of `a cat`.
const A_CAT: [i64; 4] = [49406, 320, 2368, 49407];

pub(crate) fn run() -> anyhow::Result<Code> {
    // Measure before this program computes anything itself.
    let cores_in_use = busy::cores_in_use(WATCH);
    let a = Tensor::f_rand([SIDE, SIDE], (Kind::Float, Device::Cpu))?;
    let _ = a.f_matmul(&a)?;
    let start = Instant::now();
    let product = a.f_matmul(&a)?;
    let seconds = start.elapsed().as_secs_f64();
    let finite = product.f_isfinite()?.f_all()?.int64_value(&[]) == 1;
    let mut ids = [0; 4];
    ClipTokenizer::new().encode_into("a cat", &mut ids);
    let lines = [
        ("program", format!("clip-distill {}, {}", env!("CARGO_PKG_VERSION"), env!("CLIP_DISTILL_COMMIT"))),
        ("machine", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("cores", std::thread::available_parallelism().map_or(0, |n| n.get()).to_string()),
        ("load", load(cores_in_use)),
        ("threads", format!("{}, {}", tch::get_num_threads(), waiting_mode())),
        (
            "libtorch",
            format!(
                "{:.0} GFLOP/s in a matrix product, linear layers use {}{}",
                2e-9 * (SIDE as f64).powi(3) / seconds,
                torch_ext::products::library(),
                if finite {
                    ""
                } else {
                    ", with a WRONG result: reinstall libtorch with `cargo xtask setup`"
                }
            ),
        ),
        ("CUDA", cuda()),
        (
            "tokenizer",
            if ids == A_CAT {
                "correct".into()
            } else {
                format!("WRONG: `a cat` gives {ids:?} instead of {A_CAT:?}")
            },
        ),
    ];
    output::text(lines.iter().map(|(name, value)| format!("{name:<20} {value}\n")).collect::<String>())?;
    Ok(if finite && ids == A_CAT { Code::Done } else { Code::Failed })
}

/// Describes the load of other programs.
fn load(cores_in_use: Option<f64>) -> String {
    match cores_in_use {
        None => "unknown on this system".into(),
        Some(cores) if cores > BUSY => format!(
            "BUSY: other programs use {cores:.1} cores, which slows down training and the measurement below"
        ),
        Some(cores) => format!("other programs use {cores:.1} cores"),
    }
}

/// Describes how libtorch's threads wait for work.
fn waiting_mode() -> String {
    let choice = [environment::SPIN, "OMP_WAIT_POLICY"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().map(|value| format!("{name}={value}")));
    choice.unwrap_or_else(|| "waiting mode set by the system's OpenMP".into())
}

/// Describes the CUDA library and the visible devices, or why no device is visible.
fn cuda() -> String {
    let library = torch_ext::cuda::load();
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    match torch_ext::cuda::explain(count) {
        Some(_) if torch_ext::cuda::is_for_cpus() => {
            "not needed: no NVIDIA driver on this machine, and libtorch is installed for the CPU".into()
        }
        Some(cause) => format!("no device visible: {cause}"),
        None => {
            let driver = torch_ext::cuda::driver_version().unwrap_or_else(|| "unknown".into());
            let cudnn = if Cuda::cudnn_is_available() { "yes" } else { "no" };
            format!("{count} devices, driver {driver}, cuDNN {cudnn}, {library}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_reported() {
        assert!(load(Some(1.9)).contains("BUSY") && load(Some(1.9)).contains("1.9 cores"));
        assert!(!load(Some(0.1)).contains("BUSY"));
    }
}
