//! Compiles the C++ part against the headers of libtorch.

use std::path::Path;

/// Skips the C++ part, for lints and documentation, which link nothing.
const SKIP: &str = "TORCH_EXT_SKIP_CPP";

fn main() {
    println!("cargo:rerun-if-changed=src/cpp");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(onednn)");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let Some(libraries) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") else {
        panic!("torch-sys reports no folder of libtorch: run `cargo xtask setup`, or set LIBTORCH");
    };
    let include = Path::new(&libraries).join("../include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).warnings(false);
    build.include(include.join("torch/csrc/api/include")).include(include).file("src/cpp/all.cpp");
    // The wheels of other platforms do not export oneDNN's wrappers.
    if target("OS") == "linux" && target("ARCH") == "x86_64" {
        println!("cargo:rustc-cfg=onednn");
        build.define("TORCH_EXT_ONEDNN", None);
    }
    println!("cargo:rerun-if-env-changed={SKIP}");
    if std::env::var_os(SKIP).is_none() {
        build.compile("torch_ext");
    }
}
