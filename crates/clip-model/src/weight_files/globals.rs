//! Globals (classes and functions) that a pickle may name: those that build tensors and plain containers, and some
//! that are kept as names only. All others are refused by name; nothing is ever imported.

use tch::Kind;

/// A known class or function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Global {
    /// A dictionary class.
    Dict,
    /// A list or set class.
    List,
    /// `tuple` and `torch.Size`.
    Tuple,
    /// `torch._utils._rebuild_tensor` and `_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, which states the element type.
    RebuildTensorV3,
    /// A function that returns its first argument: `torch._utils._rebuild_parameter` and TorchScript's lists.
    First,
    /// `torch._tensor._rebuild_from_type_v2`, which calls its first argument with its third.
    RebuildFromType,
    /// A typed storage.
    Storage(Kind),
    /// `torch.storage.UntypedStorage`.
    UntypedStorage,
    /// `torch.float32` and the like.
    Dtype(Kind),
    /// A class whose instances are inert: their attributes are kept, and no code runs.
    Object,
    /// A name that may occur in arguments but cannot be called.
    Name,
}

/// Looks up the global with a module and name.
pub(crate) fn lookup(module: &str, name: &str) -> Option<Global> {
    // TorchScript's own classes. A module object consists of its attributes.
    if module == "__torch__" || module.starts_with("__torch__.") {
        return Some(Global::Object);
    }
    Some(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Global::Dict,
        ("builtins" | "__builtin__", "dict") => Global::Dict,
        ("builtins" | "__builtin__", "set" | "frozenset" | "list") => Global::List,
        ("builtins" | "__builtin__", "tuple") | ("torch", "Size") => Global::Tuple,
        ("builtins" | "__builtin__", "int" | "float" | "bool" | "str" | "bytes" | "object") => Global::Name,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::First,
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch.nn.parameter", "Parameter") | ("torch", "Tensor") => Global::Name,
        (
            "torch.jit._pickle",
            "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist" | "restore_type_tag",
        ) => Global::First,
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Global::UntypedStorage,
        ("torch" | "torch.cuda", storage) if storage.ends_with("Storage") => {
            Global::Storage(storage_kind(storage)?)
        }
        ("torch", dtype) if dtype_kind(dtype).is_some() => Global::Dtype(dtype_kind(dtype)?),
        // Objects that training scripts store beside the weights.
        ("argparse", "Namespace")
        | ("torch", "device")
        | ("torch.torch_version", "TorchVersion")
        | ("copy_reg" | "copyreg", "_reconstructor")
        | ("pathlib", "Path" | "PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct" | "scalar")
        | ("numpy", "dtype" | "ndarray")
        | ("_codecs", "encode") => Global::Object,
        _ => return None,
    })
}

fn storage_kind(name: &str) -> Option<Kind> {
    Some(match name {
        "DoubleStorage" => Kind::Double,
        "FloatStorage" => Kind::Float,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

fn dtype_kind(name: &str) -> Option<Kind> {
    Some(match name {
        "float64" | "double" => Kind::Double,
        "float32" | "float" => Kind::Float,
        "float16" | "half" => Kind::Half,
        "bfloat16" => Kind::BFloat16,
        "int64" | "long" => Kind::Int64,
        "int32" | "int" => Kind::Int,
        "int16" | "short" => Kind::Int16,
        "int8" => Kind::Int8,
        "uint8" => Kind::Uint8,
        "bool" => Kind::Bool,
        _ => return None,
    })
}
