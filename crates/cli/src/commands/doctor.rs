//! `clip-distill doctor`.

use std::time::{Duration, Instant};

use data_pipeline::tokenizer::{ClipTokenizer, Tokenizer};
use tch::{Cuda, Device, Kind, Tensor};

use crate::exit::Code;
use crate::{busy, output, spin};

/// Side of the matrices whose product is timed.
const SIDE: i64 = 1024;
/// How long to observe the other programs.
const WATCH: Duration = Duration::from_millis(300);
/// Number of cores that other programs use above which the machine counts as busy.
const BUSY: f64 = 0.5;

pub(crate) fn run() -> anyhow::Result<Code> {
    // Measure before this program computes anything itself.
    let in_use = busy::cores_in_use(WATCH);
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
        ("load", load(in_use)),
        ("threads of libtorch", format!("{}, {}", tch::get_num_threads(), waiting())),
        (
            "libtorch",
            format!(
                "computes {:.0} GFLOP/s in a matrix product{}",
                2e-9 * (SIDE as f64).powi(3) / seconds,
                if finite { "" } else { ", WRONGLY" }
            ),
        ),
        ("CUDA", cuda()),
        (
            "tokenizer",
            if ids == [49406, 320, 2368, 49407] {
                "as it should be".into()
            } else {
                format!("WRONG: {ids:?}")
            },
        ),
    ];
    output::text(lines.iter().map(|(name, value)| format!("{name:<20} {value}\n")).collect::<String>())?;
    let good = finite && ids == [49406, 320, 2368, 49407];
    Ok(if good { Code::Done } else { Code::Failed })
}

/// Number of cores that other programs use, and its consequence.
fn load(in_use: Option<f64>) -> String {
    match in_use {
        None => "unknown on this system".into(),
        Some(cores) if cores > BUSY => format!(
            "other programs use {cores:.1} cores: the machine is BUSY, so training and the speed below are slower than on an idle one"
        ),
        Some(cores) => format!("other programs use {cores:.1} cores"),
    }
}

/// How libtorch's threads wait for work.
fn waiting() -> String {
    let choice = [spin::VARIABLE, "OMP_WAIT_POLICY"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().map(|value| format!("{name}={value}")));
    choice.unwrap_or_else(|| "the system's OpenMP decides how they wait".into())
}

/// Whether the CUDA half of libtorch was loaded, and the visible devices or why none is visible.
fn cuda() -> String {
    let library = torch_ext::cuda::load();
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    match torch_ext::cuda::explain(count) {
        Some(cause) => format!("no device: {cause}"),
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
    fn a_busy_machine_is_said() {
        assert!(load(Some(1.9)).contains("BUSY") && load(Some(1.9)).contains("1.9 cores"));
        assert!(!load(Some(0.1)).contains("BUSY"));
    }
}
