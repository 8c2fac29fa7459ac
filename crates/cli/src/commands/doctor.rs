//! `clip-distill doctor`.

use std::time::Instant;

use data_pipeline::tokenizer::{ClipTokenizer, Tokenizer};
use tch::{Cuda, Device, Kind, Tensor};

use crate::exit::Code;
use crate::output;

/// Side of the matrices whose product is timed.
const SIDE: i64 = 1024;

pub(crate) fn run() -> anyhow::Result<Code> {
    let a = Tensor::f_rand([SIDE, SIDE], (Kind::Float, Device::Cpu))?;
    let _ = a.f_matmul(&a)?;
    let start = Instant::now();
    let product = a.f_matmul(&a)?;
    let seconds = start.elapsed().as_secs_f64();
    let finite = product.f_isfinite()?.f_all()?.int64_value(&[]) == 1;
    let mut ids = [0; 4];
    ClipTokenizer::new().encode_into("a cat", &mut ids);
    let cuda = match Cuda::device_count() {
        0 => "none visible (this build runs on the CPU; a libtorch with CUDA is set up by `cargo xtask setup --cuda`)".into(),
        count => format!("{count} devices, cuDNN {}", if Cuda::cudnn_is_available() { "yes" } else { "no" }),
    };
    let lines = [
        ("program", format!("clip-distill {}, {}", env!("CARGO_PKG_VERSION"), env!("CLIP_DISTILL_COMMIT"))),
        ("machine", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("cores", std::thread::available_parallelism().map_or(0, |n| n.get()).to_string()),
        ("threads of libtorch", tch::get_num_threads().to_string()),
        (
            "libtorch",
            format!(
                "computes {:.0} GFLOP/s in a matrix product{}",
                2e-9 * (SIDE as f64).powi(3) / seconds,
                if finite { "" } else { ", WRONGLY" }
            ),
        ),
        ("CUDA", cuda),
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
